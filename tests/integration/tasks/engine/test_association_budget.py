"""The association budget as jobs experience it: several workers never open more associations than a PACS may have."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import pytest

from pacs_tasks import (
    EchoRequest,
    FindRequest,
    GetRequest,
    Job,
    JobState,
    MoveRequest,
    PacsClient,
    PreflightRequest,
    RemoteAE,
    RetrieveMethod,
    RetrieveRequest,
    StoreDirectoryRequest,
    StoreRequest,
    TransferOutcome,
)
from pacs_tasks.app import create
from pacs_tasks.fleet.leases import LIFETIME, AssociationLeases, Associations, name_of
from pacs_tasks.request import AnyRequest
from pacs_tasks.settings import Settings
from pacs_tasks.tasks.engine.claim import resume_stalled
from pacs_tasks.testing import Faults, Silence, TestPACS
from tests.support import workers
from tests.support.dicom_files import study_uid, write_series
from tests.support.leases import held, in_use
from tests.support.peers import Directory
from tests.support.waiting import wait_until

LIMIT = 60


@pytest.fixture
def own(redis_url: str) -> Iterator[PacsClient]:
    """A client of a Redis of its own, without a worker as yet."""
    with PacsClient(redis_url) as client:
        yield client


@pytest.fixture
def budget(own: PacsClient) -> AssociationLeases:
    return AssociationLeases(own.ledger.client)


def allowed(pacs: TestPACS | Directory, most: int) -> RemoteAE:
    """The PACS as a remote with this limit of associations."""
    return pacs.remote.model_copy(update={"max_associations": most})


def places(budget: AssociationLeases, remote: RemoteAE) -> tuple[int, int, int] | None:
    """How many associations are in use, may be, and are waited for."""
    found = in_use(budget, str(remote))
    return None if found is None else (found.in_use, found.limit, found.waiting)


def transferred(job: Job) -> TransferOutcome:
    """The outcome of a job, once it has ended."""
    job.wait(LIMIT)
    outcome = job.outcome()
    assert isinstance(outcome, TransferOutcome)
    return outcome


def nothing_left(client: PacsClient) -> None:
    """Whether Redis soon holds no key of the budget."""

    def keys() -> list[str]:
        return cast("list[str]", client.ledger.client.keys("pacs_tasks:associations*"))

    wait_until(lambda: not keys(), LIFETIME / 2, "nothing of the budget is left")


@pytest.mark.parametrize(("pool", "most"), [("prefork", 2), ("threads", 2)])
def test_a_fleet_opens_no_more_associations_than_allowed(
    own: PacsClient, redis_url: str, pacs: TestPACS, tmp_path: Path, pool: str, most: int
) -> None:
    """The PACS counts the associations of several jobs on two workers with three processes each."""
    write_series(tmp_path / "files", 24, rows=2)
    pacs.faults = Faults(delay=0.005)
    with ExitStack() as stack:
        for name in ("one", "two"):
            stack.enter_context(workers.worker(redis_url, tmp_path, name, concurrency=3, pool=pool))
        remote, directory = allowed(pacs, most), str(tmp_path / "files")
        jobs = [own.enqueue(StoreDirectoryRequest(remote=remote, directory=directory)) for _ in range(3)]
        echo = own.enqueue(EchoRequest(remote=remote))
        assert [transferred(job).counters.success for job in jobs] == [24, 24, 24]
        assert echo.wait(LIMIT).state is JobState.DONE
        assert (len(pacs.stores), pacs.most_associations) == (72, most)
        nothing_left(own)


@pytest.mark.dcmtk
def test_an_archive_that_bears_one_association_loses_nothing(
    own: PacsClient, redis_url: str, dcmqrscp: Directory, tmp_path: Path
) -> None:
    """Over two associations at once it reports success for instances that it does not keep."""
    files = 90
    write_series(tmp_path / "files", files)
    with workers.worker(redis_url, tmp_path, concurrency=3):
        request = StoreDirectoryRequest(remote=allowed(dcmqrscp, 1), directory=str(tmp_path / "files"))
        assert transferred(own.enqueue(request)).counters.success == files
    assert len(dcmqrscp.files()) == files


def test_the_settings_bound_a_remote_that_says_nothing(
    own: PacsClient, redis_url: str, pacs: TestPACS, tmp_path: Path
) -> None:
    """One number bounds all remotes, or the name that the worker has for this one."""
    write_series(tmp_path / "files", 16, rows=2)
    pacs.faults = Faults(delay=0.005)
    request = StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / "files"))
    with workers.worker(redis_url, tmp_path, "all", concurrency=4, PACS_TASKS_MAX_ASSOCIATIONS="2"):
        assert transferred(own.enqueue(request)).counters.success == 16
    assert pacs.most_associations == 2
    (tmp_path / "pacs-tasks.toml").write_text(
        f'[remotes.archive]\nae_title = "TESTPACS"\nhost = "127.0.0.1"\nport = {pacs.port}\nmax_associations = 1\n'
    )
    pacs.most_associations = 0
    with workers.worker(
        redis_url, tmp_path, "named", concurrency=4, PACS_TASKS_CONFIG=str(tmp_path / "pacs-tasks.toml")
    ):
        assert transferred(own.enqueue(request)).counters.success == 16
    assert pacs.most_associations == 1


def every_request(remote: RemoteAE, directory: Path) -> list[AnyRequest]:
    """One request of each kind; the directory holds ``files/000001.dcm``, the remote a study."""
    files, study = directory / "files", study_uid()
    return [
        EchoRequest(remote=remote),
        FindRequest(remote=remote),
        PreflightRequest(remote=remote, directory=str(files)),
        StoreRequest(remote=remote, path=str(files / "000001.dcm")),
        MoveRequest(remote=remote, study_uid=study, move_aet="NOBODY"),
        GetRequest(remote=remote, study_uid=study, output_dir=str(directory / "got")),
        RetrieveRequest(
            remote=remote, study_uid=study, output_dir=str(directory / "retrieved"), method=RetrieveMethod.GET
        ),
    ]


def test_every_kind_of_association_counts(client: PacsClient, tmp_path: Path) -> None:
    """No job opens an association while another holds the only lease; each goes on when it is free."""
    budget = AssociationLeases(client.ledger.client)
    with TestPACS(instances=write_series(tmp_path / "files", 2)) as pacs:
        remote = allowed(pacs, 1)
        for request in every_request(remote, tmp_path):
            before = pacs.associations
            with held(budget, name_of(remote)) as give_back:
                job = client.enqueue(request)
                wait_until(lambda: places(budget, remote) == (1, 1, 1), 20, f"{request.task} waits")
                assert (job.state, pacs.associations) == (JobState.RUNNING, before)
                give_back()
                assert job.wait(LIMIT).state is JobState.DONE, request.task
            assert pacs.associations > before
            wait_until(lambda: not in_use(budget, str(remote)), LIFETIME / 2, "the lease is given back")
        assert pacs.most_associations == 1


def test_the_lease_of_a_killed_worker_is_free_within_its_lifetime(
    own: PacsClient, budget: AssociationLeases, redis_url: str, tmp_path: Path
) -> None:
    """It is not free before: the remote may still have the association open."""
    write_series(tmp_path / "files", 1)
    with TestPACS(faults=Faults(silence=Silence.STORE)) as pacs:
        remote = allowed(pacs, 1)
        with workers.worker(redis_url, tmp_path, concurrency=1) as worker:
            own.enqueue(StoreRequest(remote=remote, path=str(tmp_path / "files/000001.dcm")))
            wait_until(lambda: pacs.open_associations, 20, "the file is on its way")
            worker.kill()
        killed = time.monotonic()
        answer = budget.request(name_of(remote), "next", 1, wait=True)
        assert not answer.granted
        assert LIFETIME / 2 < answer.patience <= LIFETIME
        wait_until(lambda: budget.request(name_of(remote), "next", 1, wait=True).granted, LIFETIME + 5, "the lease")
        # The worker renewed it for the last time before it died; it is not granted before it has expired.
        assert time.monotonic() - killed > LIFETIME / 2
        budget.release(name_of(remote), "next", 1)
        nothing_left(own)


def test_a_lease_that_redis_lost_is_taken_again(
    own: PacsClient, budget: AssociationLeases, redis_url: str, pacs: TestPACS, tmp_path: Path
) -> None:
    """The transfer in progress goes on."""
    write_series(tmp_path / "files", 40)
    pacs.faults = Faults(hold_instances_after=3)
    request = StoreDirectoryRequest(remote=allowed(pacs, 1), directory=str(tmp_path / "files"), files_per_task=40)
    with workers.worker(redis_url, tmp_path, concurrency=2):
        job = own.enqueue(request)
        wait_until(lambda: len(pacs.stores) > 2, 20, "some files are sent")
        lost = cast("list[str]", own.ledger.client.keys("pacs_tasks:associations*"))
        # In one step, because the worker may renew its lease at any time.
        with own.ledger.client.pipeline(transaction=True) as step:
            step.delete(*lost)
            step.keys("pacs_tasks:associations*")
            assert step.execute()[1] == []
        wait_until(budget.in_use, LIFETIME, "the lease is taken again")
        pacs.faults = Faults()
        assert transferred(job).counters.success == len(pacs.stores) == 40
        assert pacs.associations == 2  # one of the planner
        nothing_left(own)


def test_a_cancel_ends_the_wait_for_an_association(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """A cancel works while a part waits in line and while it is on the queue; no waiter stays in the line."""
    write_series(tmp_path, 5)
    budget, remote = AssociationLeases(client.ledger.client), allowed(pacs, 1)
    alone = Associations(remote=str(remote), in_use=1, limit=1, waiting=0, ceiling=1)
    with held(budget, name_of(remote)):
        jobs = [
            client.enqueue(StoreDirectoryRequest(remote=remote, directory=str(tmp_path))),
            client.enqueue(EchoRequest(remote=remote)),
        ]
        wait_until(lambda: jobs[0].progress().counters.total, 20, "the parts")
        for job in jobs:
            job.cancel()
        # The lease stays held: only the cancel ends the jobs.
        assert [job.wait(20).state for job in jobs] == [JobState.CANCELLED, JobState.CANCELLED]
        wait_until(lambda: in_use(budget, str(remote)) == alone, 5, "nobody waits")
    assert pacs.associations == 0
    assert jobs[0].retry().wait(20).counters.success == len(pacs.instances) == 5


def test_a_job_that_waits_for_an_association_does_not_stand_still(
    own: PacsClient, budget: AssociationLeases, redis_url: str, pacs: TestPACS, tmp_path: Path
) -> None:
    """Its parts come again by themselves; no watch enqueues them a second time."""
    write_series(tmp_path / "files", 3)
    remote = allowed(pacs, 1)
    request = StoreDirectoryRequest(remote=remote, directory=str(tmp_path / "files"))
    with (
        create(redis_url, Settings()) as celery,
        workers.worker(redis_url, tmp_path, concurrency=1) as worker,
        held(budget, name_of(remote)) as give_back,
    ):
        job = own.enqueue(request)

        def waited_often() -> bool:
            if not own.ledger.claims.count(job.id):  # A worker checks every 20 s and hardly ever meets a part.
                resume_stalled(celery, own.ledger, 4.0)
            # In the background it waits in line, and its message comes again and again.
            return worker.said().count("] received") > 10

        wait_until(waited_often, 60, "the parts come and go")
        assert "Task pacs_tasks.resume" not in worker.said()
        give_back()
        assert transferred(job).counters.success == len(pacs.stores) == 3


def test_work_for_one_remote_does_not_wait_for_another(
    own: PacsClient, budget: AssociationLeases, redis_url: str, pacs: TestPACS, tmp_path: Path
) -> None:
    """It overtakes any number of parts that wait for another remote."""
    write_series(tmp_path / "files", 24, rows=2)
    directory = str(tmp_path / "files")
    with TestPACS("OTHER") as other, workers.worker(redis_url, tmp_path, concurrency=2):
        remote = allowed(pacs, 1)
        with held(budget, name_of(remote)):
            first = own.enqueue(StoreDirectoryRequest(remote=remote, directory=directory))
            wait_until(lambda: first.progress().counters.total, 20, "the parts of the first job")
            second = own.enqueue(StoreDirectoryRequest(remote=other.remote, directory=directory))
            # The first job cannot go on meanwhile.
            assert (transferred(second).counters.success, first.progress().counters.recorded) == (24, 0)
        assert transferred(first).counters.success == len(pacs.instances) == 24
        nothing_left(own)
