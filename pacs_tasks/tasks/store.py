"""``pacs_tasks.store_file``, ``store_directory``, ``store_paths``: send files (C-STORE).

The planner of a directory lists it and reads no file. Each part reads the headers of its own files, so the workers
share that work too, and sends them over associations whose contexts fit exactly these files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar, cast

from celery import Task

from pacs_tasks.dimse import c_echo, c_store
from pacs_tasks.dimse.files.part10 import StoredInstance
from pacs_tasks.dimse.sources.archive import Unpacked
from pacs_tasks.dimse.upper_layer import contexts
from pacs_tasks.dimse.upper_layer.association import Association, Timeouts
from pacs_tasks.dimse.upper_layer.negotiation import Context
from pacs_tasks.errors import (
    AssociationError,
    ContextRejectedError,
    JobCancelledError,
    PeerBusyError,
    PeerStalledError,
    PeerUnavailableError,
    PeerUnreachableError,
    UnreadableInputError,
)
from pacs_tasks.fleet.leases import name_of
from pacs_tasks.fleet.tuning import Trouble
from pacs_tasks.ledger.manifest import FileLine
from pacs_tasks.ledger.outcomes import Instances
from pacs_tasks.outcome import InstanceOutcome, StatusCategory
from pacs_tasks.request import (
    FilesRequest,
    StoreDirectoryRequest,
    StorePathsRequest,
    StoreRequest,
)
from pacs_tasks.settings import settings
from pacs_tasks.tasks import duplicates
from pacs_tasks.tasks.engine.associations import leased
from pacs_tasks.tasks.engine.base import JobTask, PartPausedError, ledger, local_ae, register, timeouts
from pacs_tasks.tasks.engine.claim import Claim
from pacs_tasks.tasks.engine.job import (
    FEWEST_PARTS,
    Promise,
    Range,
    note_round_trip,
    parts_of_a_job,
    plan,
    register_chord,
)
from pacs_tasks.tasks.engine.lines import LineQueue, work_off
from pacs_tasks.tasks.engine.pace import pacing_of
from pacs_tasks.tasks.engine.part import Part, run_part
from pacs_tasks.tasks.engine.permissions import check_file, check_source
from pacs_tasks.tasks.files import instance_in, read_header
from pacs_tasks.tasks.sources import Kind, listed

#: Up to so many files, each is a task of its own, as people who watch Flower expect.
SMALL_DIRECTORY = 200
#: Work of one file on a machine of two cores with the remote on it: seconds for each file, and for each of its bytes.
FILE_WORK, BYTE_WORK = 0.0004, 1e-9
#: A file at which an association was lost gets so many times the usual time of an answer, and at least so many seconds.
_PATIENCE, _LEAST_PATIENCE = 10.0, 5.0
#: A remote that has answered so often, and never taken longer than a part of the limit, is not waited for that long:
#: it does not digest the file. Each file gets a second for so many bytes in any case.
_KNOWN, _USUAL_SHARE, _LIMIT_SHARE, _SLOWEST_RATE = 20, 0.03, 0.6, 1 << 20
#: Remotes of which one process remembers how fast they answer.
_MOST_REMOTES = 1_000
#: Files that tell what is usual.
_SAMPLES = 200
#: Most bytes that a part unpacks, unless one file has more.
PART_BYTES = 64 * 2**20
#: Files whose headers a part reads before it sends them: they share an association with the right contexts.
_READ_AHEAD = 200

_StoreRequest = StoreRequest | StoreDirectoryRequest | StorePathsRequest


def cut(lines: Sequence[FileLine], files_per_task: int | None, round_trip: float = 0.0) -> list[Range]:
    """Cut a manifest into parts.

    Parameters
    ----------
    round_trip
        Seconds that a request and its response take at least.
    """
    total = len(lines)
    packed = any(line.archive for line in lines)
    if files_per_task or (total <= SMALL_DIRECTORY and not packed):
        works, share = [1.0] * total, float(files_per_task or 1)
    else:
        alone = [FILE_WORK + BYTE_WORK * line.size for line in lines]
        works = [max(each, round_trip) for each in alone]
        # Each part reads the whole directory of an archive.
        share = sum(works) / (FEWEST_PARTS if packed else parts_of_a_job(sum(alone), total * round_trip))
    ranges: list[Range] = []
    start, work, unpacked = 0, 0.0, 0
    for index, line in enumerate(lines):
        if line.place < 0 and index > start and line.archive == lines[start].archive:
            # Every part would read the archive from its beginning.
            continue
        # However many files a task has, what it unpacks stays small.
        full = work >= share or line.place < 0 or (line.archive and unpacked + line.size > PART_BYTES)
        if full and index > start:
            ranges.append((start, index))
            start, work, unpacked = index, 0.0, 0
        work += works[index]
        unpacked += line.size if line.archive else 0
    return [*ranges, (start, total)] if lines else []


def _parts(job_id: str) -> list[Range]:
    request = cast(StoreDirectoryRequest | StorePathsRequest, ledger().request(job_id))
    lines = cast(list[FileLine], ledger().manifest.lines(job_id, 0, ledger().progress(job_id).counters.total))
    files_per_task = request.files_per_task or settings().files_per_task
    return cut(lines, files_per_task, ledger().round_trip(job_id))


def _promise_file(request: StoreRequest, claim: Claim) -> Promise:
    lines = list(listed([request.path], claim, Kind.FILE))
    if not lines[0].archive:
        instance_in(request.path)
    return Promise(lines)


def _promise_directory(request: StoreDirectoryRequest, claim: Claim) -> Promise:
    lines = list(listed([request.directory], claim, Kind.DIRECTORY))
    if not lines:
        raise UnreadableInputError("The directory contains no file. Check the path.", request.directory)
    note_round_trip(request, [c_echo.VERIFICATION_CONTEXT], claim)
    return Promise(lines)


def _promise_paths(request: StorePathsRequest, claim: Claim) -> Promise:
    # A file may be named twice: by itself, and by its directory.
    lines = list(dict.fromkeys(listed(request.paths, claim)))
    if not lines:
        raise UnreadableInputError("These paths contain no file. Check them.", request.paths[0])
    note_round_trip(request, [c_echo.VERIFICATION_CONTEXT], claim)
    return Promise(lines)


def _groups(part: Part[FileLine], indices: Sequence[int]) -> Iterator[Sequence[int]]:
    """Files that are read together before they are sent, and so are on the disk together if they are unpacked."""
    if not part.undivided:
        for start in range(0, len(indices), _READ_AHEAD):
            yield indices[start : start + _READ_AHEAD]
        return
    group: list[int] = []
    size = 0
    for index in indices:
        if group and (len(group) == _READ_AHEAD or size + part.left[index].size > PART_BYTES):
            yield group
            group, size = [], 0
        group.append(index)
        size += part.left[index].size
    if group:
        yield group


def _read_headers(
    part: Part[FileLine], indices: Sequence[int], unpacked: Unpacked, request: FilesRequest
) -> list[tuple[int, StoredInstance]]:
    """The instances among some files of a part by their index; records the outcomes of other files."""
    found = []
    for index in indices:
        line = part.left[index]
        part.check_end()
        part.begin(index)
        read = read_header(line, unpacked, request)
        if isinstance(read, InstanceOutcome):
            part.record(index, read)
        else:
            found.append((index, read))
    return found


class _FileQueue(LineQueue[StoredInstance]):
    """The files of a part that share an association."""

    service: ClassVar[str] = "C-STORE"
    request: _StoreRequest
    #: Instances whose own syntax was refused, and for whose other ones the association had no context.
    refused: dict[int, StoredInstance]
    #: Whether the remote has answered a C-ECHO just before.
    echoed = False

    def work(self) -> None:
        """Send the files, then find out which of those that the remote rejected as duplicates are there."""
        self._duplicates: dict[int, InstanceOutcome] = {}
        self._remote_name = name_of(self.request.remote)
        self.refused = {}
        try:
            super().work()
        except PartPausedError:
            # At a slow pace, the files that are rejected each time would never let the part come to the others.
            self._resolve_duplicates()
            raise
        self._resolve_duplicates()

    def _resolve_duplicates(self) -> None:
        try:
            resolved = duplicates.resolve(self._duplicates, self.request, self.part.job_id, self.part.must_end)
        except JobCancelledError:
            self.part.check_end()
            raise
        for index, outcome in resolved.items():
            self.part.record(index, self._named(index, outcome))

    def step(self, assoc: Association) -> None:
        """Send all files; several may be in progress at once."""
        index_of = {instance.path: index for index, instance in self.queue.items()}
        for instance, outcome in c_store.store_all(
            assoc,
            self._until_the_end(),
            digest=settings().sha256,
            transcode=self.request.transcode,
            priority=self.request.priority,
        ):
            index = index_of[instance.path]
            del self.queue[index]
            _note_answer(self._remote_name, outcome)
            self._note_moved(instance, outcome)
            if self.part.pacing is not None and not outcome.begun:
                self.part.pacing.not_sent(instance.size)
            if c_store.may_be_converted(assoc, instance, outcome, self.request.transcode):
                self.unanswered.discard(index)
                self.refused[index] = instance
            elif duplicates.is_duplicate(outcome):
                self.unanswered.discard(index)
                self._duplicates[index] = self._named(index, outcome)
            elif not self.try_later(index, outcome.status):
                # After a cancel, the answers for the files in progress still count.
                with suppress(JobCancelledError):
                    self.part.record(index, self._named(index, outcome))

    def _note_moved(self, instance: StoredInstance, outcome: InstanceOutcome) -> None:
        if self.lease is not None and outcome.begun:
            self.lease.moved(1, instance.size, outcome.ended - outcome.begun)
            if outcome.status is not None and outcome.status.category is StatusCategory.TRANSIENT:
                self.lease.note(Trouble.BUSY)

    def _named(self, index: int, outcome: InstanceOutcome) -> InstanceOutcome:
        """The outcome of a file in an archive has its name there."""
        subject = self.part.left[index].subject
        return outcome if outcome.subject == subject else outcome.model_copy(update={"subject": subject})

    def failure(self, index: int, error: PeerUnavailableError) -> PeerUnavailableError | None:
        """Fail a file after two tries if the remote answers a C-ECHO before and after the second one.

        At some files it aborts each time. Where the connection just broke, the line may be at fault.
        """
        losses = self.part.lost[index]
        at_fault = self.echoed and losses > 1 and not error.broken and self._answers()
        if super().failure(index, error) is None and not at_fault:
            return None
        return PeerStalledError(
            f"{self.request.remote} ended the association at this file {losses} times, or stayed silent, at last when "
            "the file was sent alone. Check the log of the PACS, and the file, for example with a validator. "
            f"Last error: {error.message}"
        )

    def falls_silent(self) -> bool:
        """Whether the remote accepts an association and answers no C-ECHO: what it did at a file then says nothing."""
        try:
            self._echo()
        except (PeerBusyError, PeerUnreachableError):
            # The opening of the association for the file tells what to do.
            return False
        except AssociationError:
            return True
        self.echoed = True
        return False

    def _answers(self) -> bool:
        """Whether the remote answers a C-ECHO, so that the file is at fault and not the remote or the line."""
        try:
            self._echo()
        except AssociationError:
            return False
        return True

    def _echo(self) -> None:
        request = self.request
        limits = Timeouts.of(min(timeouts(request).dimse, _LEAST_PATIENCE))
        with leased(request, self.part.job_id, self.part.claim.overdue) as lease, suppress(ContextRejectedError):
            c_echo.echo(local_ae(request), request.remote, limits, lease.stop)

    def lost_error(self, error: PeerUnavailableError) -> PeerUnavailableError:
        """The remote was reached, so it does not count as unreachable."""
        return PeerStalledError(error.message)

    def _until_the_end(self) -> Iterator[StoredInstance]:
        """The files in order, until the part must end or come again, or others need the association."""
        pacing, files = self.part.pacing, list(self.queue.items())
        sizes = [instance.size for _, instance in files] if pacing is not None else []
        for place, (index, instance) in enumerate(files):
            if self.part.must_end() or self.part.slice_over() or self.must_yield():
                return
            try:
                if packed_in := self.part.left[index].archive:
                    check_source(packed_in)
                else:
                    check_file(instance.path)
            except UnreadableInputError as error:
                # A link was changed since the file was read.
                del self.queue[index]
                self.part.fail(index, error)
                continue
            if pacing is not None and not pacing.admits(sizes, place):
                return
            self.unanswered.add(index)
            self.part.begin(index)
            yield instance


#: By remote, how many files it has answered for this process, and the most seconds that one took.
_answers: dict[str, tuple[int, float]] = {}


def _note_answer(remote: str, outcome: InstanceOutcome) -> None:
    if outcome.begun:
        count, slowest = _answers.get(remote, (0, 0.0))
        if not count and len(_answers) >= _MOST_REMOTES:
            _answers.clear()
        _answers[remote] = count + 1, max(slowest, outcome.ended - outcome.begun)


def _first_patience(request: _StoreRequest, largest: int) -> float | None:
    """Seconds that a remote may stay silent at files of which none has given trouble yet; None for the usual limit.

    A remote that answers everything else at once does not answer at all after half a minute of silence.
    """
    count, slowest = _answers.get(name_of(request.remote), (0, 0.0))
    limit = timeouts(request).dimse
    if count < _KNOWN or slowest > _USUAL_SHARE * limit:
        return None
    return _LIMIT_SHARE * limit + largest / _SLOWEST_RATE


def _patience(job_id: str, size: int) -> float | None:
    """Seconds in which the remote answers a file of this size, by far; nothing if it has not answered any."""
    sent = [each for _, each in Instances(ledger(), job_id).receipts(0, _SAMPLES) if each.begun]
    if not sent:
        return None
    seconds = sum(each.ended - each.begun for each in sent)
    usual = max(seconds / len(sent), seconds / max(1, sum(each.size for each in sent)) * size)
    return max(_LEAST_PATIENCE, _PATIENCE * usual)


def _send(part: Part[FileLine], request: _StoreRequest, *, alone: bool = False) -> bool:
    """Send the rest of a part; true if something should be tried again later."""
    part.pacing = pacing_of(part.job_id, request, part.must_end)
    if part.pacing is not None:
        # Before the headers of the files are read, perhaps in vain.
        part.pacing.begin(len(part.left), next(iter(part.left.values())).size)

    def queues() -> Iterator[_FileQueue]:
        lost = [index for index in part.left if index in part.lost]
        usual = [index for index in part.left if index not in part.lost]
        for group in _groups(part, usual):
            yield from together(dict(_read_headers(part, group, unpacked, request)))
            unpacked.clear()
        # Files at which an association was lost come last, each alone, so that they hold up and lose no other.
        for index, instance in _read_headers(part, lost, unpacked, request):
            [(proposed, _)] = contexts.contexts_for([instance], request.transcode)
            queue = queue_of({index: instance}, proposed, _patience(part.job_id, instance.size))
            part.check_end()
            if queue.falls_silent() and not part.last_try:
                part.again = True
            else:
                yield queue

    def together(instances: dict[int, StoredInstance]) -> Iterator[_FileQueue]:
        index_of = {instance.path: index for index, instance in instances.items()}
        refused: dict[int, StoredInstance] = {}
        for proposed, batch in contexts.contexts_for(list(instances.values()), request.transcode):
            patience = _first_patience(request, max(each.size for each in batch))
            sent = queue_of({index_of[each.path]: each for each in batch}, proposed, patience)
            yield sent
            refused |= sent.refused
        for proposed, batch in contexts.alternatives_for(list(refused.values()), request.transcode):
            yield queue_of({index_of[each.path]: each for each in batch}, proposed)

    def queue_of(
        batch: dict[int, StoredInstance], proposed: list[Context], patience: float | None = None
    ) -> _FileQueue:
        return _FileQueue(part, request, proposed, part.claim.overdue, batch, alone=alone, patience=patience)

    # Each run of a part reads the whole directory of an archive.
    part.undivided = any(line.archive for line in part.left.values())
    name = f"{part.job_id} {part.claim.name}"
    with Unpacked(name, taken_up=part.claim.deaths > 0) as unpacked:
        return work_off(part, request, queues, alone=alone)


@register(StoreRequest.task, base=JobTask)
def store_file(self: Task, request: dict[str, Any] | None = None, tries: int = 0) -> dict[str, Any]:
    """Send one file; ``tries`` as for :func:`.run_part`."""

    def one_part(job_id: str) -> None:
        run_part(self, job_id, range(1), tries, partial(_send, alone=True))

    return plan(self, request, StoreRequest, _promise_file, one_part)


register_chord(StoreDirectoryRequest, "pacs_tasks.store", _promise_directory, _parts, _send)
register_chord(StorePathsRequest, "pacs_tasks.store_paths", _promise_paths, _parts, _send)
