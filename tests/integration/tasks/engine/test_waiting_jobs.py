"""A PACS goes down in the middle: its jobs wait for it, use up no tries, and go on when it is back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pacs_tasks import (
    Category,
    InvalidRequestError,
    Job,
    JobState,
    PacsClient,
    PeerUnavailableError,
    RetrieveMethod,
    RetrieveRequest,
    StoreDirectoryRequest,
    TransferOutcome,
)
from pacs_tasks.testing import Faults, TestPACS
from tests.support import workers
from tests.support.dicom_files import study_uid, write_series
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

FILES = 40
#: Most seconds from the return of a remote to the end of the job: the probe's longest pause and the work.
RETURN = 25


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def client(redis_process: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PacsClient]:
    """A client of a Redis and a worker that these tests share; each has a remote of its own."""
    url = redis_process.fresh_url()
    with workers.worker(url, tmp_path_factory.mktemp("waiting")), PacsClient(url) as own:
        yield own


def begun(client: PacsClient, port: int, directory: Path, **options: float) -> tuple[Job, list[str]]:
    """A job whose remote goes down after a few files, and the instances that this remote has received."""
    write_series(directory, FILES, rows=2)
    with TestPACS(port=port, faults=Faults(hold_instances_after=5)) as pacs:
        request = StoreDirectoryRequest(remote=pacs.remote, directory=str(directory), **options)
        job = client.enqueue(request)
        wait_until(lambda: len(pacs.stores) >= 5, 20, "some files are sent")
    return job, pacs.stores


def outcome_of(job: Job, limit: float = RETURN) -> TransferOutcome:
    job.wait(limit)
    outcome = job.outcome()
    assert isinstance(outcome, TransferOutcome)
    return outcome


def nothing_left(client: PacsClient) -> bool:
    """Whether no remote counts as down and no job waits for one. Each test waits for that before the next begins.

    A failure that a part counts after its job has given up is forgotten in two minutes.
    """
    redis = client.ledger.client
    return not [*redis.scan_iter("pacs_tasks:outages"), *redis.scan_iter("pacs_tasks:outage:*:jobs")]


def test_a_send_waits_and_goes_on(client: PacsClient, port: int, tmp_path: Path) -> None:
    """The job names the remote that it waits for; no file goes twice, and none fails meanwhile."""
    job, before = begun(client, port, tmp_path / "files")
    wait_until(lambda: job.progress().waiting_for, 30, "the job to wait")
    seen = job.progress()
    assert seen.state is JobState.RUNNING
    assert f"127.0.0.1:{port}" in seen.waiting_for
    assert "refused" in seen.waiting_reason
    assert seen.counters.failed == 0
    wait_until(lambda: client.ledger.claims.count(job.id) == 0, 10, "no worker is held up by it")
    with TestPACS(port=port) as pacs:
        outcome = outcome_of(job)
    assert (outcome.category, outcome.counters.success) == (Category.SUCCESS, FILES)
    # Files that the first PACS had received and not answered when it went down go twice.
    assert FILES - len(set(before)) <= len(pacs.stores) <= FILES - len(set(before)) + 4
    assert len(set(before) | set(pacs.stores)) == FILES
    assert nothing_left(client)


def test_a_retrieve_waits_and_goes_on(client: PacsClient, port: int, tmp_path: Path) -> None:
    """A retrieve waits in the same manner."""
    paths = write_series(tmp_path / "files", FILES, rows=2) + write_series(tmp_path / "more", 5, series=2, rows=2)
    with TestPACS(port=port, instances=paths, faults=Faults(hold_instances_after=3)) as pacs:
        request = RetrieveRequest(
            remote=pacs.remote,
            study_uid=study_uid(),
            output_dir=str(tmp_path / "out"),
            method=RetrieveMethod.GET,
        )
        job = client.enqueue(request)
        wait_until(lambda: job.progress().counters.total, 20, "the promise")
    wait_until(lambda: job.progress().waiting_for, 30, "the job to wait")
    with TestPACS(port=port, instances=paths):
        outcome = outcome_of(job)
    assert (outcome.category, outcome.counters.success) == (Category.SUCCESS, FILES + 5)
    assert len(list((tmp_path / "out").rglob("*.dcm"))) == FILES + 5
    assert nothing_left(client)


def test_who_gives_up_can_resume(client: PacsClient, port: int, tmp_path: Path) -> None:
    """Files that were sent stay sent, and the error says how to go on."""
    job, _ = begun(client, port, tmp_path / "files", give_up_after=1)
    progress = job.wait(40)
    assert progress.state is JobState.FAILED
    assert 0 < progress.counters.success < FILES
    assert progress.counters.failed == 0
    with pytest.raises(PeerUnavailableError, match="pacs-tasks resume"):
        job.outcome()
    assert nothing_left(client)
    with TestPACS(port=port):
        assert outcome_of(job.resume()).counters.success == FILES
    with pytest.raises(InvalidRequestError, match="nothing to resume"):
        job.resume()


def test_a_job_that_waits_can_be_cancelled(client: PacsClient, port: int, tmp_path: Path) -> None:
    """It ends at once, because no worker holds it."""
    job, _ = begun(client, port, tmp_path / "files")
    wait_until(lambda: job.progress().waiting_for, 30, "the job to wait")
    wait_until(lambda: client.ledger.claims.count(job.id) == 0, 10, "nobody is at it")
    job.cancel()
    assert job.wait(5).state is JobState.CANCELLED
    assert not job.progress().waiting_for
    wait_until(lambda: nothing_left(client), 30, "the outage to be forgotten")


def test_a_job_that_finds_its_peer_down_at_once_says_so(client: PacsClient, port: int, tmp_path: Path) -> None:
    """Someone who types a wrong port must not wait an hour for the error."""
    with TestPACS() as pacs:
        remote = pacs.remote.model_copy(update={"port": port})
    write_series(tmp_path / "files", 3)
    job = client.enqueue(StoreDirectoryRequest(remote=remote, directory=str(tmp_path / "files")))
    assert job.wait(20).state is JobState.FAILED
    assert not job.progress().waiting_for


def test_work_for_another_peer_goes_on_meanwhile(client: PacsClient, port: int, tmp_path: Path) -> None:
    """A job that waits occupies no worker."""
    job, _ = begun(client, port, tmp_path / "files")
    wait_until(lambda: job.progress().waiting_for, 30, "the job to wait")
    write_series(tmp_path / "others", 10)
    with TestPACS() as other:
        done = client.enqueue(StoreDirectoryRequest(remote=other.remote, directory=str(tmp_path / "others")))
        assert outcome_of(done).counters.success == 10
    job.cancel()
    assert job.wait(10).state is JobState.CANCELLED
    wait_until(lambda: nothing_left(client), 30, "the outage to be forgotten")


def test_the_same_key_gives_the_same_job(client: PacsClient, tmp_path: Path) -> None:
    """A repeated request gives the same job; another request under that key is refused."""
    write_series(tmp_path / "files", 5)
    with TestPACS() as pacs:
        request = StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / "files"))
        jobs = [client.enqueue(request, idempotency_key="study 1 张") for _ in range(3)]
        assert len({job.id for job in jobs}) == 1
        assert outcome_of(jobs[0]).counters.success == 5
        assert client.enqueue(request, idempotency_key="study 1 张").state is JobState.DONE
        assert len(pacs.stores) == 5
        with pytest.raises(InvalidRequestError, match="another key"):
            client.enqueue(request.model_copy(update={"files_per_task": 2}), idempotency_key="study 1 张")
