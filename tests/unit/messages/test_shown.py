"""What events and Flower show of a task: nothing that its publisher wrote."""

from __future__ import annotations

from typing import Any

import pytest

from pacs_tasks.messages.shown import checked, job_of, shown_arguments, shown_counts, shown_result
from pacs_tasks.operations import HIDDEN, OPERATIONS

JOB = "0123456789abcdef0123456789abcdef"
UUID = "01234567-89ab-cdef-0123-456789abcdef"


def test_a_part_names_its_job_and_range() -> None:
    shown, job = shown_arguments("pacs_tasks.store_part", UUID, [JOB, 0, 50, 2])
    assert (shown, job_of(job)) == ("send-dir 01234567, 1-50", JOB)


@pytest.mark.parametrize("task", OPERATIONS)
@pytest.mark.parametrize("task_id", [JOB, UUID])
def test_a_job_names_itself(task: str, task_id: str) -> None:
    """Whatever its arguments are."""
    shown, job = shown_arguments(task, task_id, [{"PatientName": "Doe"}])
    assert shown == f"{OPERATIONS[task].command} 01234567"
    assert job_of(job) == task_id
    assert checked(shown) == shown


@pytest.mark.parametrize(
    ("task", "task_id", "args"),
    [
        ("pacs_tasks.echo", "Doe^Jane", []),
        ("pacs_tasks.store_part", JOB, ["Doe^Jane", 0, 50]),
        ("pacs_tasks.store_part", JOB, []),
        ("their.task", JOB, [JOB]),
    ],
)
def test_anything_else_is_hidden(task: str, task_id: str, args: list[Any]) -> None:
    assert shown_arguments(task, task_id, args) == (HIDDEN, HIDDEN)


@pytest.mark.parametrize("args", [[JOB, "Doe", 50], [JOB, 0, 10**9], [JOB, 50, 0], [JOB, True, 5], [JOB, 1]])
def test_what_is_no_range_is_left_out(args: list[Any]) -> None:
    assert shown_arguments("pacs_tasks.store_part", UUID, args)[0] == "send-dir 01234567"


@pytest.mark.parametrize(
    "text", ["('Doe^Jane',)", "send-dir Doe", "48 doe", "{'PatientID': '1'}", "{'job': 'Doe'}", None, 7, "partial: Doe"]
)
def test_only_texts_that_were_made_here_are_shown(text: Any) -> None:
    assert checked(text) == HIDDEN
    assert job_of(text) == ""


@pytest.mark.parametrize(
    ("task", "value", "good", "shown"),
    [
        ("pacs_tasks.store_finish", {"category": "success", "success": 3, "seconds": 1.0}, True, "3 sent"),
        (
            "pacs_tasks.store_finish",
            {"category": "partial", "success": 1, "failed": 2},
            False,
            "partial: 1 sent, 2 failed",
        ),
        ("pacs_tasks.retrieve", {"category": "failed", "success": 0, "missing": 4}, False, "failed: 4 missing"),
        ("pacs_tasks.retrieve", {"category": "warning", "warning": 4}, True, "warning: 4 received"),
        ("pacs_tasks.echo", {"category": "success", "status": "0000"}, True, "success"),
        ("pacs_tasks.find", {"category": "cancelled", "matches": 0}, False, "cancelled"),
        ("pacs_tasks.store_part", "48 sent, 2 failed", False, "48 sent, 2 failed"),
        ("pacs_tasks.store_part", "50 sent", True, "50 sent"),
        ("pacs_tasks.store_part", "", True, ""),
        ("their.task", {"category": "Doe"}, True, HIDDEN),
        ("their.task", ["Doe"], True, HIDDEN),
        ("their.task", "Doe", True, HIDDEN),
        ("pacs_tasks.resume", None, True, ""),
        ("pacs_tasks.webhook", "delivered", True, "delivered"),
        ("pacs_tasks.webhook", "tried later", True, "tried later"),
        ("pacs_tasks.webhook", "given up", False, "given up"),
    ],
)
def test_a_result_is_told_in_numbers(task: str, value: Any, good: bool, shown: str) -> None:
    assert shown_result(task, repr(value)) == (good, shown)
    assert checked(shown) == shown


def test_a_delivery_has_the_id_of_its_event_and_not_the_name_of_its_webhook() -> None:
    """Whoever writes a message may choose that name."""
    event = f"evt_{JOB}"
    shown, found = shown_arguments("pacs_tasks.webhook", UUID, [f"{event}:Doe^Jane"])
    assert (shown, found, job_of(found)) == ("webhook 01234567", f"{{'event': '{event}'}}", "")
    assert (checked(shown), checked(found)) == (shown, found)
    for other in ("Doe^Jane", event, 7, f"evt_{JOB[1:]}:Doe"):
        assert shown_arguments("pacs_tasks.webhook", UUID, [other]) == (HIDDEN, HIDDEN)


def test_a_part_counts_what_it_did() -> None:
    assert (
        shown_counts("pacs_tasks.find_batch_part", {"success": 2, "failed": 1, "seconds": 3}) == "2 answered, 1 failed"
    )
    assert shown_result("pacs_tasks.store_part", "{'category': 'partial', 'total':")[1] == HIDDEN
