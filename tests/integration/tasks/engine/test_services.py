"""Other services enqueue the same tasks, and private data stay out of queue, results, events and logs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from celery import Celery

from pacs_tasks import (
    CommitRequest,
    EchoRequest,
    FindRequest,
    InvalidRequestError,
    JobNotReadyError,
    JobState,
    PacsClient,
    StoreDirectoryRequest,
    UnreadableInputError,
    VerifyRequest,
    embedded,
)
from pacs_tasks.cli.output.exit_codes import ExitCode
from pacs_tasks.client.broker import Broker
from pacs_tasks.connection import connect
from pacs_tasks.ledger.claims import Presence
from pacs_tasks.operations import FIND_QUEUE, STORE_QUEUE
from pacs_tasks.settings import Settings
from pacs_tasks.testing import Faults, Report, TestPACS
from tests.support import workers
from tests.support.command import Terminal
from tests.support.dicom_files import UID_ROOT, write_series
from tests.support.ports import free_port
from tests.support.processes import Process
from tests.support.service import another_service
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    import redis

SECRET = "Secret^Patient"


@pytest.fixture
def service(shared_redis_url: str, shared_worker: Process) -> Iterator[Celery]:
    """The Celery app of another service, which knows only the address and the names of tasks and queues."""
    assert shared_worker.running(), shared_worker.said()
    with another_service(shared_redis_url) as app:
        yield app


def called(service: Celery, task: str, request: dict[str, Any], queue: str) -> Any:
    """Celery's result of a task that was sent by name."""
    result = service.send_task(task, kwargs={"request": request}, queue=queue)
    try:
        return result.get(timeout=30)
    finally:
        result.forget()


def test_a_service_sends_a_directory(service: Celery, pacs: TestPACS, tmp_path: Path) -> None:
    """`AsyncResult.get()` with the task's id yields the job's summary, through the chord."""
    write_series(tmp_path, 12)
    request = {"remote": pacs.remote.model_dump(), "directory": str(tmp_path)}
    summary = called(service, "pacs_tasks.store_directory", request, STORE_QUEUE)
    assert (summary["category"], summary["success"], len(pacs.instances)) == ("success", 12, 12)


def test_a_service_s_job_is_in_the_ledger_too(service: Celery, pacs: TestPACS, shared_redis_url: str) -> None:
    """The task's id is the job's id: `status`, `wait` and `outcome` accept it."""
    request = {"remote": pacs.remote.model_dump()}
    result = service.send_task("pacs_tasks.echo", kwargs={"request": request}, queue=FIND_QUEUE)
    assert result.get(timeout=30)["status"] == "0000"
    with PacsClient(shared_redis_url) as client:
        assert client.job(result.id).outcome().category == "success"
    result.forget()


def test_a_wrong_request_is_refused_with_its_class_and_no_value(service: Celery, pacs: TestPACS) -> None:
    """No association is opened."""
    with pytest.raises(InvalidRequestError, match=r"remote\.port.*Correct it and try again") as raised:
        called(service, "pacs_tasks.find", {"remote": {"port": SECRET}}, FIND_QUEUE)
    assert SECRET not in str(raised.value)
    assert pacs.associations == 0


def test_an_error_reaches_celery_without_its_path(service: Celery, pacs: TestPACS) -> None:
    """Flower shows exceptions."""
    request = {"remote": pacs.remote.model_dump(), "path": f"/nowhere/{SECRET}.dcm"}
    with pytest.raises(UnreadableInputError, match="cannot find the file") as raised:
        called(service, "pacs_tasks.store_file", request, STORE_QUEUE)
    assert SECRET not in str(raised.value)


def everything_but_the_ledger(redis_url: str) -> str:
    """All contents of Redis as text, without the records of jobs."""
    client = connect(redis_url, 5)
    held = []
    for key in client.scan_iter():
        if str(key).startswith("pacs_tasks:job:"):
            continue
        held.append(str(key))
        kind = client.type(key)
        if kind == "string":
            held.append(str(client.get(key)))
        elif kind == "list":
            held.append(str(client.lrange(key, 0, -1)))
        elif kind == "hash":
            held.append(str(client.hgetall(key)))
        elif kind == "zset":
            held.append(str(client.zrange(key, 0, -1)))
    client.close()
    return " ".join(held)


def test_neither_queue_nor_result_nor_log_holds_what_is_private(redis_url: str, pacs: TestPACS, tmp_path: Path) -> None:
    """Only the ledger has paths and the names and ids of patients."""
    directory = tmp_path / SECRET
    write_series(directory, 3, patient_name=SECRET, patient_id="ID-SECRET")
    with PacsClient(redis_url) as client:
        remote = pacs.remote
        jobs = [
            client.enqueue(StoreDirectoryRequest(remote=remote, directory=str(directory))),
            client.enqueue(FindRequest(remote=remote, keys={"PatientName": SECRET, "PatientID": "ID-SECRET"})),
            client.enqueue(StoreDirectoryRequest(remote=remote, directory=str(tmp_path / f"no {SECRET}"))),
        ]
        queued = everything_but_the_ledger(redis_url)
        assert jobs[0].id in queued
        log = ""
        with workers.worker(redis_url, tmp_path, "watched") as worker:
            for job in jobs:
                job.wait(30)
            wait_until(lambda: worker.said().count("pacs_tasks.store_finish") >= 2, 10, "the chord's body has run")
            # Only the client that reads the job learns the name of the lost file.
            pacs.lose(*pacs.instances)
            pacs.faults = Faults(report=Report.SAME_ASSOCIATION)
            for request in (VerifyRequest(job_id=jobs[0].id), CommitRequest(job_id=jobs[0].id)):
                asked = client.enqueue(request)
                asked.wait(30)
                assert SECRET in str(asked.outcome())
            log = worker.said()
        stored = everything_but_the_ledger(redis_url)
    assert "celery-task-meta" in stored
    assert "store_part" in log
    for text in (queued, stored, log):
        assert "SECRET" not in text.upper()
        assert UID_ROOT not in text


def test_arguments_of_a_service_are_hidden_from_those_who_inspect(
    redis_url: str, pacs: TestPACS, tmp_path: Path
) -> None:
    """They are hidden even if the service published them in the clear: Flower inspects workers."""
    seen: list[dict[str, Any]] = []
    with (
        another_service(redis_url) as app,
        workers.worker(redis_url, tmp_path, "inspected", concurrency=1),
        app.connection_for_read() as connection,
    ):
        receiver = app.events.Receiver(connection, handlers={"*": seen.append})
        watching = threading.Thread(target=receiver.capture, kwargs={"timeout": 30, "wakeup": True})
        watching.start()
        wait_until(lambda: seen, 15, "a heartbeat of the worker")
        request = {"remote": pacs.remote.model_dump(), "keys": {"PatientName": SECRET}}
        result = app.send_task("pacs_tasks.find", kwargs={"request": request}, queue=FIND_QUEUE)
        result.get(timeout=30)
        result.forget()
        wait_until(lambda: any(event["type"] == "task-succeeded" for event in seen), 15, "the event of its success")
        receiver.should_stop = True
        watching.join(15)
    assert not watching.is_alive()
    assert "task-received" in {event["type"] for event in seen}
    assert SECRET not in str(seen)


def test_waiting_where_no_worker_is_ends_with_a_sentence(
    redis_url: str, pacs: TestPACS, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job stays queued until a worker starts."""
    monkeypatch.setattr("pacs_tasks.client.job._STANDSTILL", 0.2)
    with PacsClient(redis_url) as client:
        job = client.enqueue(EchoRequest(remote=pacs.remote))
        with pytest.raises(JobNotReadyError, match=r"no worker serves this Redis\. Start one with `pacs-tasks worker`"):
            job.wait()
        assert job.state is JobState.QUEUED


def test_a_command_says_after_seconds_that_there_is_no_worker(redis_url: str, tmp_path: Path) -> None:
    """It ends with its own exit code, and the job stays."""
    result = Terminal(tmp_path, redis_url).run("echo", "--port", free_port())
    assert result.code == ExitCode.NOT_FINISHED, result
    assert "no worker serves this Redis" in result.stderr
    assert result.seconds < 25


def test_a_worker_too_busy_to_answer_is_no_absent_one(redis_url: str, pacs: TestPACS, tmp_path: Path) -> None:
    """Whoever waits goes on waiting. Once the worker has ended, it is known to be absent."""
    with PacsClient(redis_url) as client:
        with workers.worker(redis_url, tmp_path) as worker:
            wait_until(lambda: Presence(client.ledger.client).any(), 15, "the worker to be present")
            worker.popen.send_signal(signal.SIGSTOP)
            job = client.enqueue(EchoRequest(remote=pacs.remote))
            with pytest.raises(JobNotReadyError, match="has not finished within 4 s"):
                job.wait(4, check_after=0)
            worker.popen.send_signal(signal.SIGCONT)
            assert job.wait(60, check_after=0).state is JobState.DONE
            worker.popen.terminate()
            worker.popen.wait(30)
        assert not Presence(client.ledger.client).any()


@pytest.mark.parametrize("why", ["", "It does not start."])
def test_a_private_worker_may_take_long_to_start(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    """Its supervisor knows whether it cannot."""
    monkeypatch.setattr(embedded, "failure", lambda _: why)
    broker = Broker(cast("redis.Redis", None), Settings(), private=True)
    assert broker.has_worker() is not bool(why)
