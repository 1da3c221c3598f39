"""The log lines of every process: as text or as JSON, each with the job, the part and the remote that it is about.

No line shows patient data: what is logged names ids, ranges, counts, statuses and remotes.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from pacs_tasks.privacy import plain

#: How log lines are written.
LogFormat = Literal["text", "json"]
#: What a thread works on: the values of ``job``, ``part`` and ``remote``.
_works_on = threading.local()


def work_on(what: dict[str, str]) -> None:
    """Have the lines of this thread name ``job``, ``part`` and ``remote`` until the next call.

    Threads that work on the same give the same object.
    """
    _works_on.what = what


def worked_on() -> dict[str, str]:
    """What :func:`work_on` was given in this thread."""
    return getattr(_works_on, "what", {})


def add_to_work(**what: str) -> None:
    """Add to what :func:`work_on` was given."""
    worked_on().update(what)


def work_of(job_id: str, args: Sequence[object]) -> dict[str, str]:
    """Name the job of a task for the log, and for a part the range of its files or rows, from 1, as Flower does."""
    match args:
        case [str(), int() as start, int() as stop, *_]:
            return {"job": str(job_id), "part": f"{start + 1}-{stop}"}
    return {"job": str(job_id)}


class _Record(logging.LogRecord):
    """A record whose text steers no terminal, and whose further lines are not mistaken for records.

    Attributes
    ----------
    work
        What its thread works on.
    about
        The same at the end of a line, or "".
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.work: Mapping[str, str] = dict(worked_on())
        named = ", ".join(f"{name} {plain(text)}" for name, text in self.work.items())
        self.about = f" [{named}]" if named else ""

    def getMessage(self) -> str:  # noqa: N802 - the name in the base class
        return "\n    ".join(map(plain, super().getMessage().split("\n")))


def log_plainly() -> None:
    """Have all records of this process show control characters as escapes, and know what they are about."""
    logging.setLogRecordFactory(_Record)


class JsonLines(logging.Formatter):
    """One JSON object a line: ``time`` (UTC), ``level``, ``logger``, ``process``, ``message``, and what it is about."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {"time": time, "level": record.levelname, "logger": record.name}
        line |= {"process": record.process, "message": record.getMessage(), **getattr(record, "work", {})}
        # Celery's lines about a task.
        data = getattr(record, "data", None)
        if isinstance(data, Mapping):
            line |= {name: str(data[each]) for name, each in (("task", "name"), ("task_id", "id")) if each in data}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def write_lines(kind: LogFormat, logger: logging.Logger | None = None) -> None:
    """Have the outputs of a logger, by default those of all, write JSON lines if ``kind`` says so."""
    for output in (logger or logging.getLogger()).handlers if kind == "json" else ():
        output.setFormatter(JsonLines())
