"""Redis is unavailable in the middle of a job: no file is lost, and none goes twice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from celery import Celery, Task
from celery.exceptions import Reject

from pacs_tasks import Category, Job, JobState, PacsClient, StoreDirectoryRequest
from pacs_tasks.app import create
from pacs_tasks.outcome import TransferOutcome
from pacs_tasks.settings import Settings
from pacs_tasks.tasks.engine.base import come_again
from pacs_tasks.tasks.engine.job import errors_recorded
from pacs_tasks.testing import EVERY_INSTANCE, Faults, TestPACS
from tests.support import workers
from tests.support.dicom_files import write_series
from tests.support.ports import free_port
from tests.support.redis_server import redis_server
from tests.support.waiting import wait_until

LIMIT = 60


@pytest.fixture
def own_url(tmp_path: Path) -> Iterator[str]:
    """The address of a Redis that no other test uses."""
    (tmp_path / "redis").mkdir()
    with redis_server(tmp_path / "redis") as running:
        yield running.url()


@pytest.fixture
def own(own_url: str) -> Iterator[PacsClient]:
    with PacsClient(own_url) as client:
        yield client


@pytest.fixture
def dead() -> Iterator[Celery]:
    """An app without a Redis."""
    with create(f"redis://127.0.0.1:{free_port()}/0", Settings(redis_timeout=0.5)) as app:
        yield app


def directory_job(client: PacsClient, pacs: TestPACS, directory: Path, count: int) -> Job:
    write_series(directory, count)
    return client.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(directory), files_per_task=count))


def transferred(job: Job) -> TransferOutcome:
    """The outcome of a job, once it has ended."""
    job.wait(LIMIT)
    outcome = job.outcome()
    assert isinstance(outcome, TransferOutcome)
    return outcome


@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_part_goes_on_while_its_broker_is_lost(pacs: TestPACS, tmp_path: Path, concurrency: int) -> None:
    """Redis dies and comes back. The part never stopped, so no file goes twice and nobody waits for it. The worker,
    whose second process waits for work meanwhile, serves the next job.
    """
    pacs.faults = Faults(hold_instances_after=6)
    with ExitStack() as stack:
        server = stack.enter_context(redis_server(tmp_path, free_port(), durable=True))
        client = stack.enter_context(PacsClient(server.url()))
        worker = stack.enter_context(workers.worker(server.url(), tmp_path, concurrency=concurrency))
        job = directory_job(client, pacs, tmp_path / "files", 40)
        wait_until(lambda: len(pacs.stores) > 6, 20, "some files are sent")
        associations = pacs.associations
        server.process.kill()
        pacs.faults = Faults(delay=0.02)
        wait_until(lambda: "Connection to broker lost" in worker.said(), 20, "the worker to notice")
        stack.enter_context(redis_server(tmp_path, server.port, durable=True))
        back = time.monotonic()
        outcome = transferred(job)
        assert time.monotonic() - back < 15
        assert (outcome.category, outcome.counters.success, len(pacs.stores)) == (Category.SUCCESS, 40, 40)
        # Another worker in its place would have opened another one.
        assert pacs.associations == associations
        assert transferred(directory_job(client, pacs, tmp_path / "more", 3)).category is Category.SUCCESS
        assert "Unrecoverable" not in worker.said()


def test_a_planner_that_cannot_publish_goes_back(own: PacsClient, dead: Celery, tmp_path: Path) -> None:
    """Its job does not change: a lack of Redis is neither a failure of the job nor a defect."""
    job = own.enqueue(StoreDirectoryRequest(directory=str(tmp_path)))
    task = _running(dead, job.id)
    with pytest.raises(Reject) as ended, errors_recorded(task):
        dead.send_task("pacs_tasks.store_part", args=[job.id, 0, 1], ignore_result=True)
    assert ended.value.requeue
    assert job.state is JobState.QUEUED


def test_a_part_that_cannot_come_again_later_goes_back_now(dead: Celery) -> None:
    """Celery alone would drop it."""
    with pytest.raises(Reject) as ended:
        come_again(_running(dead, "job"), 1)
    assert ended.value.requeue


def _running(app: Celery, task_id: str) -> Task:
    """A task in the middle of its run."""

    @app.task(bind=True, name="tests.running", ignore_result=True)  # type: ignore[untyped-decorator]
    def running(_: Task) -> None: ...

    task = running
    task.push_request(id=task_id, args=[], kwargs={}, called_directly=False, delivery_info={}, retries=0)
    return task


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # Celery's own, when it stores a result
def test_the_end_of_an_earlier_attempt_is_not_the_last_word(
    own: PacsClient, own_url: str, pacs: TestPACS, tmp_path: Path
) -> None:
    """It comes after the job was retried; Celery alone would keep that result for good."""
    with workers.worker(own_url, tmp_path, concurrency=1), create(own_url, Settings()) as app:
        pacs.faults = Faults(store_status={EVERY_INSTANCE: 0xA900})
        job = directory_job(own, pacs, tmp_path / "files", 3)
        earlier = transferred(job).summary()
        pacs.faults = Faults(hold_instances_after=len(pacs.stores))
        job.retry()
        app.backend.store_result(job.id, earlier, "SUCCESS")
        pacs.faults = Faults()
        later = transferred(job).summary()
        wait_until(lambda: not own.ledger.client.exists("pacs_tasks.unacked"), 20, "all is done")
        assert (earlier["failed"], later["success"]) == (3, 3)
        assert app.backend.get_task_meta(job.id)["result"] == later


def test_celery_has_the_summary_although_the_last_part_died_before_it_told(
    own: PacsClient, own_url: str, pacs: TestPACS, tmp_path: Path
) -> None:
    """The ledger had ended the job; the repeated part finds that Celery has no result."""
    with workers.worker(own_url, tmp_path, concurrency=1), create(own_url, Settings()) as app:
        job = directory_job(own, pacs, tmp_path / "files", 2)
        summary = transferred(job).summary()
        wait_until(lambda: not own.ledger.client.exists("pacs_tasks.unacked"), 20, "all is done")
        app.backend.forget(job.id)
        app.send_task("pacs_tasks.store_part", args=[job.id, 0, 2])
        wait_until(lambda: app.backend.get_task_meta(job.id)["status"] == "SUCCESS", 20, "the summary")
        assert app.backend.get_task_meta(job.id)["result"] == summary
        assert len(pacs.stores) == 2
