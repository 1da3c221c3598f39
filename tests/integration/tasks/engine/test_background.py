"""A task that waits for a remote gives its process back: two processes serve everybody, whoever is silent."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from pydicom import dcmread

from pacs_tasks import (
    Category,
    EchoRequest,
    FindRequest,
    Job,
    JobState,
    PacsClient,
    PeerUnavailableError,
    RetrieveMethod,
    RetrieveRequest,
    StoreDirectoryRequest,
    StoreRequest,
    TransferOutcome,
)
from pacs_tasks.app import create
from pacs_tasks.errors import JobNotFoundError
from pacs_tasks.operations import FIND_QUEUE, QUEUE_KEYS, UNACKED
from pacs_tasks.settings import Settings
from pacs_tasks.testing import EVERY_INSTANCE, Faults, Silence, TestPACS
from tests.support import workers
from tests.support.dicom_files import study_uid, write_many, write_series
from tests.support.processes import Process
from tests.support.waiting import wait_until

LIMIT = 60
#: No limit of time ends a wait for a silent remote within a test, and every part may have an association.
PATIENT: dict[str, Any] = {"PACS_TASKS_TIMEOUT": "600", "PACS_TASKS_MAX_ASSOCIATIONS": "20"}


@pytest.fixture
def own(redis_url: str) -> Iterator[PacsClient]:
    with PacsClient(redis_url) as client:
        yield client


@pytest.fixture
def celery(redis_url: str) -> Iterator[Celery]:
    with create(redis_url, Settings()) as app:
        yield app


@pytest.fixture
def worker(redis_url: str, tmp_path: Path) -> Iterator[Process]:
    with workers.worker(redis_url, tmp_path, **PATIENT) as process:
        yield process
        assert "Traceback" not in process.said()


@pytest.fixture
def silent() -> Iterator[TestPACS]:
    """A PACS that holds its answers to C-STORE, and what it sends, until its faults are replaced."""
    with TestPACS(ae_title="SILENT", faults=Faults(hold_instances_after=0)) as pacs:
        yield pacs
        pacs.faults = Faults()


def transferred(job: Job) -> TransferOutcome:
    job.wait(LIMIT)
    outcome = job.outcome()
    assert isinstance(outcome, TransferOutcome)
    return outcome


def send(client: PacsClient, pacs: TestPACS, directory: Path, count: int, files_per_task: int = 3) -> Job:
    write_series(directory, count, rows=2)
    return client.enqueue(
        StoreDirectoryRequest(remote=pacs.remote, directory=str(directory), files_per_task=files_per_task)
    )


def children(pid: int) -> list[int]:
    """The processes of the worker."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_others_are_served_while_a_directory_waits_for_a_silent_pacs(
    own: PacsClient, worker: Process, silent: TestPACS, pacs: TestPACS, tmp_path: Path
) -> None:
    """More parts wait than there are processes; when the PACS answers, each file has gone once."""
    paths = write_series(tmp_path / "others", 12, rows=2)
    bulk = send(own, silent, tmp_path / "files", 30)
    wait_until(lambda: len(silent.stores) > 2, LIMIT, "more parts wait than there are processes")
    requests: list[EchoRequest | FindRequest | StoreRequest] = [
        EchoRequest(remote=pacs.remote),
        EchoRequest(remote=silent.remote),
        FindRequest(remote=pacs.remote, level="STUDY", keys={"StudyInstanceUID": ""}),
        StoreRequest(remote=pacs.remote, path=str(paths[0])),
    ]
    jobs = [own.enqueue(each) for each in requests]
    other = own.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / "others")))
    for job in jobs:
        job.wait(LIMIT)
        assert job.outcome().category is Category.SUCCESS
    assert transferred(other).counters.success == 12
    assert bulk.progress().counters.recorded == 0
    silent.faults = Faults()
    assert (transferred(bulk).category, len(silent.stores), len(silent.instances)) == (Category.SUCCESS, 30, 30)
    assert all(receipt.attempts == 1 for receipt in bulk.instances())


def test_others_are_served_while_a_retrieve_waits(
    own: PacsClient, worker: Process, pacs: TestPACS, tmp_path: Path
) -> None:
    held = write_many(tmp_path / "held", (1, 1, 3), (1, 2, 3), (1, 3, 3), (1, 4, 3))
    with TestPACS(instances=held, faults=Faults(hold_instances_after=0)) as archive:
        out = tmp_path / "out"
        request = RetrieveRequest(
            remote=archive.remote, study_uid=study_uid(), output_dir=str(out), method=RetrieveMethod.GET
        )
        retrieve = own.enqueue(request)
        wait_until(lambda: sum("PatientID" not in each for each in archive.identifiers) > 2, LIMIT, "three parts wait")
        echoes = [own.enqueue(EchoRequest(remote=each)) for each in (pacs.remote, archive.remote)]
        for echo in echoes:
            echo.wait(LIMIT)
        assert not list(out.rglob("*.dcm"))
        archive.faults = Faults()
        assert (transferred(retrieve).category, len(list(out.rglob("*.dcm")))) == (Category.SUCCESS, 12)


def test_a_cancelled_part_in_the_background_ends(
    own: PacsClient, worker: Process, silent: TestPACS, pacs: TestPACS, tmp_path: Path
) -> None:
    bulk = send(own, silent, tmp_path / "files", 30)
    wait_until(lambda: len(silent.stores) > 2, LIMIT, "more parts wait than there are processes")
    bulk.cancel()
    bulk.wait(LIMIT)
    assert bulk.state is JobState.CANCELLED
    wait_until(lambda: silent.open_associations == 0, LIMIT, "no association is left")
    assert own.ledger.claims.count(bulk.id) == 0
    silent.faults = Faults()
    bulk.retry()
    assert (transferred(bulk).category, len(silent.instances)) == (Category.SUCCESS, 30)


def test_the_answer_of_a_task_in_the_background_reaches_who_waits(
    redis_url: str, celery: Celery, pacs: TestPACS, tmp_path: Path
) -> None:
    """A service that knows Celery alone gets the error of the one and the result of the other."""
    with (
        TestPACS(faults=Faults(silence=Silence.ASSOCIATED)) as silent,
        workers.worker(redis_url, tmp_path, concurrency=1),
    ):
        echo = {"request": {"remote": silent.remote.model_dump(mode="json"), "timeout": 3.0}}
        waiting = celery.send_task("pacs_tasks.echo", kwargs=echo, queue=FIND_QUEUE)
        served = {"request": {"remote": pacs.remote.model_dump(mode="json")}}
        others = [celery.send_task("pacs_tasks.echo", kwargs=served, queue=FIND_QUEUE) for _ in range(5)]
        for each in others:
            assert each.get(timeout=LIMIT)["category"] == Category.SUCCESS
        assert silent.associations == 1
        with pytest.raises(PeerUnavailableError):
            waiting.get(timeout=LIMIT)
        assert silent.associations == 1


def test_a_part_in_the_background_is_not_tried_for_ever(
    own: PacsClient, redis_url: str, pacs: TestPACS, tmp_path: Path
) -> None:
    """Its message does not count its tries, so the ledger does."""
    pacs.faults = Faults(store_status={EVERY_INSTANCE: 0xA700}, delay=0.1)
    with workers.worker(redis_url, tmp_path, PACS_TASKS_MAX_RETRIES="1"):
        job = send(own, pacs, tmp_path / "files", 12, 2)
        outcome = transferred(job)
    assert (outcome.counters.failed, len(pacs.stores)) == (12, 24)


def test_a_planner_in_the_background_publishes_its_parts_once(own: PacsClient, redis_url: str, tmp_path: Path) -> None:
    held = write_many(tmp_path / "held", (1, 1, 2), (2, 1, 2), (3, 1, 2), (4, 1, 2))
    with (
        TestPACS(instances=held, faults=Faults(delay=0.2)) as pacs,
        workers.worker(redis_url, tmp_path, concurrency=1),
    ):
        out = tmp_path / "out"
        requests = [
            RetrieveRequest(
                remote=pacs.remote, study_uid=study_uid(study), output_dir=str(out), method=RetrieveMethod.GET
            )
            for study in (1, 2, 3, 4)
        ]
        jobs = [own.enqueue(each) for each in requests]
        for job in jobs:
            assert transferred(job).counters.success == 2
        assert len(list(out.rglob("*.dcm"))) == 8
        # Each study is listed and fetched once.
        wait_until(lambda: not own.ledger.client.hlen("pacs_tasks.unacked"), LIMIT, "the tickets")


def test_a_ticket_of_a_part_that_is_done_claims_nothing(
    own: PacsClient, celery: Celery, worker: Process, pacs: TestPACS, tmp_path: Path
) -> None:
    """Each script and each command is a wait for Redis, which may be long where the machine is busy."""
    paths = write_series(tmp_path / "files", 8, rows=2)
    pacs.faults = Faults(silent_at_instances=[str(dcmread(paths[0]).SOPInstanceUID)])
    request = StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / "files"), files_per_task=1)
    job = own.enqueue(request)
    wait_until(lambda: job.progress().counters.success == 7, LIMIT, "all but one are sent")
    client, count = own.ledger.client, 100
    wait_until(lambda: own.ledger.claims.count(job.id) == 1, LIMIT, "the others have ended")
    before = _scripts_run(client)
    for number in range(count):
        index = number % 7 + 1
        celery.send_task(
            "pacs_tasks.store_part", args=[job.id, index, index + 1], task_id=f"ticket-{number}", countdown=0.01
        )
    wait_until(lambda: _received(celery) >= count, LIMIT, "the tickets are received")
    wait_until(lambda: not client.exists(*QUEUE_KEYS) and client.hlen(UNACKED) <= 1, LIMIT, "and done")
    # The claim on the part that waits is renewed.
    assert _scripts_run(client) - before < count
    job.cancel()


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are found in /proc")
def test_a_child_that_is_killed_loses_nothing_of_what_it_had_in_the_background(
    own: PacsClient, redis_url: str, silent: TestPACS, tmp_path: Path
) -> None:
    with workers.worker(redis_url, tmp_path, concurrency=1, PACS_TASKS_TIMEOUT="600") as worker:
        job = send(own, silent, tmp_path / "files", 30)
        wait_until(lambda: len(silent.stores) > 2, LIMIT, "some parts wait in one process")
        _kill_children(own, job, worker)
        silent.faults = Faults()
        outcome = transferred(job)
    assert (outcome.category, outcome.counters.success, len(silent.instances)) == (Category.SUCCESS, 30, 30)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are found in /proc")
def test_a_time_limit_in_a_message_ends_no_process(
    own: PacsClient, celery: Celery, redis_url: str, silent: TestPACS, tmp_path: Path
) -> None:
    """It would end what others have in the background of that process."""
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        workers.worker(redis_url, tmp_path, concurrency=1, **PATIENT) as worker,
    ):
        job = send(own, silent, tmp_path / "files", 3, files_per_task=1)
        wait_until(lambda: len(silent.stores) == 3, LIMIT, "its parts wait")
        before = children(worker.pid)
        request = {"remote": {"host": "127.0.0.1", "port": mute.getsockname()[1]}}
        limits = {"soft_time_limit": 0.05, "time_limit": 0.1}
        echoes = [
            celery.send_task("pacs_tasks.echo", kwargs={"request": request}, queue=FIND_QUEUE, **limits)
            for _ in range(3)
        ]
        # The next one begins when the one before it is in the background.
        wait_until(lambda: all(_runs(own, each.id) for each in echoes), LIMIT, "all run")
        assert children(worker.pid) == before
        silent.faults = Faults()
        assert transferred(job).counters.success == 3
        assert children(worker.pid) == before


def _received(celery: Celery) -> int:
    """How many messages of parts the worker has received."""
    (stats,) = celery.control.inspect(timeout=LIMIT, limit=1).stats().values()
    return int(stats["total"]["pacs_tasks.store_part"])


def _scripts_run(client: redis.Redis) -> int:
    stats: dict[str, dict[str, int]] = client.info("commandstats")
    return stats["cmdstat_evalsha"]["calls"]


def _runs(client: PacsClient, job_id: str) -> bool:
    try:
        return client.job(job_id).progress().state is JobState.RUNNING
    except JobNotFoundError:
        return False


def _sent(pacs: TestPACS, uid: str, times: int) -> bool:
    return pacs.stores.count(uid) == times


def _kill_children(own: PacsClient, job: Job, worker: Process) -> None:
    """Kill the processes of a worker, and have their claims expire, as if 15 s had passed."""
    claims, dead = f"pacs_tasks:job:{job.id}:claims", children(worker.pid)
    for pid in dead:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not {*dead} & {*children(worker.pid)}, LIMIT, "the worker to notice")
    for name, text in own.ledger.client.hgetall(claims).items():
        if any(f" {pid} " in text for pid in dead):
            own.ledger.client.hset(claims, name, "1.0 the dead")


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are found in /proc")
def test_only_the_file_that_kills_its_process_fails(own: PacsClient, redis_url: str, tmp_path: Path) -> None:
    """The files of other parts in the same process do not fail with it, however often it kills them."""
    paths = write_series(tmp_path / "files", 12, rows=2)
    deadly = str(dcmread(paths[4]).SOPInstanceUID)
    with (
        TestPACS(faults=Faults(silent_at_instances=[deadly], delay=0.05)) as pacs,
        workers.worker(redis_url, tmp_path, concurrency=1, PACS_TASKS_TIMEOUT="600") as worker,
    ):
        request = StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / "files"), files_per_task=3)
        job = own.enqueue(request)
        for deaths in (1, 2, 3):
            wait_until(partial(_sent, pacs, deadly, deaths), LIMIT, "the file is sent")
            _kill_children(own, job, worker)
        outcome = transferred(job)
    assert (outcome.counters.success, outcome.counters.failed) == (11, 1)
    assert "workers died" in outcome.problems[0].reason
    assert outcome.problems[0].subject == str(paths[4])
