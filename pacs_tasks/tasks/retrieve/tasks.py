"""The tasks that retrieve: ``pacs_tasks.retrieve`` with its parts, and single C-GET and C-MOVE operations.

The planner of ``pacs_tasks.retrieve`` queries the remote for its instances: the promise. A part is a series, or a slice
of a large one. It is attempted until everything has come or further attempts are in vain; the promise shows what is
missing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

from celery import Task

from pacs_tasks.dimse.files import storage
from pacs_tasks.dimse.retrieve import c_get, c_move
from pacs_tasks.errors import (
    AssociationError,
    ConfigurationError,
    InvalidRequestError,
    JobCancelledError,
    PeerBusyError,
    PeerUnavailableError,
    PeerUnreachableError,
    UnreadableInputError,
)
from pacs_tasks.fleet import receivers
from pacs_tasks.layout import Layout
from pacs_tasks.ledger.manifest import CountedLine, RetrieveLine
from pacs_tasks.outcome import GetOutcome, MoveOutcome
from pacs_tasks.request import GetRequest, MoveRequest, RetrieveRequest
from pacs_tasks.tasks.engine.associations import leased
from pacs_tasks.tasks.engine.base import JobTask, ledger, local_ae, note_unreachable, park_if_down, register, timeouts
from pacs_tasks.tasks.engine.claim import Claim
from pacs_tasks.tasks.engine.job import Promise, Range, answer, register_chord
from pacs_tasks.tasks.engine.pace import paced, pacing_of
from pacs_tasks.tasks.engine.part import Part
from pacs_tasks.tasks.engine.permissions import limits_in, writable_directory
from pacs_tasks.tasks.expected import expecting_call
from pacs_tasks.tasks.retrieve import already_there
from pacs_tasks.tasks.retrieve.arrivals import owner_of, placed
from pacs_tasks.tasks.retrieve.attempt import Answer, Attempt
from pacs_tasks.tasks.retrieve.by_c_move import NoReceiverError, callers_of
from pacs_tasks.tasks.retrieve.fetch import Fetch
from pacs_tasks.tasks.retrieve.forward import Forward
from pacs_tasks.tasks.retrieve.plan import promise, promise_again

log = logging.getLogger(__name__)

#: A larger series is fetched in slices, by lists of UIDs: a value of VR UI holds 64 KiB in explicit encodings.
PART_INSTANCES = 500


def cut(lines: Sequence[RetrieveLine]) -> list[Range]:
    """Cut a manifest into parts: consecutive instances of one series, at most :data:`PART_INSTANCES`.

    Instances without a UID can only be requested together, so all of a series, or of a study, is one part then.
    """
    ranges: list[Range] = []
    start = 0
    for index in range(1, len(lines) + 1):
        ended = index == len(lines) or _series(lines[index]) != _series(lines[start])
        if ended or (index - start == PART_INSTANCES and not isinstance(lines[start], CountedLine)):
            ranges.append((start, index))
            start = index
    return ranges


def _series(line: RetrieveLine) -> tuple[str, str]:
    return line.study_uid, line.series_uid


def _parts(job_id: str) -> list[Range]:
    manifest = ledger().manifest
    return cut(cast(list[RetrieveLine], manifest.lines(job_id, 0, manifest.resolved(job_id))))


def _promise(request: RetrieveRequest, claim: Claim) -> Promise:
    """Check that the output directory can be written, then query the remote."""
    if request.to is None:
        writable_directory(request.directory)
    return promise(request, claim)


def _retrieve(part: Part[RetrieveLine], request: RetrieveRequest) -> bool:
    """Make one attempt at what is left of a part; true if another one should follow later."""
    part.claim.check_deaths()
    others = () if request.to is None else (request.to,)
    part.pacing = pacing_of(part.job_id, request, part.must_end, others)
    part.pacing.begin(len(part.left))
    try:
        return _attempt(part, request)
    except PeerBusyError:
        raise
    except AssociationError as error:
        part.fail_rest(error)
        return False


def _is_whole(part: Part[RetrieveLine]) -> bool:
    """Whether a part is all of its series, as far as the remote has listed it."""
    job_id, start, stop = part.job_id, part.indices.start, part.indices.stop
    around = cast(list[RetrieveLine], ledger().manifest.lines(job_id, max(start - 1, 0), stop + 1))
    first = around[1 if start else 0]
    if isinstance(first, CountedLine):
        return True
    expected = stop - start + (1 if start else 0)
    before = start > 0 and _series(around[0]) == _series(first)
    after = len(around) > expected and _series(around[expected]) == _series(first)
    return not before and not after and not ledger().studies.picked(job_id, first.study_uid)


def _attempt(part: Part[RetrieveLine], request: RetrieveRequest) -> bool:
    """Make one attempt; true if another one should follow later.

    What is missing afterwards is requested again by name, as long as the attempts bring something, and once after one
    that did not; more often if the remote may be busy.

    Raises
    ------
    PeerBusyError
        If it has no association for us now. That does not count as an attempt.
    AssociationError
        If it failed for good.
    """
    park_if_down(part.job_id, request)
    _fail_nameless(part, request)
    if part.claim.deaths and request.to is None:
        _remove_unfinished(request.directory, owner_of(part))
    _record_present(part, request)
    if not part.left:
        return False
    kind: type[Fetch | Forward] = Fetch if request.to is None else Forward
    attempt = kind(part, request, whole_series=_is_whole(part))
    before = len(part.left)
    try:
        last_answer = _run(attempt, part)
    except NoReceiverError as error:
        _fail_without_receiver(part, error)
        return bool(part.left)
    except PeerBusyError:
        raise
    except PeerUnavailableError as error:
        if isinstance(error, PeerUnreachableError):
            note_unreachable(part.job_id, request, error)
        if part.last_try:
            raise
        return True
    _check_end(part)
    again = _is_worth_another(attempt, part, last_answer, brought=len(part.left) < before)
    if not again:
        attempt.record_missing(last_answer)
    return again


def _record_present(part: Part[RetrieveLine], request: RetrieveRequest) -> None:
    """Record what is already at its destination before the first attempt, unless it is to be replaced."""
    if not part.left or part.tries or request.overwrite:
        return
    if request.to is None:
        already_there.record_present(part, request)
    else:
        Forward(part, request, whole_series=False).record_present()
    _check_end(part)


def _run(attempt: Attempt, part: Part[RetrieveLine]) -> Answer:
    try:
        return attempt.run()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        part.fail_rest(
            UnreadableInputError(
                f"The worker cannot write what has arrived ({reason}). Check free space and permissions."
            )
        )
        return Answer(reason)
    except JobCancelledError:
        _check_end(part)
        raise


def _fail_without_receiver(part: Part[RetrieveLine], error: NoReceiverError) -> None:
    """Fail what is left, unless another attempt follows: an earlier one had a receiver, so there may be one again."""
    if not part.tries or part.last_try:
        part.fail_rest(ConfigurationError(str(error)))


def _remove_unfinished(directory: str, owner: str) -> None:
    """Remove what a killed worker has left of an instance; it is fetched again."""
    try:
        storage.remove_unfinished(Path(directory), owner)
    except OSError as error:
        log.warning("An unfinished file stays in the output directory (%s).", error.strerror)


def _is_worth_another(attempt: Attempt, part: Part[RetrieveLine], last_answer: Answer, *, brought: bool) -> bool:
    """Whether another attempt should follow. ``brought``: this one has brought at least one instance."""
    return bool(part.left) and not part.last_try and (brought or attempt.worth_another_try(last_answer))


def _check_end(part: Part[RetrieveLine]) -> None:
    """Raise if the job or the worker is to end: what has not come since then is neither here nor missing."""
    if part.left:
        part.check_end()


def _fail_nameless(part: Part[RetrieveLine], request: RetrieveRequest) -> None:
    """Fail what no file can be named after. A remote may list such UIDs by mistake, or to lead out of the directory."""
    for index, line in list(part.left.items()):
        try:
            # A counted instance gets its name when it comes.
            name = line.study_uid if isinstance(line, CountedLine) else line.sop_instance_uid
            storage.kept_path(Path(request.output_dir or "."), line.study_uid, line.series_uid, name)
        except InvalidRequestError as error:
            part.fail(index, error)


register_chord(RetrieveRequest, "pacs_tasks.retrieve", _promise, _parts, _retrieve, promise_again=promise_again)


def _get(request: GetRequest, claim: Claim) -> GetOutcome:
    directory = writable_directory(request.output_dir)
    owner = claim.job_id
    if claim.deaths:
        _remove_unfinished(request.output_dir, owner)
    with paced(owner, request, claim) as pacing, leased(request, owner, claim) as lease:
        # Layout refuses a link that leads out of the directory.
        reception = c_get.Reception(
            on_instance=lambda instance: pacing.arrived(instance.size),
            place=partial(placed, Layout(owner=owner, root=directory), Path(request.output_dir)),
            owner=owner,
            limits=limits_in(request.output_dir),
            directory=directory,
        )
        outcome = c_get.get(request, local_ae(request), timeouts(request), lease.stop, reception=reception)
    # An instance counts as received once it survives a power cut.
    storage.sync([Path(instance.path) for instance in outcome.instances])
    return outcome


@register(GetRequest.task, base=JobTask)
def get(self: Task, request: dict[str, Any] | None = None) -> dict[str, Any]:
    """Fetch a study or series (C-GET)."""
    return answer(self, request, GetRequest, _get)


@contextmanager
def _call_expected(request: MoveRequest, claim: Claim) -> Iterator[None]:
    """Have our receivers accept the remote, if it delivers to one of them and not to any other AE."""
    with ExitStack() as calls:
        if any(each.ae_title == request.move_aet for each in receivers.running(ledger().client)):
            for caller in callers_of(request.remote):
                calls.enter_context(expecting_call(claim, caller))
        yield


def _move(request: MoveRequest, claim: Claim) -> MoveOutcome:
    with paced(claim.job_id, request, claim) as pacing:
        with leased(request, claim.job_id, claim) as lease, _call_expected(request, claim):
            outcome = c_move.move(request, local_ae(request), timeouts(request), lease.stop)
        pacing.count(outcome.suboperations.completed + outcome.suboperations.warning)
    return outcome


@register(MoveRequest.task, base=JobTask)
def move(self: Task, request: dict[str, Any] | None = None) -> dict[str, Any]:
    """Have the remote send a study or series to another AE (C-MOVE)."""
    return answer(self, request, MoveRequest, _move)
