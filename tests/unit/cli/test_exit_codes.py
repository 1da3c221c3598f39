"""The exit code of each error and each outcome."""

from __future__ import annotations

import pytest

from pacs_tasks import errors
from pacs_tasks.cli.output.exit_codes import ExitCode, of_error
from pacs_tasks.cli.output.outcomes import view_of
from pacs_tasks.operations import OPERATIONS
from pacs_tasks.outcome import (
    Counters,
    EchoOutcome,
    FindOutcome,
    InstanceCategory,
    InstanceOutcome,
    Outcome,
    PreflightOutcome,
    ProposedPair,
    Status,
    StatusCategory,
    TransferOutcome,
)
from pacs_tasks.outcome.verification import CommitOutcome, VerifyOutcome

DONE = Status(code=0, category=StatusCategory.SUCCESS, meaning="success")
REFUSED = Status(code=0xA900, category=StatusCategory.PERMANENT, meaning="refused")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.PacsTasksError, 1),
        (errors.ConfigurationError, 2),
        (errors.BrokerUnavailableError, 1),
        (errors.InvalidRequestError, 2),
        (errors.UnreadableInputError, 2),
        (errors.NotDicomError, 2),
        (errors.AssociationRejectedError, 4),
        (errors.ContextRejectedError, 4),
        (errors.PeerUnavailableError, 4),
        (errors.JobFailedError, 1),
        (errors.JobCancelledError, 5),
        (errors.JobNotReadyError, 6),
        (errors.JobNotFoundError, 7),
    ],
)
def test_each_error_has_a_code(error: type[errors.PacsTasksError], code: int) -> None:
    """A class that is not listed has the code of its base."""
    assert of_error(error("what happened")) == code


def _transfer(*problems: InstanceOutcome, cancelled: bool = False, **counters: int) -> TransferOutcome:
    return TransferOutcome(counters=Counters(**counters), problems=problems, cancelled=cancelled)


def _failed(error: str) -> InstanceOutcome:
    return InstanceOutcome(subject="a", category=InstanceCategory.FAILED, error=error)


def _pair(*, accepted: bool) -> ProposedPair:
    return ProposedPair(
        sop_class_uid="1.2",
        sop_class_name="CT",
        transfer_syntax_uid="1.2",
        transfer_syntax_name="Explicit",
        count=1,
        bytes=1,
        accepted=accepted,
    )


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (EchoOutcome(status=DONE, seconds=0), ExitCode.DONE),
        (EchoOutcome(status=REFUSED, seconds=0), ExitCode.FAILED),
        (FindOutcome(status=DONE), ExitCode.DONE),
        (FindOutcome(status=REFUSED), ExitCode.FAILED),
        (FindOutcome(status=REFUSED, limit_hit=True), ExitCode.DONE),
        (_transfer(total=2, success=1, warning=1), ExitCode.DONE),
        (_transfer(total=3, success=1, skipped=2), ExitCode.DONE),
        (_transfer(_failed(""), total=2, success=1, failed=1), ExitCode.PARTIAL),
        (_transfer(total=2, success=1), ExitCode.PARTIAL),
        (_transfer(total=2, success=1, missing=1), ExitCode.PARTIAL),
        (_transfer(_failed(""), total=1, failed=1), ExitCode.FAILED),
        (_transfer(total=2, success=1, cancelled=True), ExitCode.CANCELLED),
        (_transfer(_failed("PeerUnavailableError"), total=1, failed=1, unreachable=1), ExitCode.UNREACHABLE),
        (_transfer(_failed("UnreadableInputError"), total=1, failed=1), ExitCode.USAGE),
        (_transfer(total=2, skipped=2), ExitCode.USAGE),
        (_transfer(), ExitCode.USAGE),
        (PreflightOutcome(total=1, bytes=1, pairs=(_pair(accepted=True),)), ExitCode.DONE),
        (PreflightOutcome(total=2, bytes=2, pairs=(_pair(accepted=True), _pair(accepted=False))), ExitCode.PARTIAL),
        (PreflightOutcome(total=1, bytes=1, pairs=(_pair(accepted=False),)), ExitCode.FAILED),
        (PreflightOutcome(total=1, bytes=0), ExitCode.USAGE),
        (PreflightOutcome(total=1, bytes=0, unreadable=(_failed("UnreadableInputError"),)), ExitCode.USAGE),
        (PreflightOutcome(total=1, bytes=0, unreadable=(_failed("DamagedFileError"),)), ExitCode.FAILED),
        (VerifyOutcome(held=2), ExitCode.DONE),
        (VerifyOutcome(held=1, missing=1), ExitCode.PARTIAL),
        (VerifyOutcome(held=1, unknown=1), ExitCode.PARTIAL),
        (VerifyOutcome(missing=2), ExitCode.FAILED),
        (VerifyOutcome(unknown=2), ExitCode.FAILED),
        (CommitOutcome(committed=2), ExitCode.DONE),
        (CommitOutcome(committed=1, failed=1), ExitCode.PARTIAL),
        (CommitOutcome(failed=1, pending=1), ExitCode.PARTIAL),
        (CommitOutcome(failed=2), ExitCode.FAILED),
        (CommitOutcome(committed=1, pending=1), ExitCode.NOT_FINISHED),
        (CommitOutcome(pending=2), ExitCode.NOT_FINISHED),
    ],
)
def test_each_outcome_has_a_code(outcome: Outcome, code: ExitCode) -> None:
    """Partial, refused, unreachable, unreadable and cancelled have different codes."""
    task = next(each.task for each in OPERATIONS.values() if each.outcome is type(outcome))
    assert view_of(task, outcome).exit_code is code
