"""Fetch the instances of one part by C-MOVE or C-GET, and record which of them are here and which are missing."""

from __future__ import annotations

from pathlib import Path

from celery import Task

from pacs_tasks.dimse.files import storage
from pacs_tasks.errors import (
    ConfigurationError,
    InvalidRequestError,
    JobCancelledError,
    PeerBusyError,
    PeerUnavailableError,
    PeerUnreachableError,
    UnreadableInputError,
)
from pacs_tasks.ledger.manifest import CountedLine, RetrieveLine
from pacs_tasks.outcome import InstanceOutcome
from pacs_tasks.request import RetrieveRequest
from pacs_tasks.settings import settings
from pacs_tasks.tasks.engine.part import Part
from pacs_tasks.tasks.engine.retry import WorkerShutdownError, note_unreachable, park_if_down, shutting_down
from pacs_tasks.tasks.retrieve.already_there import record_present
from pacs_tasks.tasks.retrieve.attempt import Fetching
from pacs_tasks.tasks.retrieve.by_c_move import NoReceiverError
from pacs_tasks.tasks.retrieve.forward import Forwarding


def fetch(task: Task, part: Part[RetrieveLine], request: RetrieveRequest, *, whole_series: bool, tries: int) -> bool:
    """Fetch what is left of a part; true if it should be tried again later.

    What is missing after a try is asked for again by name, as long as the tries bring something, and once where one did
    not; more often where the peer may be busy.

    Parameters
    ----------
    tries
        How often it has been tried before.

    Raises
    ------
    PeerBusyError
        If there is no association for it now: it was no try.
    AssociationError
        If it failed for good.
    """
    park_if_down(part.job_id, request)
    _fail_nameless(part, request)
    if not tries and not request.overwrite:
        _leave_out(part, request)
    if not part.left:
        return False
    last_try = tries >= settings().max_retries
    attempt = _attempt(part, request, whole_series=whole_series, tries=tries)
    before = len(part.left)
    try:
        said = attempt.ask(task)
    except NoReceiverError as error:
        # There was one before, so there may be one again.
        if not tries or last_try:
            part.fail_rest(ConfigurationError(str(error)))
        return bool(part.left)
    except OSError as error:
        what = f"the worker cannot write what has arrived ({error.strerror}); check free space and permissions"
        part.fail_rest(UnreadableInputError(what))
        return False
    except JobCancelledError:
        _check_end(part)
        raise
    except PeerBusyError:
        raise
    except PeerUnavailableError as error:
        if isinstance(error, PeerUnreachableError):
            note_unreachable(part.job_id, request, error)
        if last_try:
            raise
        return True
    _check_end(part)
    brought = len(part.left) < before
    again = bool(part.left) and not last_try and (brought or attempt.worth_another_try(said))
    if not again:
        attempt.record_missing(said)
    return again


def _leave_out(part: Part[RetrieveLine], request: RetrieveRequest) -> None:
    """What is where it is wanted already is not asked for."""
    if not part.left:
        return
    if request.to is None:
        record_present(part, request)
    else:
        Forwarding(part, request, request.to, whole_series=False, tries=0).record_present()
    _check_end(part)


def _attempt(
    part: Part[RetrieveLine], request: RetrieveRequest, *, whole_series: bool, tries: int
) -> Fetching | Forwarding:
    if request.to is None:
        return Fetching(part, request, whole_series=whole_series, tries=tries)
    return Forwarding(part, request, request.to, whole_series=whole_series, tries=tries)


def _check_end(part: Part[RetrieveLine]) -> None:
    """Of what did not come since we asked the peer to stop, nothing is known."""
    if part.left and part.claim.cancelled:
        raise JobCancelledError
    if part.left and shutting_down():
        raise WorkerShutdownError


def _fail_nameless(part: Part[RetrieveLine], request: RetrieveRequest) -> None:
    """A peer may list what no file can be named after, by mistake or to lead out of the directory."""
    for index, line in list(part.left.items()):
        try:
            # What is only counted gets its name when it comes.
            name = line.study_uid if isinstance(line, CountedLine) else line.sop_instance_uid
            storage.instance_path(Path(request.output_dir or "."), line.study_uid, line.series_uid, name)
        except InvalidRequestError as error:
            part.record(index, InstanceOutcome.unanswered(line.subject, error))
