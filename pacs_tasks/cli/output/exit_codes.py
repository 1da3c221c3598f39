"""What a command's exit code says. It is the only place where one is chosen."""

from __future__ import annotations

from enum import IntEnum

from pacs_tasks.errors import (
    AssociationError,
    BrokerUnavailableError,
    ConfigurationError,
    InvalidRequestError,
    JobCancelledError,
    JobNotFoundError,
    JobNotReadyError,
    PacsTasksError,
    from_record,
)
from pacs_tasks.outcome import Category, InstanceCategory, Outcome, PreflightOutcome, TransferOutcome
from pacs_tasks.outcome.verification import CommitOutcome


class ExitCode(IntEnum):
    """One code per way to end; scripts tell them apart."""

    #: All done, warnings included.
    DONE = 0
    FAILED = 1
    #: Wrong usage, a wrong setting, or input that cannot be read.
    USAGE = 2
    PARTIAL = 3
    #: The peer cannot be reached, or it refuses the association.
    UNREACHABLE = 4
    CANCELLED = 5
    #: Not finished in the time given.
    NOT_FINISHED = 6
    NO_SUCH_JOB = 7


#: The first class that fits decides, so a child stands before its parent.
_OF_ERROR: tuple[tuple[type[PacsTasksError], ExitCode], ...] = (
    (BrokerUnavailableError, ExitCode.FAILED),
    (ConfigurationError, ExitCode.USAGE),
    (InvalidRequestError, ExitCode.USAGE),
    (AssociationError, ExitCode.UNREACHABLE),
    (JobNotFoundError, ExitCode.NO_SUCH_JOB),
    (JobNotReadyError, ExitCode.NOT_FINISHED),
    (JobCancelledError, ExitCode.CANCELLED),
)

_OF_CATEGORY = {
    Category.SUCCESS: ExitCode.DONE,
    Category.WARNING: ExitCode.DONE,
    Category.PARTIAL: ExitCode.PARTIAL,
    Category.FAILED: ExitCode.FAILED,
    Category.CANCELLED: ExitCode.CANCELLED,
}


def of_error(error: PacsTasksError) -> ExitCode:
    """The exit code of a command that ends with ``error``."""
    return next((code for kind, code in _OF_ERROR if isinstance(error, kind)), ExitCode.FAILED)


def of_outcome(outcome: Outcome) -> ExitCode:
    """The exit code of a command whose job ended with ``outcome``."""
    code = _OF_CATEGORY[outcome.category]
    if isinstance(outcome, CommitOutcome) and outcome.unfinished:
        return ExitCode.NOT_FINISHED
    if isinstance(outcome, PreflightOutcome) and not outcome.pairs:
        # There is no instance that the peer could accept.
        return ExitCode.USAGE
    if code is not ExitCode.FAILED or not isinstance(outcome, TransferOutcome):
        return code
    if outcome.unreachable:
        return ExitCode.UNREACHABLE
    if outcome.nothing_found or _input_is_unreadable(outcome):
        return ExitCode.USAGE
    return code


def _input_is_unreadable(outcome: TransferOutcome) -> bool:
    """Whether nothing was done because no file could be read."""
    failed = [each for each in outcome.problems if each.category is not InstanceCategory.SKIPPED]
    return bool(failed) and all(
        bool(each.error) and isinstance(from_record(each.error, ""), InvalidRequestError) for each in failed
    )
