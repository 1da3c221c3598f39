"""The texts that events, Flower and logs show of a task: numbers, ids and words of ours, and nothing of a request.

Whoever publishes a task may write anything into its message, so nothing of it is shown as it is: the texts are made
here, and :func:`checked` recognises them again.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pacs_tasks.operations import HIDDEN, OPERATIONS

#: The task that finds out whether a job stands still.
_RESUME = "pacs_tasks.resume"
#: The task that posts an event, the id of such a delivery, and what comes of it.
_WEBHOOK = "pacs_tasks.webhook"
_DELIVERY = re.compile(r"evt_([0-9a-f]{32}):.*", re.DOTALL)
DELIVERED, TRIED_LATER, GIVEN_UP = "delivered", "tried later", "given up"
#: The command of each task of ours, by the name of the task.
_COMMANDS: Mapping[str, str] = MappingProxyType(
    {task: each.command for each in OPERATIONS.values() for task in (each.task, *each.steps)} | {_RESUME: "resume"}
)
#: What has been done with the items of each task that counts them.
_DONE: Mapping[str, str] = MappingProxyType(
    {task: each.done for each in OPERATIONS.values() for task in (each.task, *each.steps)}
)
#: Our ids and those of Celery. Other services may use any text as an id.
_ID = re.compile(r"[0-9a-f]{8}[0-9a-f-]{0,28}")
_SHORT = 8
#: Lines that a job may have; more is no number of a line.
_MOST_LINES = 10_000_000
#: The fields of a summary that are shown, each with its word.
_WORDS: Mapping[str, str] = MappingProxyType(
    {
        **{name: name for name in ("held", "committed", "matches", "completed", "received", "pending", "unknown")},
        **{name: name for name in ("failed", "missing", "skipped", "unreadable", "refused")},
        "remaining": "not begun",
        "present": "already there",
    }
)
_CATEGORIES = ("success", "warning", "partial", "failed", "cancelled")
_COUNT = rf"\d+ (?:{'|'.join(sorted({*_WORDS.values(), *_DONE.values()}))})"
_SHOWN = re.compile(
    rf"(?:{'|'.join(sorted(set(_COMMANDS.values()), key=len, reverse=True))}) [0-9a-f]{{8}}(?:, \d+-\d+)?"
    rf"|{{'job': '{_ID.pattern}'}}"
    r"|webhook [0-9a-f]{8}|{'event': 'evt_[0-9a-f]{32}'}"
    rf"|{DELIVERED}|{TRIED_LATER}|{GIVEN_UP}"
    rf"|(?:(?:{'|'.join(_CATEGORIES)}): )?{_COUNT}(?:, {_COUNT})*"
    rf"|{'|'.join(_CATEGORIES)}"
)


def shown_arguments(task: str, task_id: str, args: Sequence[Any]) -> tuple[str, str]:
    """Give what is shown instead of the arguments of a task: ``send-dir 3f2a9c1d, 1-50``, and its job.

    The id stands in the second text, whole, so that whoever searches for it finds the parts of the job. A webhook has
    the id of its event instead.

    Parameters
    ----------
    task, task_id
        The name of the task and its id, which is that of the job for a public task.
    args
        The arguments of a task of ours: the id of the job, and the range of a part.
    """
    if task == _WEBHOOK:
        return _shown_delivery(next(iter(args), None))
    command = _COMMANDS.get(task)
    job_id = task_id if task in OPERATIONS else next(iter(args), None)
    if command is None or not isinstance(job_id, str) or not _ID.fullmatch(job_id):
        return HIDDEN, HIDDEN
    text = f"{command} {job_id[:_SHORT]}"
    lines = args[1:3]
    if task.endswith("_part") and len(lines) == 2 and all(type(each) is int for each in lines):
        start, stop = lines
        if 0 <= start < stop <= _MOST_LINES:
            text += f", {start + 1}-{stop}"
    return text, f"{{'job': '{job_id}'}}"


def _shown_delivery(delivery_id: Any) -> tuple[str, str]:
    found = _DELIVERY.fullmatch(delivery_id) if isinstance(delivery_id, str) else None
    return (f"webhook {found[1][:_SHORT]}", f"{{'event': 'evt_{found[1]}'}}") if found else (HIDDEN, HIDDEN)


def shown_counts(task: str, counts: Mapping[str, Any]) -> str:
    """Give the counts of a part or of a job in words: ``48 sent, 2 failed``."""
    done = sum(_number(counts.get(name)) for name in ("success", "warning"))
    words = [f"{done} {_DONE.get(task, 'done')}"] if done else []
    words += [f"{number} {word}" for name, word in _WORDS.items() if (number := _number(counts.get(name)))]
    return ", ".join(words)


def shown_result(task: str, text: str) -> tuple[bool, str]:
    """Give what is shown of the value that a task returned, and whether it has done all.

    Parameters
    ----------
    text
        The representation of a summary, or of what :func:`shown_counts` gave for a part.
    """
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return True, HIDDEN
    if isinstance(value, dict) and value.get("category") in _CATEGORIES:
        category, counts = value["category"], shown_counts(task, value)
        shown = counts or category if category == "success" else f"{category}: {counts}".removesuffix(": ")
        return category in {"success", "warning"}, shown
    if isinstance(value, str):
        return value != GIVEN_UP and not re.search(r"\d (?:failed|missing)", value), checked(value)
    return True, "" if value is None else HIDDEN


def checked(text: Any) -> str:
    """Give a text that was made here as it is, and instead of any other what hides it."""
    return text if isinstance(text, str) and (not text or _SHOWN.fullmatch(text)) else HIDDEN


def job_of(text: Any) -> str:
    """Read the id of the job from the second text of :func:`shown_arguments`; empty if it is not one."""
    found = checked(text)
    return found[len("{'job': '") : -len("'}")] if found.startswith("{'job'") else ""


def _number(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0
