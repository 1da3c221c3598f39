"""What to check when something did not work: one sentence per case, for people."""

from __future__ import annotations

from pacs_tasks.cli.output import completeness
from pacs_tasks.errors import (
    JobFailedError,
    NotDicomError,
    PacsTasksError,
    PeerUnavailableError,
)
from pacs_tasks.outcome import (
    Category,
    FindOutcome,
    Outcome,
    PreflightOutcome,
    TransferOutcome,
)
from pacs_tasks.outcome.verification import CommitOutcome, VerifyOutcome
from pacs_tasks.request import FindBatchRequest

CONNECTION = (
    "check the address and port (--ip, --port) and both AE titles (--pacs-ae-title, --ae-title), that the PACS is "
    "running, and that it and its firewall let this machine connect; `pacs-tasks echo` tries just that"
)
SENDING = (
    "check that the files are valid DICOM, and that the PACS has space left, lets us store, and takes these classes "
    "and transfer syntaxes (`pacs-tasks send-dir --dir DIR --dry-run` asks it)"
)
NO_DICOM = "check the path: DICOM files are known by their content, and there is none"
NOT_ACCEPTED = "add what the PACS does not accept to its configuration, or ask its administrator to"
RETRIEVING = (
    "check the Study Instance UID (`pacs-tasks query` lists them), and that the output directory may be written and "
    "has space left; if nothing is delivered, make the receiver's AE title and address known to the PACS, "
    "or use --method get"
)
FORWARDING = (
    "make the destination's AE title and address known to the PACS that sends, where destinations of C-MOVE are "
    "configured, and see that the destination takes the instances and answers queries from here"
)
MISSING = "send what is missing again, and ask the PACS's administrator what became of it: the PACS said it took it"
UNKNOWN = "do what the reasons say, or ask the PACS in another way: `pacs-tasks verify ID --commit`"

_RETRIEVING_TASKS = frozenset({"pacs_tasks.move", "pacs_tasks.get", "pacs_tasks.retrieve"})
_STORING_TASKS = frozenset({"pacs_tasks.store_file", "pacs_tasks.store_directory"})


def for_error(error: PacsTasksError, task: str) -> str:
    """What to check after an error whose message may not say it all; empty where it does."""
    if isinstance(error, PeerUnavailableError):
        return CONNECTION
    if isinstance(error, NotDicomError):
        return SENDING
    if isinstance(error, JobFailedError):
        return RETRIEVING if task in _RETRIEVING_TASKS else "look into the worker's log, or try it again"
    return ""


def for_outcome(task: str, outcome: Outcome, job_id: str, *, forwarded: bool = False) -> str:
    """What to check or do next after an outcome; empty where all is done.

    ``forwarded``: what was retrieved went straight to another PACS.
    """
    if isinstance(outcome, FindOutcome):
        return completeness.advice(outcome)
    if isinstance(outcome, TransferOutcome):
        return _for_transfer(task, outcome, job_id, forwarded=forwarded)
    if outcome.category in {Category.SUCCESS, Category.WARNING}:
        return ""
    if isinstance(outcome, VerifyOutcome | CommitOutcome):
        return _for_proof(outcome)
    if isinstance(outcome, PreflightOutcome):
        return NOT_ACCEPTED if outcome.pairs else NO_DICOM
    return RETRIEVING if task != "pacs_tasks.echo" else CONNECTION


def _for_proof(outcome: VerifyOutcome | CommitOutcome) -> str:
    if isinstance(outcome, VerifyOutcome):
        return MISSING if outcome.missing else UNKNOWN
    if outcome.failed:
        return "do what the reasons say; the PACS does not answer for these instances, so keep them"
    if outcome.receiver:
        return (
            f"the PACS has not reported yet; see that it knows the receiver, {outcome.receiver}. What it reports later "
            "is noted: `pacs-tasks report ID` shows it"
        )
    return (
        "start a receiver (`pacs-tasks receiver`), make its AE title and address known to the PACS, and ask again: "
        "most PACS report on an association of their own"
    )


def _for_transfer(task: str, outcome: TransferOutcome, job_id: str, *, forwarded: bool) -> str:
    if outcome:
        return ""
    rest = f"`pacs-tasks retry {job_id}` goes on with the rest only"
    if outcome.cancelled:
        return rest
    check = FORWARDING if forwarded and not outcome.unreachable else _what_to_check(task, outcome)
    return check if outcome.nothing_found else f"{check}; then {rest}"


def _what_to_check(task: str, outcome: TransferOutcome) -> str:
    if outcome.unreachable:
        return CONNECTION
    if outcome.problems and all(each.error == "ConfigurationError" for each in outcome.problems):
        return "do what the reason says"
    if task == FindBatchRequest.task:
        return "do what the reasons say"
    if task not in _STORING_TASKS:
        return RETRIEVING
    return NO_DICOM if outcome.nothing_found else SENDING
