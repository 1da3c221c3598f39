"""How a command ends: the exit code of each error and each category, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, StrEnum

from pacs_tasks.errors import (
    AssociationError,
    BrokerSettingError,
    BrokerUnavailableError,
    ConfigurationError,
    InvalidRequestError,
    JobCancelledError,
    JobFailedError,
    JobNotFoundError,
    JobNotReadyError,
    NotDicomError,
    PacsTasksError,
    PeerStalledError,
    PeerUnavailableError,
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
    (PeerStalledError, ExitCode.FAILED),
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


class Advice(StrEnum):
    """What to do next when something did not work: one text for each case."""

    CONNECTION = (
        "Check the address and port (--ip, --port) and both AE titles (--pacs-ae-title, --ae-title). Make sure that "
        "the PACS is running, and that it and its firewall let this machine connect. `pacs-tasks echo` tests the "
        "connection."
    )
    SENDING = (
        "Check that the files are valid DICOM, that the PACS has space left and lets us store, and that it accepts "
        "these SOP classes and transfer syntaxes (`pacs-tasks send PATH --dry-run` shows it)."
    )
    NOT_DICOM = "Check the path. DICOM files are recognised by their content, and there are none."
    NOT_ACCEPTED = (
        "Ask the administrator of the PACS to configure the SOP classes and transfer syntaxes that it refuses."
    )
    RETRIEVING = (
        "Check the Study Instance UID, Patient ID or accession number (`pacs-tasks query` lists them), and that the "
        "output directory is writable and has space left. If the PACS delivers nothing, configure the receiver's AE "
        "title and address there, or use --method get."
    )
    FORWARDING = (
        "Configure the destination's AE title and address as a C-MOVE destination in the PACS that sends. Make sure "
        "that the destination accepts the instances and answers queries from this machine."
    )
    MISSING = (
        "Send the missing instances again. Ask the administrator of the PACS what became of them, since the PACS "
        "confirmed that it stored them."
    )
    REASONS = "Follow the reasons above."
    NOT_COMMITTED = "Follow the reasons above. Keep the failed instances, since the PACS does not commit to store them."
    NO_RECEIVER = (
        "Start a receiver (`pacs-tasks receiver`), configure its AE title and address in the PACS, and verify again. "
        "Most PACS report on an association of their own."
    )
    WORKER = "Read the log of the worker, or run the command again."


_RETRIEVING_TASKS = frozenset({"pacs_tasks.move", "pacs_tasks.get", "pacs_tasks.retrieve"})


def advice_on(error: PacsTasksError, task: str) -> str:
    """What to do after an error whose message may not say it all; empty where the message does."""
    if isinstance(error, PeerUnavailableError):
        return Advice.CONNECTION
    if isinstance(error, NotDicomError):
        return Advice.SENDING
    if isinstance(error, JobFailedError):
        return Advice.RETRIEVING if task in _RETRIEVING_TASKS else Advice.WORKER
    return ""
