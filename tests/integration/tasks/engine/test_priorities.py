"""Priorities: on the wire, in the queues, and in the order in which a PACS gets what two jobs send."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import cast

import pytest
from celery import Celery

from pacs_tasks import (
    EchoRequest,
    FindBatchRequest,
    FindRequest,
    FindRow,
    GetRequest,
    Job,
    JobState,
    MoveRequest,
    PacsClient,
    Priority,
    RetrieveRequest,
    StoreDirectoryRequest,
    StoreRequest,
)
from pacs_tasks.app import create
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.operations import FIND_QUEUE, MOVE_QUEUE, STORE_QUEUE, UNACKED, queue_key
from pacs_tasks.request import AnyRequest
from pacs_tasks.settings import Settings
from pacs_tasks.tasks.engine.claim import resume_stalled
from pacs_tasks.testing import Faults, TestPACS
from tests.support import workers
from tests.support.dicom_files import UID_ROOT, study_uid, write_series
from tests.support.processes import Process
from tests.support.waiting import wait_until

LIMIT = 120
#: Values of Priority, (0000,0700).
DIMSE = {Priority.STAT: 1, Priority.NORMAL: 0, Priority.BULK: 2}


@pytest.mark.holds((1, 1, 2))
@pytest.mark.parametrize("priority", list(Priority))
def test_the_remote_sees_the_priority(
    client: PacsClient, archive: TestPACS, tmp_path: Path, priority: Priority
) -> None:
    """In every C-STORE, C-FIND, C-MOVE and C-GET request of each kind of job."""
    path, *_ = write_series(tmp_path / "files", 2, series=2)
    remote, one = archive.remote, {"remote": archive.remote, "priority": priority, "study_uid": study_uid()}
    requests: list[AnyRequest] = [
        StoreRequest(remote=remote, priority=priority, path=str(path)),
        StoreDirectoryRequest(remote=remote, priority=priority, directory=str(path.parent)),
        FindRequest(remote=remote, priority=priority),
        FindBatchRequest(remote=remote, priority=priority, rows=(FindRow(number=1, keys={"StudyInstanceUID": "1"}),)),
        MoveRequest(**one, move_aet="NOBODY"),
        GetRequest(**one, output_dir=str(tmp_path / "got")),
        RetrieveRequest(**one, output_dir=str(tmp_path / "retrieved"), method="get"),
    ]
    for request in requests:
        seen = len(archive.priorities)
        client.enqueue(request).wait(LIMIT)
        assert len(archive.priorities) > seen
    assert set(archive.priorities) == {DIMSE[priority]}


@pytest.fixture
def own(redis_url: str) -> Iterator[PacsClient]:
    """A client of a Redis without any worker."""
    with PacsClient(redis_url) as client:
        yield client


@pytest.fixture
def celery(redis_url: str) -> Iterator[Celery]:
    app = create(redis_url, Settings())
    yield app
    app.close()


def waiting(record: Ledger, queue: str) -> dict[int, int]:
    """How many messages of each priority wait in a queue."""
    counts = {each: int(str(record.client.llen(queue_key(queue, each)))) for each in (0, 3, 6, 9)}
    return {each: count for each, count in counts.items() if count}


def test_what_somebody_waits_for_and_planners_go_first(own: PacsClient, celery: Celery) -> None:
    """A single file goes before the parts of jobs. What is published again keeps its priority."""
    requests: dict[str, list[AnyRequest]] = {
        FIND_QUEUE: [EchoRequest(), FindRequest(), FindRequest(priority=Priority.BULK)],
        MOVE_QUEUE: [RetrieveRequest(study_uid="1.2", output_dir="/out", priority=Priority.BULK)],
        STORE_QUEUE: [
            StoreDirectoryRequest(directory="/files", priority=Priority.BULK),
            *(StoreRequest(path="/a", priority=priority) for priority in Priority),
        ],
    }
    expected = {FIND_QUEUE: {0: 2, 9: 1}, MOVE_QUEUE: {0: 1}, STORE_QUEUE: {0: 2, 3: 1, 9: 1}}
    jobs = [own.enqueue(request) for some in requests.values() for request in some]
    assert {queue: waiting(own.ledger, queue) for queue in requests} == expected
    for job in jobs:
        own.ledger.cancel(job.id)
        job.retry()
    assert {queue: waiting(own.ledger, queue) for queue in requests} == {
        queue: {priority: 2 * count for priority, count in counts.items()} for queue, counts in expected.items()
    }
    resume_stalled(celery, own.ledger, 0)
    resume_stalled(celery, own.ledger, 0)
    # `resume` of a job goes where its parts are, after them: three of normal jobs, and one of each other kind.
    assert waiting(own.ledger, STORE_QUEUE) == {0: 4, 3: 2 + 1, 6: 1, 9: 2 + 2}


def test_a_message_keeps_its_priority(own: PacsClient, redis_url: str, tmp_path: Path) -> None:
    """Parts that come again since the remote is busy, and what a worker gives back that ends in good order."""
    files = write_series(tmp_path / "files", 6)
    with TestPACS(faults=Faults(busy_associations=3, hold_instances_after=0)) as pacs:
        own.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(files[0].parent), priority=Priority.BULK))
        with workers.worker(redis_url, tmp_path) as worker:
            wait_until(lambda: pacs.stores, LIMIT, "the first file is sent")
            held = [json.loads(each)[0] for each in cast("list[str]", own.ledger.client.hvals(UNACKED))]
            parts = [each for each in held if each["headers"]["task"] == "pacs_tasks.store_part"]
            assert {each["properties"]["priority"] for each in parts} == {9}
            pacs.faults = Faults(hold_instances_after=1)
            worker.end(LIMIT)
        assert waiting(own.ledger, STORE_QUEUE).keys() <= {9}


class Arrivals:
    """What PACS get of several jobs, whose instances differ by their series.

    Each job sends to another PACS, so that it waits for a process of the worker and for nothing else.
    """

    def __init__(self, stack: ExitStack, client: PacsClient, directory: Path) -> None:
        self._stack, self.client, self._directory = stack, client, directory
        self.jobs: list[Job] = []
        self.pacs: list[TestPACS] = []
        self.stores: list[str] = []
        self.faults = Faults()

    def send(self, count: int, priority: Priority = Priority.NORMAL, files_per_task: int | None = None) -> None:
        """Enqueue a job with so many small files."""
        series = len(self.jobs) + 1
        self.pacs.append(self._stack.enter_context(TestPACS(faults=self.faults)))
        self.pacs[-1].stores = self.stores
        files = write_series(self._directory / str(series), count, series=series, rows=4)
        request = StoreDirectoryRequest(
            remote=self.pacs[-1].remote,
            directory=str(files[0].parent),
            priority=priority,
            files_per_task=files_per_task,
        )
        self.jobs.append(self.client.enqueue(request))

    def order(self) -> Sequence[int]:
        """Wait for all jobs; the number of the job of each instance, from 1 on, in the order of their arrival."""
        for job in self.jobs:
            job.wait(LIMIT)
            assert job.state is JobState.DONE
        return [int(uid.removeprefix(UID_ROOT).split(".")[2]) for uid in self.stores]

    def share_at_the_end_of(self, job: int, other: int) -> float:
        """The share of another job that has arrived when the last instance of a job arrives."""
        order = self.order()
        before = order[: len(order) - order[::-1].index(job)]
        return before.count(other) / order.count(other)


@pytest.fixture
def arrivals(own: PacsClient, tmp_path: Path) -> Iterator[Arrivals]:
    with ExitStack() as stack:
        yield Arrivals(stack, own, tmp_path)


def foreground(redis_url: str, directory: Path, concurrency: int = 2) -> AbstractContextManager[Process]:
    """A worker whose parts take turns; in the background, leases decide."""
    return workers.worker(redis_url, directory, concurrency=concurrency, PACS_TASKS_ASSOCIATIONS_PER_PROCESS="1")


def test_jobs_share_evenly_whoever_came_first(arrivals: Arrivals, redis_url: str, tmp_path: Path) -> None:
    """All parts of the first job are in the queue before those of the second."""
    arrivals.faults = Faults(hold_instances_after=0)
    for _ in range(3):
        arrivals.send(40)
    with foreground(redis_url, tmp_path):
        wait_until(lambda: waiting(arrivals.client.ledger, STORE_QUEUE).get(6, 0) > 110, LIMIT, "all are planned")
        for pacs in arrivals.pacs:
            pacs.faults = Faults()
        arrivals.order()
    assert min(arrivals.share_at_the_end_of(1, other) for other in (2, 3)) > 0.5


def test_a_single_file_does_not_wait_for_a_large_job(arrivals: Arrivals, redis_url: str, tmp_path: Path) -> None:
    """With or without a priority."""
    arrivals.faults = Faults(delay=0.005)
    arrivals.send(2_000)
    with foreground(redis_url, tmp_path):
        for series, priority in ((91, Priority.STAT), (92, Priority.NORMAL)):
            (path,) = write_series(tmp_path / priority, 1, series=series)
            wait_until(lambda: len(arrivals.stores) > 50, LIMIT, "the large job runs")
            request = StoreRequest(remote=arrivals.pacs[0].remote, path=str(path), priority=priority)
            arrivals.client.enqueue(request).wait(LIMIT)
            assert arrivals.jobs[0].state is JobState.RUNNING
        arrivals.jobs[0].cancel()
        arrivals.jobs[0].wait(LIMIT)


def test_bulk_gets_its_twentieth(arrivals: Arrivals, redis_url: str, tmp_path: Path) -> None:
    """While a normal job has work left, which goes before it."""
    arrivals.send(12, Priority.BULK)
    arrivals.send(100)
    with foreground(redis_url, tmp_path, concurrency=1):
        order = arrivals.order()
    assert 3 <= order[:80].count(1) <= 11


def test_a_job_alone_is_not_divided(arrivals: Arrivals, redis_url: str, tmp_path: Path) -> None:
    """Each part runs once, however long it takes."""
    arrivals.faults = Faults(delay=0.02)
    arrivals.send(40, files_per_task=20)
    with foreground(redis_url, tmp_path, concurrency=1) as worker:
        arrivals.order()
        assert "Retry in" not in worker.said()
