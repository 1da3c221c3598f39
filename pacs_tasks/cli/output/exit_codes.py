"""The exit codes, and which one each error and each category has."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

from pacs_tasks.errors import (
    AssociationError,
    BrokerSettingError,
    BrokerUnavailableError,
    ConfigurationError,
    InvalidRequestError,
    JobCancelledError,
    JobNotFoundError,
    JobNotReadyError,
    PacsTasksError,
)


class ExitCode(IntEnum):
    """The exit codes of all commands; scripts depend on them."""

    #: Everything is done, perhaps with warnings.
    DONE = 0
    FAILED = 1
    #: Wrong usage, a wrong setting, or input that cannot be read.
    USAGE = 2
    PARTIAL = 3
    #: The remote cannot be reached, or it refuses the association.
    UNREACHABLE = 4
    CANCELLED = 5
    #: Not finished in the time given.
    NOT_FINISHED = 6
    NO_SUCH_JOB = 7


#: The first class that fits decides, so a subclass stands before its base.
_OF_ERROR: tuple[tuple[type[PacsTasksError], ExitCode], ...] = (
    (BrokerSettingError, ExitCode.USAGE),
    (BrokerUnavailableError, ExitCode.FAILED),
    (ConfigurationError, ExitCode.USAGE),
    (InvalidRequestError, ExitCode.USAGE),
    (AssociationError, ExitCode.UNREACHABLE),
    (JobNotFoundError, ExitCode.NO_SUCH_JOB),
    (JobNotReadyError, ExitCode.NOT_FINISHED),
    (JobCancelledError, ExitCode.CANCELLED),
)

#: The code of each category of an outcome; the view of an outcome may know a better one.
OF_CATEGORY: Mapping[str, ExitCode] = {
    "success": ExitCode.DONE,
    "warning": ExitCode.DONE,
    "partial": ExitCode.PARTIAL,
    "failed": ExitCode.FAILED,
    "cancelled": ExitCode.CANCELLED,
}


def of_error(error: PacsTasksError) -> ExitCode:
    """The exit code of a command that ends with ``error``."""
    return next((code for kind, code in _OF_ERROR if isinstance(error, kind)), ExitCode.FAILED)
