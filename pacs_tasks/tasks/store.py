"""``pacs_tasks.store_file``, ``store_directory``, ``store_paths``: send files (C-STORE).

The planner of a directory lists it and reads no file. Each part reads the headers of its own files, so the workers
share that work too, and sends them over associations whose contexts fit exactly these files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, cast

from celery import Task

from pacs_tasks.dimse import c_echo
from pacs_tasks.dimse.files.part10 import StoredInstance
from pacs_tasks.dimse.sources.archive import Unpacked
from pacs_tasks.dimse.upper_layer import contexts
from pacs_tasks.dimse.upper_layer.negotiation import Context
from pacs_tasks.errors import UnreadableInputError
from pacs_tasks.fleet.leases import name_of
from pacs_tasks.ledger.manifest import FileLine
from pacs_tasks.ledger.outcomes import Instances
from pacs_tasks.outcome import InstanceOutcome
from pacs_tasks.request import FilesRequest, StoreDirectoryRequest, StorePathsRequest, StoreRequest
from pacs_tasks.settings import settings
from pacs_tasks.tasks.engine.base import JobTask, ledger, register, timeouts
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
from pacs_tasks.tasks.engine.lines import work_off
from pacs_tasks.tasks.engine.pace import pacing_of
from pacs_tasks.tasks.engine.part import Part, run_part
from pacs_tasks.tasks.file_queue import FAR, LEAST_PATIENCE, AnyStoreRequest, FileQueue, answers_of
from pacs_tasks.tasks.files import Kind, instance_in, listed, read_header

#: Up to so many files, each is a task of its own, as people who watch Flower expect.
SMALL_DIRECTORY = 200
#: Work of one file on a machine of two cores with the remote on it: seconds for each file, and for each of its bytes.
FILE_WORK, BYTE_WORK = 0.0004, 1e-9
#: Associations that work on a part where it has helpers, about.
SHARED = 2
#: Most bytes that a part unpacks, unless one file has more.
PART_BYTES = 64 * 2**20
#: Files whose headers a part reads before it sends them: they share an association with the right contexts.
_READ_AHEAD = 200
#: A file at which an association was lost gets so many times the usual time of an answer. Files that show that time.
_PATIENCE, _SAMPLES = 10.0, 200
#: A remote that has answered so often, and never taken longer than a part of the limit, is not waited for that long:
#: it does not digest the file. Each file gets a second for so many bytes in any case.
_KNOWN, _USUAL_SHARE, _LIMIT_SHARE, _SLOWEST_RATE = 20, 0.03, 0.6, 1 << 20


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
        shared = round_trip >= FAR and settings().associations_per_process > 1
        waited = round_trip / SHARED if shared else round_trip
        # Each part reads the whole directory of an archive.
        share = sum(works) / (FEWEST_PARTS if packed else parts_of_a_job(sum(alone), total * waited))
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
    group: list[int] = []
    size = 0
    for index in indices:
        too_large = part.undivided and size + part.left[index].size > PART_BYTES
        if group and (len(group) == _READ_AHEAD or too_large):
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


def _first_patience(request: AnyStoreRequest, largest: int) -> float | None:
    """Seconds that a remote may stay silent at files of which none has given trouble yet; None for the usual limit.

    A remote that answers everything else at once does not answer at all after half a minute of silence.
    """
    answers = answers_of(name_of(request.remote))
    limit = timeouts(request).dimse
    if answers.number < _KNOWN or answers.slowest > _USUAL_SHARE * limit:
        return None
    return _LIMIT_SHARE * limit + largest / _SLOWEST_RATE


def _patience_at_lost(job_id: str, size: int) -> float | None:
    """Seconds in which the remote answers a file of this size, by far; nothing if it has not answered any."""
    sent = [each for _, each in Instances(ledger(), job_id).receipts(0, _SAMPLES) if each.begun]
    if not sent:
        return None
    seconds = sum(each.ended - each.begun for each in sent)
    usual = max(seconds / len(sent), seconds / max(1, sum(each.size for each in sent)) * size)
    return max(LEAST_PATIENCE, _PATIENCE * usual)


def _send(part: Part[FileLine], request: AnyStoreRequest, *, alone: bool = False) -> bool:
    """Send the rest of a part; true if something should be tried again later."""
    part.alone = alone
    part.pacing = pacing_of(part.job_id, request, part.must_end)
    # Before the headers of the files are read, perhaps in vain.
    part.pacing.begin(len(part.left), next(iter(part.left.values())).size)

    def queues() -> Iterator[FileQueue]:
        lost = [index for index in part.left if index in part.lost]
        usual = [index for index in part.left if index not in part.lost]
        for group in _groups(part, usual):
            yield from together(dict(_read_headers(part, group, unpacked, request)))
            unpacked.clear()
        # Files at which an association was lost come last, each alone, so that they hold up and lose no other.
        for index, instance in _read_headers(part, lost, unpacked, request):
            [(proposed, _)] = contexts.contexts_for([instance], request.transcode)
            queue = queue_of({index: instance}, proposed, _patience_at_lost(part.job_id, instance.size))
            part.check_end()
            if queue.falls_silent() and not part.last_try:
                part.again = True
            else:
                yield queue

    def together(instances: dict[int, StoredInstance]) -> Iterator[FileQueue]:
        index_of = {instance.path: index for index, instance in instances.items()}
        refused: dict[int, StoredInstance] = {}
        for proposed, batch in contexts.contexts_for(list(instances.values()), request.transcode):
            patience = _first_patience(request, max(each.size for each in batch))
            sent = queue_of({index_of[each.path]: each for each in batch}, proposed, patience)
            yield sent
            refused |= sent.refused
        for proposed, batch in contexts.alternatives_for(list(refused.values()), request.transcode):
            yield queue_of({index_of[each.path]: each for each in batch}, proposed)

    def queue_of(batch: dict[int, StoredInstance], proposed: list[Context], patience: float | None = None) -> FileQueue:
        return FileQueue(part, request, proposed, batch, patience)

    # Each run of a part reads the whole directory of an archive.
    part.undivided = any(line.archive for line in part.left.values())
    name = f"{part.job_id} {part.claim.name}"
    with Unpacked(name, taken_up=part.claim.deaths > 0) as unpacked:
        return work_off(part, request, queues)


@register(StoreRequest.task, base=JobTask)
def store_file(self: Task, request: dict[str, Any] | None = None, tries: int = 0) -> dict[str, Any]:
    """Send one file; ``tries`` as for :func:`.run_part`."""

    def one_part(job_id: str) -> None:
        run_part(self, job_id, range(1), tries, partial(_send, alone=True))

    return plan(self, request, StoreRequest, _promise_file, one_part)


register_chord(StoreDirectoryRequest, "pacs_tasks.store", _promise_directory, _parts, _send)
register_chord(StorePathsRequest, "pacs_tasks.store_paths", _promise_paths, _parts, _send)
