"""``pacs_tasks.store_file`` and ``pacs_tasks.store_directory``: send files.

A directory is listed, not read, by its planner; each part reads the headers of its own files, so that recognising
them is fanned out as well.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

from celery import Task

from pacs_tasks.app import app
from pacs_tasks.dimse import c_echo
from pacs_tasks.dimse.files import part10
from pacs_tasks.dimse.upper_layer.association import Association
from pacs_tasks.errors import JobCancelledError, PeerBusyError, UnreadableInputError
from pacs_tasks.ledger.manifest import Entry
from pacs_tasks.request import StoreDirectoryRequest, StoreRequest
from pacs_tasks.settings import settings
from pacs_tasks.tasks.engine.associations import leased
from pacs_tasks.tasks.engine.base import JobTask, ledger, local_ae, pause, timeouts
from pacs_tasks.tasks.engine.chord import Part, Range, fan_out, finish, pending, work_on
from pacs_tasks.tasks.engine.claim import Claim
from pacs_tasks.tasks.engine.paths import files_below, readable_directory, readable_file
from pacs_tasks.tasks.engine.planner import Promise, plan
from pacs_tasks.tasks.engine.retry import come_again
from pacs_tasks.tasks.store.part import send

#: Up to so many files, each is a task of its own, as people who look at Flower expect.
SMALL_DIRECTORY = 200
#: In a larger one a part has so much work, in seconds, that the 5 ms of a task are a thirtieth of it.
PART_WORK = 0.16
#: What a file takes on a machine of two cores, to a peer on it: seconds for each, and for each of its bytes.
FILE_WORK, BYTE_WORK = 0.0004, 1e-9
#: Parts that there are at least, to be shared out, and at most, so that the chord of a huge directory stays small.
FEWEST_PARTS, MOST_PARTS = 16, 2000
PART_BYTES = 64 * 2**20


def cut(entries: Sequence[Entry], files_per_task: int | None, round_trip: float = 0.0) -> list[Range]:
    """Cut a manifest into parts.

    Parameters
    ----------
    round_trip
        Seconds that a question to the peer and its answer take at least: on a slow line a few files are work enough,
        and small parts keep all associations busy to the end.
    """
    most = files_per_task or _files_of_a_part(entries, round_trip)
    ranges: list[Range] = []
    start = size = 0
    for index, entry in enumerate(entries):
        full = index - start >= most or (files_per_task is None and size + entry[1] > PART_BYTES)
        if full and index > start:
            ranges.append((start, index))
            start, size = index, 0
        size += entry[1]
    return [*ranges, (start, len(entries))] if entries else []


def _files_of_a_part(entries: Sequence[Entry], round_trip: float) -> int:
    total = len(entries)
    if total <= SMALL_DIRECTORY:
        return 1
    file_work: float = FILE_WORK + BYTE_WORK * sum(entry[1] for entry in entries) / total
    wanted = math.ceil(PART_WORK / max(file_work, round_trip))
    return max(min(wanted, total // FEWEST_PARTS), math.ceil(total / MOST_PARTS))


def _ranges(job_id: str) -> list[Range]:
    """The parts of a job, which are the same whenever they are asked for."""
    request = cast(StoreDirectoryRequest, ledger().request(job_id))
    entries = ledger().manifest.entries(job_id, 0, ledger().progress(job_id).counters.total)
    files_per_task = request.files_per_task or settings().files_per_task
    return pending(job_id, cut(entries, files_per_task, ledger().round_trip(job_id)))


def _promise_file(request: StoreRequest, _: Claim) -> Promise:
    readable_file(request.path)
    part10.read_instance(request.path)
    return Promise([[request.path, os.path.getsize(request.path)]])  # noqa: PTH202 - the path goes as it came


def _promise_directory(request: StoreDirectoryRequest, claim: Claim) -> Promise:
    """List the files, and see that the peer takes our association before thousands of parts find out."""
    readable_directory(request.directory)
    entries: list[Entry] = []
    for path, size in files_below(request.directory):
        if claim():
            raise JobCancelledError("cancelled before anything was sent")
        entries.append([path, size])
    if not entries:
        raise UnreadableInputError("there is no file in this directory; check the path", request.directory)
    # Busy: the parts wait until it is not.
    with (
        suppress(PeerBusyError),
        leased(request.remote, claim) as stop,
        Association.open(
            local_ae(request), request.remote, [c_echo.VERIFICATION_CONTEXT], timeouts(request), stop
        ) as assoc,
    ):
        ledger().note_round_trip(claim.job_id, assoc.wire.round_trip)
    return Promise(entries)


@app.task(bind=True, base=JobTask, name=StoreRequest.task)  # type: ignore[untyped-decorator]
def store_file(self: Task, request: dict[str, Any] | None = None, tries: int = 0) -> dict[str, Any]:
    """Send one file (C-STORE). ``tries`` counts as for a part."""

    def one_part(asked: StoreRequest, job_id: str) -> None:
        def work(part: Part) -> bool:
            return send(part, asked, last_try=tries >= settings().max_retries, alone=True)

        if work_on(self, job_id, 0, 1, work):
            come_again(self, pause(tries), kwargs={"tries": tries + 1})

    return plan(self, request, StoreRequest, _promise_file, one_part)


@app.task(bind=True, base=JobTask, name=StoreDirectoryRequest.task)  # type: ignore[untyped-decorator]
def store_directory(self: Task, request: dict[str, Any] | None = None) -> dict[str, Any]:
    """Send a directory: lists it and becomes a chord of parts."""

    def chord_of_parts(_: StoreDirectoryRequest, job_id: str) -> None:
        fan_out(self, job_id, _ranges(job_id), store_part, store_finish)

    return plan(self, request, StoreDirectoryRequest, _promise_directory, chord_of_parts)


@app.task(bind=True, name="pacs_tasks.store_part", ignore_result=True)  # type: ignore[untyped-decorator]
def store_part(self: Task, job_id: str, start: int, stop: int, tries: int = 0) -> None:
    """Send the files ``start`` up to ``stop`` of a job's manifest; never raises for a file.

    ``tries`` counts what failed for now; Celery's own count also has the times that a part waited for a claim, or for
    an association.
    """
    last_try = tries >= settings().max_retries

    def work(part: Part) -> bool:
        request = cast(StoreDirectoryRequest, ledger().request(job_id))
        return send(part, request, last_try=last_try)

    if work_on(self, job_id, start, stop, work):
        come_again(self, pause(tries), kwargs={"tries": tries + 1})


@app.task(bind=True, name="pacs_tasks.store_finish")  # type: ignore[untyped-decorator]
def store_finish(self: Task, job_id: str) -> dict[str, Any]:
    """The chord's body: the summary of the job."""
    return finish(self, job_id, _ranges, store_part)
