"""A worker that shuts down finishes the file in progress and leaves the rest to another worker; no file goes twice."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pacs_tasks import Category, PacsClient, RetrieveMethod, RetrieveRequest, StoreDirectoryRequest, TransferOutcome
from pacs_tasks.client import Job
from pacs_tasks.testing import Faults, TestPACS
from tests.support import workers
from tests.support.dicom_files import study_uid, write_series
from tests.support.redis_server import redis_server
from tests.support.waiting import wait_until

FILES = 60
#: So many instances are sent or received before a worker shuts down.
SOME = 10


@pytest.fixture
def own(redis_url: str) -> Iterator[PacsClient]:
    with PacsClient(redis_url) as client:
        yield client


def finished(job: Job) -> TransferOutcome:
    job.wait(60)
    outcome = job.outcome()
    assert isinstance(outcome, TransferOutcome)
    return outcome


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_sending_goes_on_with_another_worker(
    own: PacsClient, redis_url: str, pacs: TestPACS, tmp_path: Path, pool: str
) -> None:
    """A part ends after the file in progress, not after its last file."""
    write_series(tmp_path / "files", FILES, rows=2)
    pacs.faults = Faults(hold_instances_after=SOME)
    request = StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / "files"), files_per_task=FILES // 2)
    job = own.enqueue(request)
    with workers.worker(redis_url, tmp_path, "first", pool=pool) as first:
        wait_until(lambda: len(pacs.stores) > SOME, 30, "some files are sent")
        first.popen.send_signal(signal.SIGTERM)
        wait_until(lambda: "Warm shutdown" in first.said(), 20, "the worker to know")
        pacs.faults = Faults(delay=0.1)
        wait_until(lambda: not first.running(), 20, "the worker to end")
        sent = len(pacs.stores)
        assert sent < FILES / 2
        assert job.progress().counters.success == sent
        wait_until(lambda: pacs.open_associations == 0, 5, "the peer to see the end of the associations")
        assert own.ledger.claims.count(job.id) == 0
        assert "Traceback" not in first.said()
    pacs.faults = Faults()
    with workers.worker(redis_url, tmp_path, "second"):
        outcome = finished(job)
    assert (outcome.category, outcome.counters.success) == (Category.SUCCESS, FILES)
    assert len(pacs.stores) == len(pacs.instances) == FILES
    assert all(receipt.attempts == 1 for receipt in job.instances())


def test_retrieving_goes_on_with_another_worker(own: PacsClient, redis_url: str, tmp_path: Path) -> None:
    """Instances that have arrived count; the other worker fetches the rest."""
    paths = write_series(tmp_path / "files", FILES, rows=2)
    with TestPACS(instances=paths, faults=Faults(hold_instances_after=SOME)) as pacs:
        out = tmp_path / "out"
        request = RetrieveRequest(
            remote=pacs.remote, study_uid=study_uid(), output_dir=str(out), method=RetrieveMethod.GET
        )
        job = own.enqueue(request)
        with workers.worker(redis_url, tmp_path, "first") as first:
            wait_until(lambda: len(list(out.rglob("*.dcm"))) > 4, 30, "some instances have come")
            first.popen.send_signal(signal.SIGTERM)
            wait_until(lambda: not first.running(), 20, "the worker to end")
            assert "Traceback" not in first.said()
        counters = job.progress().counters
        assert 0 < counters.success <= SOME
        assert counters.missing == counters.failed == 0
        pacs.faults = Faults()
        with workers.worker(redis_url, tmp_path, "second"):
            outcome = finished(job)
        assert (outcome.category, outcome.counters.success) == (Category.SUCCESS, FILES)
        assert len(list(out.rglob("*.dcm"))) == FILES


def test_a_worker_ends_although_its_redis_has_gone(tmp_path: Path) -> None:
    """As when all containers stop at once: it does not wait for Redis until the engine kills it."""
    with redis_server(tmp_path) as server, workers.worker(server.url(), tmp_path) as process:
        server.process.kill()
        wait_until(lambda: "Cannot connect to" in process.said(), 20, "the worker to miss Redis")
        process.popen.send_signal(signal.SIGTERM)
        wait_until(lambda: not process.running(), 20, "the worker to end")
        assert "Traceback" not in process.said().partition("Warm shutdown")[2]
