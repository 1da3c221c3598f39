"""What an outcome says of itself."""

from __future__ import annotations

import pytest

from pacs_tasks.errors import JobFailedError, NotDicomError, PeerUnavailableError, UnreadableInputError
from pacs_tasks.outcome import (
    Category,
    Counters,
    FindOutcome,
    InstanceCategory,
    InstanceOutcome,
    MoveOutcome,
    Status,
    StatusCategory,
    Suboperations,
    TransferOutcome,
)

SUCCESS = Status(code=0, category=StatusCategory.SUCCESS, meaning="success")
REFUSED = Status(code=0xA700, category=StatusCategory.TRANSIENT, meaning="out of resources")


@pytest.mark.parametrize(
    ("counters", "category"),
    [
        (Counters(total=3, success=3), Category.SUCCESS),
        (Counters(total=3, success=2, skipped=1), Category.SUCCESS),
        (Counters(total=3, success=2, warning=1), Category.WARNING),
        (Counters(total=3, present=3), Category.SUCCESS),
        (Counters(total=3, success=1, present=2), Category.SUCCESS),
        (Counters(total=3, present=2, missing=1), Category.PARTIAL),
        (Counters(total=3, success=2, failed=1), Category.PARTIAL),
        (Counters(total=3, success=2, missing=1), Category.PARTIAL),
        (Counters(total=3, success=2), Category.PARTIAL),
        (Counters(total=3, failed=3), Category.FAILED),
        (Counters(total=3, skipped=3), Category.FAILED),
    ],
)
def test_a_transfer_is_true_only_when_nothing_is_left(counters: Counters, category: Category) -> None:
    """Partial is a state of its own, and what has no outcome is not done."""
    outcome = TransferOutcome(counters=counters)
    assert outcome.category is category
    assert bool(outcome) is (category in {Category.SUCCESS, Category.WARNING})


def test_a_transfer_that_met_nobody_is_unreachable() -> None:
    """Told apart from a peer that refused each file."""
    assert TransferOutcome(counters=Counters(total=2, failed=2, unreachable=2)).unreachable
    assert not TransferOutcome(counters=Counters(total=2, failed=2, unreachable=1)).unreachable
    assert not TransferOutcome(counters=Counters(total=3, success=1, failed=2, unreachable=2)).unreachable


def test_success_with_failed_suboperations_is_no_success() -> None:
    """GE, Synapse and Orthanc answer Success when every sub-operation failed."""
    assert MoveOutcome(status=SUCCESS, suboperations=Suboperations(failed=5)).category is Category.FAILED
    some = Suboperations(completed=1, failed=4)
    assert MoveOutcome(status=SUCCESS, suboperations=some).category is Category.PARTIAL
    assert MoveOutcome(status=REFUSED).category is Category.FAILED


def test_a_warning_without_counts_is_a_warning() -> None:
    """A remote may count nothing, and yet warn that sub-operations failed (B000)."""
    warned = Status(code=0xB000, category=StatusCategory.WARNING, meaning="some sub-operations failed")
    assert MoveOutcome(status=warned).category is Category.WARNING
    assert MoveOutcome(status=warned, suboperations=Suboperations(completed=2)).category is Category.WARNING
    assert MoveOutcome(status=warned, suboperations=Suboperations(completed=1, failed=1)).category is Category.PARTIAL
    assert MoveOutcome(status=warned, suboperations=Suboperations(failed=1)).category is Category.FAILED


def test_a_summary_holds_no_match() -> None:
    """It becomes Celery's result, which Flower shows and workers log."""
    outcome = FindOutcome(status=SUCCESS, matches=({"00100010": {"Value": ["Secret"]}},))
    assert outcome.summary()["matches"] == 1
    assert "Secret" not in str(outcome.summary())


def test_an_unanswered_instance_tells_apart_file_and_peer() -> None:
    """Only what the network caused counts as unreachable."""
    assert InstanceOutcome.unanswered("/a", PeerUnavailableError("gone")).unreachable
    assert not InstanceOutcome.unanswered("/a", UnreadableInputError("torn", "/a")).unreachable
    skipped = InstanceOutcome.unanswered("/a", NotDicomError("text", "/a"), InstanceCategory.SKIPPED)
    assert (skipped.reason, skipped.error) == ("text", "NotDicomError")


def test_a_path_that_is_no_unicode_can_be_recorded() -> None:
    """Linux allows any bytes in a name."""
    assert InstanceOutcome.unanswered("/a/\udcff.dcm", UnreadableInputError("torn")).subject == "/a/?.dcm"


@pytest.mark.parametrize(
    "comment", ["Secret^Patient", "no (Secret) patient", "((", "))", "(comment of the remote: Secret)", "a) Secret (b"]
)
def test_what_a_remote_says_is_private(comment: str) -> None:
    """The error of a job may word a status; Celery's results, Flower and logs get it without the comment."""
    status = Status(code=0xC001, category=StatusCategory.PERMANENT, meaning="Failure. Check its log.", comment=comment)
    error = JobFailedError(f"The PACS cannot list the series ({status}). Retry.", "subject")
    assert str(error.public()) == "The PACS cannot list the series (C001: Failure. Check its log.). Retry."
    # A text that was cut.
    cut = JobFailedError(str(error)[: str(error).index("remote: ") + 9])
    assert comment[:1] not in str(cut.public()).partition("Check its log.")[2]
