"""``pacs_tasks.store_file``, ``store_directory``, ``store_paths``, ``preflight``: send files (C-STORE).

The planner of a directory lists it and reads no file. Each part reads the headers of its own files, so the workers
share that work too, and sends them over associations whose contexts fit exactly these files.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

from celery import Task
from pydicom.uid import UID

from pacs_tasks.dimse import c_echo, c_store
from pacs_tasks.dimse.files import archive, part10
from pacs_tasks.dimse.files.archive import Member, Unpacked
from pacs_tasks.dimse.files.part10 import StoredInstance
from pacs_tasks.dimse.upper_layer import contexts
from pacs_tasks.dimse.upper_layer.association import Association
from pacs_tasks.errors import JobCancelledError, NotDicomError, UnreadableInputError
from pacs_tasks.ledger.manifest import FileLine
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome, PreflightOutcome, ProposedPair
from pacs_tasks.request import PreflightRequest, StoreDirectoryRequest, StorePathsRequest, StoreRequest, TransferRequest
from pacs_tasks.settings import settings
from pacs_tasks.tasks import duplicates
from pacs_tasks.tasks.engine.associations import new_association
from pacs_tasks.tasks.engine.base import JobTask, ledger, register
from pacs_tasks.tasks.engine.claim import Claim
from pacs_tasks.tasks.engine.job import (
    FEWEST_PARTS,
    Promise,
    Range,
    answer,
    lines_of_a_part,
    note_round_trip,
    plan,
    register_chord,
)
from pacs_tasks.tasks.engine.part import LineQueue, Part, run_part, work_off
from pacs_tasks.tasks.engine.paths import files_below, readable_directory, readable_file

#: Up to so many files, each is a task of its own, as people who watch Flower expect.
SMALL_DIRECTORY = 200
#: Work of one file on a machine of two cores with the remote on it: seconds for each file, and for each of its bytes.
FILE_WORK, BYTE_WORK = 0.0004, 1e-9
#: Most bytes of a part with more than one file.
PART_BYTES = 64 * 2**20


def cut(lines: Sequence[FileLine], files_per_task: int | None, round_trip: float = 0.0) -> list[Range]:
    """Cut a manifest into parts.

    Parameters
    ----------
    round_trip
        Seconds that a request and its response take at least: on a slow line a few files are work enough, and small
        parts keep all associations busy to the end.
    """
    most = files_per_task or _files_of_a_part(lines, round_trip)
    ranges: list[Range] = []
    start = size = 0
    for index, line in enumerate(lines):
        # However many files a task has, what it unpacks stays small.
        limited = files_per_task is None or bool(line.archive)
        full = index - start >= most or (limited and size + line.size > PART_BYTES)
        if full and index > start:
            ranges.append((start, index))
            start, size = index, 0
        size += line.size
    return [*ranges, (start, len(lines))] if lines else []


def _files_of_a_part(lines: Sequence[FileLine], round_trip: float) -> int:
    total = len(lines)
    if any(line.archive for line in lines):
        # Each part reads the whole directory of an archive.
        return max(1, total // FEWEST_PARTS)
    if total <= SMALL_DIRECTORY:
        return 1
    file_work: float = FILE_WORK + BYTE_WORK * sum(line.size for line in lines) / total
    return lines_of_a_part(total, max(file_work, round_trip))


def _parts(job_id: str) -> list[Range]:
    request = cast(StoreDirectoryRequest | StorePathsRequest, ledger().request(job_id))
    lines = cast(list[FileLine], ledger().manifest.lines(job_id, 0, ledger().progress(job_id).counters.total))
    files_per_task = request.files_per_task or settings().files_per_task
    return cut(lines, files_per_task, ledger().round_trip(job_id))


def _promise_file(request: StoreRequest, _: Claim) -> Promise:
    readable_file(request.path)
    part10.read_instance(request.path)
    return Promise([FileLine(request.path, Path(request.path).stat().st_size)])


def _promise_directory(request: StoreDirectoryRequest, claim: Claim) -> Promise:
    readable_directory(request.directory)
    lines = list(_listed(_files_below(request.directory), claim))
    if not lines:
        raise UnreadableInputError("The directory contains no file. Check the path.", request.directory)
    note_round_trip(request, [c_echo.VERIFICATION_CONTEXT], claim)
    return Promise(lines)


def _promise_paths(request: StorePathsRequest, claim: Claim) -> Promise:
    # A file may be named twice: by itself, and by its directory.
    lines = list(dict.fromkeys(_listed(_files_of(request.paths), claim)))
    if not lines:
        raise UnreadableInputError("These paths contain no file. Check them.", request.paths[0])
    note_round_trip(request, [c_echo.VERIFICATION_CONTEXT], claim)
    return Promise(lines)


def _files_of(paths: Sequence[str]) -> Iterator[FileLine]:
    """The files, those below the directories, and those in the ZIP archives."""
    for path in paths:
        if Path(path).is_dir():
            readable_directory(path)
            yield from _files_below(path)
        else:
            readable_file(path)
            yield from _files_in(path) if archive.is_archive(path) else [FileLine(path, Path(path).stat().st_size)]


def _files_below(directory: str) -> Iterator[FileLine]:
    return (FileLine(path, size) for path, size in files_below(directory))


def _files_in(path: str) -> Iterator[FileLine]:
    return (FileLine(each.path, each.size, path, each.place) for each in archive.members(path))


def _listed(lines: Iterator[FileLine], claim: Claim) -> Iterator[FileLine]:
    for line in lines:
        if claim():
            raise JobCancelledError("The job was cancelled before it sent anything.")
        yield line


def _read_header(line: FileLine, unpacked: Unpacked) -> StoredInstance | InstanceOutcome:
    """The instance in a file; else SKIPPED for a file that is not a DICOM instance, FAILED for an unreadable one."""
    member = Member(line.path, line.size, line.place)
    try:
        if not line.archive:
            return part10.read_instance(line.path)
        path = unpacked.file(line.archive, member)
        try:
            return part10.read_instance(path)
        except UnreadableInputError:
            unpacked.discard(line.archive, member)
            raise
    except NotDicomError as error:
        return InstanceOutcome.unanswered(line.path, error, InstanceCategory.SKIPPED)
    except UnreadableInputError as error:
        return InstanceOutcome.unanswered(line.path, error)


def _read_headers(part: Part[FileLine], unpacked: Unpacked) -> list[tuple[int, StoredInstance]]:
    """The instances of a part by their index; records the outcomes of other files."""
    found = []
    for index, line in list(part.left.items()):
        part.check_end()
        part.begin(index)
        read = _read_header(line, unpacked)
        if isinstance(read, InstanceOutcome):
            part.record(index, read)
        else:
            found.append((index, read))
    return found


class _FileQueue(LineQueue[StoredInstance]):
    """The files of a part that share an association."""

    def work(self) -> None:
        """Send the files, then find out which of those that the remote rejected as duplicates are there."""
        self._duplicates: dict[int, InstanceOutcome] = {}
        super().work()
        try:
            resolved = duplicates.resolve(self._duplicates, self.request, self.part.must_end)
        except JobCancelledError:
            self.part.check_end()
            raise
        for index, outcome in resolved.items():
            self.part.record(index, outcome)

    def step(self, assoc: Association) -> None:
        """Send all files; several may be in progress at once."""
        index_of = {instance.path: index for index, instance in self.queue.items()}
        for instance, outcome in c_store.store_all(assoc, self._until_the_end(), digest=settings().sha256):
            index = index_of[instance.path]
            del self.queue[index]
            if duplicates.is_duplicate(outcome):
                self.unanswered.discard(index)
                self._duplicates[index] = outcome
            elif not self.try_later(index, outcome.status):
                # After a cancel, the answers for the files in progress still count.
                with suppress(JobCancelledError):
                    self.part.record(index, self._named(index, outcome))

    def _named(self, index: int, outcome: InstanceOutcome) -> InstanceOutcome:
        """The outcome of a file in an archive has its name there."""
        subject = self.part.left[index].subject
        return outcome if outcome.subject == subject else outcome.model_copy(update={"subject": subject})

    def _until_the_end(self) -> Iterator[StoredInstance]:
        """The files in order, until the job is cancelled or the worker shuts down."""
        for index, instance in list(self.queue.items()):
            if self.part.must_end():
                return
            self.unanswered.add(index)
            self.part.begin(index)
            yield instance


def _send(part: Part[FileLine], request: TransferRequest, *, alone: bool = False) -> bool:
    """Send the rest of a part; true if something should be tried again later."""

    def queues() -> Iterator[_FileQueue]:
        instances = _read_headers(part, unpacked)
        index_of = {instance.path: index for index, instance in instances}
        for proposed, batch in contexts.contexts_for([instance for _, instance in instances]):
            queue = {index_of[instance.path]: instance for instance in batch}
            yield _FileQueue(part, request, proposed, part.claim.overdue, queue, alone=alone)

    with Unpacked() as unpacked:
        return work_off(part, request, queues, alone=alone)


@register(StoreRequest.task, base=JobTask)
def store_file(self: Task, request: dict[str, Any] | None = None, tries: int = 0) -> dict[str, Any]:
    """Send one file; ``tries`` as for :func:`.run_part`."""

    def one_part(job_id: str) -> None:
        run_part(self, job_id, range(1), tries, partial(_send, alone=True))

    return plan(self, request, StoreRequest, _promise_file, one_part)


register_chord(StoreDirectoryRequest, "pacs_tasks.store", _promise_directory, _parts, _send)
register_chord(StorePathsRequest, "pacs_tasks.store_paths", _promise_paths, _parts, _send)


def _preflight(request: PreflightRequest, claim: Claim) -> PreflightOutcome:
    started = time.monotonic()
    if request.directory is not None:
        readable_directory(request.directory)
    instances: list[StoredInstance] = []
    skipped: list[InstanceOutcome] = []
    unreadable: list[InstanceOutcome] = []
    total = 0
    for line in dict.fromkeys(_listed(_files_of((*filter(None, [request.directory]), *request.paths)), claim)):
        total += 1
        with Unpacked() as unpacked:
            read = _read_header(line, unpacked)
        if isinstance(read, StoredInstance):
            instances.append(read)
        else:
            (skipped if read.category is InstanceCategory.SKIPPED else unreadable).append(read)
    batches = contexts.contexts_for(instances)
    accepted: set[tuple[str, str]] = set()
    for proposed, _ in batches:
        with new_association(request, proposed, claim) as assoc:
            accepted |= set(assoc.accepted_contexts)
    return PreflightOutcome(
        total=total,
        bytes=sum(instance.size for instance in instances),
        pairs=_pairs(instances, accepted),
        skipped=tuple(skipped),
        unreadable=tuple(unreadable),
        contexts=sum(len(proposed) for proposed, _ in batches),
        associations=len(batches),
        seconds=time.monotonic() - started,
    )


def _pairs(instances: list[StoredInstance], accepted: set[tuple[str, str]]) -> tuple[ProposedPair, ...]:
    count: Counter[tuple[str, str]] = Counter()
    size: Counter[tuple[str, str]] = Counter()
    for instance in instances:
        pair = instance.sop_class_uid, instance.transfer_syntax_uid
        count[pair] += 1
        size[pair] += instance.size
    return tuple(
        ProposedPair(
            sop_class_uid=pair[0],
            sop_class_name=UID(pair[0]).name,
            transfer_syntax_uid=pair[1],
            transfer_syntax_name=UID(pair[1]).name,
            count=count[pair],
            bytes=size[pair],
            accepted=pair in accepted,
        )
        for pair in sorted(count)
    )


@register(PreflightRequest.task, base=JobTask)
def preflight(self: Task, request: dict[str, Any] | None = None) -> dict[str, Any]:
    """Predict the result of sending a directory."""
    return answer(self, request, PreflightRequest, _preflight)
