"""Jobs wait for a remote that refuses associations "for now". The wait does not count as a try."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pacs_tasks import (
    Category,
    EchoRequest,
    FindRequest,
    GetRequest,
    Job,
    JobState,
    PacsClient,
    PeerBusyError,
    PreflightRequest,
    RetrieveMethod,
    RetrieveRequest,
    StoreDirectoryRequest,
    StoreRequest,
    TransferOutcome,
)
from pacs_tasks.app import create
from pacs_tasks.fleet.leases import START, AssociationLeases, name_of
from pacs_tasks.settings import Settings
from pacs_tasks.testing import EVERY_INSTANCE, Faults, TestPACS
from pacs_tasks.testing.faults import LOCAL_LIMIT_EXCEEDED
from tests.support import workers
from tests.support.dicom_files import study_uid, write_series
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

LIMIT = 60


@pytest.fixture(scope="module")
def client(redis_process: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PacsClient]:
    """A client of a worker with three processes and no retries; each test has a remote of its own."""
    url, settings = redis_process.fresh_url(), {"PACS_TASKS_MAX_RETRIES": "0"}
    directory = tmp_path_factory.mktemp("busy")
    with workers.worker(url, directory, concurrency=3, **settings), PacsClient(url) as running:
        yield running


def transferred(job: Job) -> TransferOutcome:
    """The outcome of a job, once it has ended."""
    job.wait(LIMIT)
    outcome = job.outcome()
    assert isinstance(outcome, TransferOutcome)
    return outcome


def test_a_peer_that_takes_fewer_associations_than_we_open_gets_everything(
    client: PacsClient, pacs: TestPACS, tmp_path: Path
) -> None:
    """It refuses two of three associations all the time."""
    write_series(tmp_path / "files", 60, rows=2)
    pacs.faults = Faults(association_limit=1, delay=0.01)
    job = client.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / "files")))
    assert transferred(job).category is Category.SUCCESS
    assert (len(pacs.stores), pacs.most_associations) == (60, 1)
    assert len(pacs.calling_aets) > pacs.associations


def test_an_echo_says_that_the_peer_is_busy_and_gives_up(client: PacsClient) -> None:
    """The progress names the refusal at once, and the echo ends after its time-out."""
    seen: list[str] = []
    with TestPACS(faults=Faults(rejection=LOCAL_LIMIT_EXCEEDED)) as pacs:
        job = client.enqueue(EchoRequest(remote=pacs.remote, timeout=2))
        job.wait(LIMIT, lambda progress: seen.append(progress.waiting_reason))
    assert any("local limit exceeded" in reason for reason in seen)
    with pytest.raises(PeerBusyError, match="accepted no association"):
        job.outcome()


def test_every_request_waits_for_a_busy_peer(client: PacsClient, tmp_path: Path) -> None:
    """Each request succeeds at the third association."""
    files = write_series(tmp_path / "files", 2)
    study = study_uid()
    with TestPACS(instances=files) as pacs:
        remote = pacs.remote
        for request in (
            EchoRequest(remote=remote),
            FindRequest(remote=remote),
            PreflightRequest(remote=remote, directory=str(tmp_path / "files")),
            StoreRequest(remote=remote, path=str(files[0])),
            GetRequest(remote=remote, study_uid=study, output_dir=str(tmp_path / "got")),
            RetrieveRequest(
                remote=remote, study_uid=study, output_dir=str(tmp_path / "retrieved"), method=RetrieveMethod.GET
            ),
        ):
            pacs.faults = Faults(busy_associations=len(pacs.calling_aets) + 2)
            before = pacs.associations
            job = client.enqueue(request)
            assert job.wait(LIMIT).state is JobState.DONE, request.task
            assert job.outcome().category is Category.SUCCESS
            assert pacs.associations > before


def test_a_busy_peer_does_not_hide_a_failure(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """Out of resources (A700) counts as a try, and only one is allowed here."""
    write_series(tmp_path / "files", 4)
    pacs.faults = Faults(busy_associations=3, store_status={EVERY_INSTANCE: 0xA700})
    job = client.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / "files"), files_per_task=4))
    assert transferred(job).counters.failed == len(pacs.stores) == 4


def ages_go_by(client: PacsClient, pacs: TestPACS, job: Job) -> None:
    """Pretend that the remote has refused, and the job has waited, for a very long time."""
    budget, redis = AssociationLeases(client.ledger.client), client.ledger.client
    wait_until(lambda: budget.refused_for(name_of(pacs.remote), 0), 20, "the peer refuses")
    redis.set(f"pacs_tasks:associations:refusing:{name_of(pacs.remote)}", "1.0", keepttl=True)
    redis.hset(f"pacs_tasks:job:{job.id}", "started", "1.0")


@pytest.mark.parametrize("give_up_after", [1.0, None])
def test_a_peer_that_refuses_for_ever_is_given_up(
    client: PacsClient, pacs: TestPACS, tmp_path: Path, give_up_after: float | None
) -> None:
    """The request or the settings give the time. A resumed job waits as long again for the rest."""
    write_series(tmp_path / "files", 5)
    pacs.faults = Faults(rejection=LOCAL_LIMIT_EXCEEDED)
    request = StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / "files"), give_up_after=give_up_after)
    job = client.enqueue(request)
    if give_up_after is None:
        ages_go_by(client, pacs, job)
    assert job.wait(LIMIT).state is JobState.FAILED
    with pytest.raises(PeerBusyError, match=f"resume {job.id}.*local limit exceeded"):
        job.outcome()
    refused = len(pacs.calling_aets)
    if give_up_after is None:
        job.resume()
        wait_until(lambda: len(pacs.calling_aets) > refused + 2, 45, "it is asked again, after half a minute at most")
        assert job.state is JobState.RUNNING
        pacs.faults = Faults()
    else:
        pacs.faults = Faults()
        job.resume()
    assert transferred(job).counters.success == len(pacs.instances) == 5
    assert AssociationLeases(client.ledger.client).refused_for(name_of(pacs.remote), 0) == 0


def test_a_job_without_a_lease_asks_before_it_gives_up(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """The remote had refused others; that a fleet leases no association says nothing of it now."""
    write_series(tmp_path / "files", 2)
    leases, remote = AssociationLeases(client.ledger.client), name_of(pacs.remote)
    others = [f"other {number}" for number in range(START)]
    for other in others:
        assert leases.request(remote, other, START, wait=False).granted
    client.ledger.client.set(f"pacs_tasks:associations:refusing:{remote}", "1.0", ex=90)
    job = client.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / "files"), give_up_after=0))
    away = f"pacs_tasks:associations:away:{remote}"
    wait_until(lambda: client.ledger.client.exists(away) or job.state is JobState.FAILED, 20)
    assert (job.state, pacs.calling_aets) == (JobState.RUNNING, [])
    for other in others:
        leases.release(remote, other, START)
    assert transferred(job).counters.success == len(pacs.instances) == 2


def test_a_planner_that_comes_late_repeats_what_ended_the_job(
    client: PacsClient, pacs: TestPACS, tmp_path: Path
) -> None:
    """The remote has accepted others since, but the job has ended and does not come again."""
    write_series(tmp_path / "files", 2)
    pacs.faults = Faults(rejection=LOCAL_LIMIT_EXCEEDED)
    job = client.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / "files"), give_up_after=0))
    assert job.wait(LIMIT).state is JobState.FAILED
    with create(client.redis_url, Settings(redis_url=client.redis_url)) as app:
        app.backend.forget(job.id)
        client.ledger.client.delete(f"pacs_tasks:associations:refusing:{name_of(pacs.remote)}")
        app.send_task(job.progress().task, task_id=job.id)
        wait_until(lambda: app.backend.get_task_meta(job.id, cache=False)["status"] in {"RETRY", "FAILURE"}, 20)
        assert app.backend.get_task_meta(job.id, cache=False)["status"] == "FAILURE"


def test_a_single_answer_is_given_up_too(client: PacsClient, pacs: TestPACS) -> None:
    """The class of the error shows that the remote was busy."""
    pacs.faults = Faults(rejection=LOCAL_LIMIT_EXCEEDED)
    job = client.enqueue(EchoRequest(remote=pacs.remote))
    ages_go_by(client, pacs, job)
    assert job.wait(LIMIT).state is JobState.FAILED
    with pytest.raises(PeerBusyError, match="local limit exceeded"):
        job.outcome()
