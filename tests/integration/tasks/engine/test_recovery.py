"""Lost messages, workers and Redis servers: every job still ends, exactly once."""

from __future__ import annotations

import json
import math
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, cast

import pytest
import redis
from celery import Celery, Task
from celery.exceptions import Ignore

from pacs_tasks import Category, Job, JobState, PacsClient, StoreDirectoryRequest, TransferOutcome
from pacs_tasks.app import create
from pacs_tasks.connection import connect
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.ledger.manifest import FileLine
from pacs_tasks.operations import QUEUE_KEYS, UNACKED
from pacs_tasks.settings import Settings
from pacs_tasks.tasks.engine.claim import Claim, resume, resume_stalled
from pacs_tasks.tasks.engine.job import conclude, finished
from pacs_tasks.testing import Faults, TestPACS
from tests.support import workers
from tests.support.dicom_files import write_series
from tests.support.recording import FAILED
from tests.support.waiting import wait_until

LIMIT = 40


def transferred(job: Job) -> TransferOutcome:
    """The outcome of a job, once it has ended."""
    job.wait(LIMIT)
    outcome = job.outcome()
    assert isinstance(outcome, TransferOutcome)
    return outcome


def lose_messages(redis_url: str) -> int:
    """Remove every message from the queues, as a Redis does that dies while it delivers them."""
    client = connect(redis_url, 5)
    lost = waiting(client)
    client.delete(*QUEUE_KEYS)
    client.close()
    return lost


def waiting(client: redis.Redis) -> int:
    """How many messages wait in all queues."""
    return sum(int(str(client.llen(key))) for key in QUEUE_KEYS)


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


def test_a_job_whose_task_was_lost_is_taken_up(
    own: PacsClient, celery: Celery, redis_url: str, pacs: TestPACS, tmp_path: Path
) -> None:
    """The job is queued, but no queue has its message."""
    write_series(tmp_path / "files", 3)
    job = own.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / "files")))
    assert lose_messages(redis_url) == 1
    resume_stalled(celery, own.ledger, 0)
    resume_stalled(celery, own.ledger, 0)
    with workers.worker(redis_url, tmp_path, concurrency=1):
        assert transferred(job).counters.success == len(pacs.stores) == 3


def test_a_job_is_looked_into_soon_where_nothing_is_on_its_way(
    own: PacsClient, celery: Celery, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that a worker holds comes back; if no queue and no worker has one, none will."""
    monkeypatch.setattr("pacs_tasks.tasks.engine.claim.PATIENCE_WHEN_IDLE", 0.0)
    own.enqueue(StoreDirectoryRequest(directory=str(tmp_path)))
    assert lose_messages(redis_url) == 1
    own.ledger.client.hset(UNACKED, "in hand", "a message")
    for _ in range(3):
        resume_stalled(celery, own.ledger)
    assert waiting(own.ledger.client) == 0
    own.ledger.client.delete(UNACKED)
    resume_stalled(celery, own.ledger)
    assert waiting(own.ledger.client) == 1


def test_parts_that_were_lost_are_taken_up(
    own: PacsClient, celery: Celery, redis_url: str, pacs: TestPACS, tmp_path: Path
) -> None:
    """No file goes twice."""
    write_series(tmp_path / "files", 30)
    pacs.faults = Faults(hold_instances_after=0)
    job = own.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / "files")))
    with workers.worker(redis_url, tmp_path, concurrency=1):
        wait_until(lambda: pacs.stores, 20, "the first file is sent")
        assert lose_messages(redis_url) > 10
        pacs.faults = Faults()
        wait_until(lambda: not own.ledger.client.hlen(UNACKED), 10, "what was not lost is done")
        # A part in the background holds no message.
        wait_until(lambda: not own.ledger.claims.count(job.id), 10, "no part is at work")
        resume_stalled(celery, own.ledger, 0)
        resume_stalled(celery, own.ledger, 0)
        outcome = transferred(job)
    assert (outcome.category, outcome.counters.success) == (Category.SUCCESS, 30)
    assert len(pacs.stores) == 30


def test_a_job_that_waits_for_its_turn_is_left_alone(own: PacsClient, celery: Celery, tmp_path: Path) -> None:
    """In a long queue a job is checked less and less often, and is never enqueued twice."""
    job = own.enqueue(StoreDirectoryRequest(directory=str(tmp_path)))
    began = time.monotonic()
    for _ in range(150):
        resume_stalled(celery, own.ledger, 0.001)
    # The pauses double from one millisecond on.
    checks = math.log2((time.monotonic() - began) / 0.001)
    assert waiting(own.ledger.client) < checks + 2
    assert own.ledger.standstills.persists(job.id, "queued 1 0 0")
    own.ledger.start(job.id, "worker")
    assert not own.ledger.standstills.persists(job.id, "queued 1 0 0")


def test_a_message_of_an_earlier_attempt_does_not_end_the_job(
    own: PacsClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It finds the job cancelled; the job is reopened before it reads the result."""
    monkeypatch.setattr("pacs_tasks.tasks.engine.base.ledger", lambda: own.ledger)
    job = own.enqueue(StoreDirectoryRequest(directory=str(tmp_path)))
    job.cancel()
    assert conclude(job.id)["category"] == Category.CANCELLED
    job.retry()
    with pytest.raises(Ignore):
        conclude(job.id)
    assert job.state is JobState.QUEUED


def test_the_body_of_an_earlier_attempt_plans_nothing_again(
    own: PacsClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes after the retry and before its planner: nothing is lost as yet."""
    monkeypatch.setattr("pacs_tasks.tasks.engine.job.ledger", lambda: own.ledger)
    job = own.enqueue(StoreDirectoryRequest(directory=str(tmp_path)))
    own.ledger.start(job.id, "worker")
    own.ledger.manifest.plan(job.id, [FileLine("/data/a", 1)], "worker")
    own.ledger.record(job.id, 0, FAILED)
    job.retry()
    planned: list[int] = []

    def plan() -> NoReturn:
        planned.append(job.progress().attempt)
        raise Ignore

    for attempt in (1, 2):
        with pytest.raises(Ignore):
            finished(Task(), job.id, attempt, plan)
    assert planned == [2]


def test_a_cancelled_job_whose_worker_died_ends(own: PacsClient, celery: Celery, tmp_path: Path) -> None:
    """It ends even if no client reads its state."""
    job = own.enqueue(StoreDirectoryRequest(directory=str(tmp_path)))
    own.ledger.start(job.id, "worker")
    own.ledger.claims.claim(job.id, "plan", "a worker that dies")
    job.cancel()
    resume_stalled(celery, own.ledger)
    assert own.ledger.progress(job.id).state is JobState.RUNNING
    own.ledger.client.hset(f"pacs_tasks:job:{job.id}:claims", "plan", "1.0 a worker that dies")
    resume_stalled(celery, own.ledger)
    assert own.ledger.progress(job.id).state is JobState.CANCELLED


def test_what_every_worker_dies_of_fails(own: PacsClient, redis_url: str, pacs: TestPACS, tmp_path: Path) -> None:
    """The file fails before it kills one worker after the other; the other files are sent."""
    write_series(tmp_path / "files", 3)
    request = StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / "files"), files_per_task=3)
    job = own.enqueue(request)
    claims = f"pacs_tasks:job:{job.id}:claims"
    own.ledger.client.hset(claims, "0-3", "1.0 the first")
    for name in ("the second", "the third"):
        own.ledger.claims.claim(job.id, "0-3", name)
        own.ledger.claims.suspect(job.id, "0-3")
        own.ledger.claims.record_begun(job.id, "0-3", 1)
        own.ledger.client.hset(claims, "0-3", f"1.0 {name}")
    with workers.worker(redis_url, tmp_path, concurrency=1):
        outcome = transferred(job)
        assert (outcome.counters.success, outcome.counters.failed, len(pacs.stores)) == (2, 1, 2)
        assert "3 workers died" in outcome.problems[0].reason
        assert outcome.problems[0].subject.endswith("000002.dcm")
        job.retry()
        assert transferred(job).category is Category.SUCCESS


def test_what_is_handed_out_twice_is_done_once(
    own: PacsClient, celery: Celery, redis_url: str, pacs: TestPACS, tmp_path: Path
) -> None:
    """Redis delivers the planner, a part, and the chord's body twice; the body early and under another id."""
    write_series(tmp_path / "files", 40)
    pacs.faults = Faults(delay=0.01)
    request = StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / "files"), files_per_task=5)
    job = own.enqueue(request)
    celery.send_task(request.task, task_id=job.id)
    for _ in range(2):
        celery.send_task("pacs_tasks.store_finish", args=[job.id])
        celery.send_task("pacs_tasks.store_part", args=[job.id, 0, 5])
    with workers.worker(redis_url, tmp_path) as worker:
        outcome = transferred(job)
        wait_until(lambda: not own.ledger.client.hlen("pacs_tasks.unacked"), 20, "nothing is left to do")
        assert (outcome.category, outcome.counters.success, len(pacs.stores)) == (Category.SUCCESS, 40, 40)
        assert "Traceback" not in worker.said()


def test_a_worker_that_redis_did_not_answer_for_long_does_nothing_that_another_does(
    own: PacsClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its claim has expired; it learns whether another worker holds it before it sends the next file."""
    job = own.enqueue(StoreDirectoryRequest(directory=str(tmp_path)))
    monkeypatch.setattr("pacs_tasks.tasks.engine.claim.CLAIM_LIFETIME", 0.0)
    claim = Claim(resume, own.ledger, job.id, "0-3", job.id)
    try:
        assert not claim()
        own.ledger.client.hset(f"pacs_tasks:job:{job.id}:claims", "0-3", "9999999999 another worker")
        monkeypatch.setattr("pacs_tasks.tasks.engine.claim.come_back", _ignore)
        with pytest.raises(Ignore):
            claim()
    finally:
        claim.release()


def _ignore(*_: object) -> NoReturn:
    raise Ignore


def test_parts_of_which_no_word_comes_fail_in_the_end(own: PacsClient, redis_url: str, tmp_path: Path) -> None:
    """After several plans without any outcome each file fails by name, so that a retry can send it."""
    write_series(tmp_path / "files", 2)
    job = own.enqueue(StoreDirectoryRequest(directory=str(tmp_path / "files")))
    lose_messages(redis_url)
    own.ledger.start(job.id, "worker")
    own.ledger.manifest.plan(job.id, [FileLine("/data/a", 1), FileLine("/data/b", 1)], "worker")
    for _ in range(3):
        own.ledger.claims.count_replan(job.id)
    with create(redis_url, Settings()) as app:
        app.send_task("pacs_tasks.store_finish", args=[job.id], task_id=job.id)
    with workers.worker(redis_url, tmp_path, concurrency=1):
        outcome = transferred(job)
    assert (outcome.category, [each.subject for each in outcome.problems]) == (Category.FAILED, ["/data/a", "/data/b"])
    assert "Workers received this 4 times" in outcome.problems[0].reason


def children(pid: int) -> list[int]:
    """The processes of the worker."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are found in /proc")
def test_a_child_that_is_killed_takes_no_file_with_it(
    own: PacsClient, redis_url: str, pacs: TestPACS, tmp_path: Path
) -> None:
    """Another process does its part as soon as its claim has expired."""
    write_series(tmp_path / "files", 30)
    pacs.faults = Faults(hold_instances_after=6)
    request = StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / "files"), files_per_task=30)
    job = own.enqueue(request)
    with workers.worker(redis_url, tmp_path, concurrency=1) as worker:
        wait_until(lambda: len(pacs.stores) > 6, 20, "some files are sent")
        # What was answered and not yet recorded would be sent again.
        wait_until(lambda: job.progress().counters.success == 6, 10, "all answers are recorded")
        for child in children(worker.pid):
            os.kill(child, signal.SIGKILL)
        claims = f"pacs_tasks:job:{job.id}:claims"
        pacs.faults = Faults()
        held = wait_until(lambda: own.ledger.client.hgetall(claims), 5, "the claim of the dead")
        own.ledger.client.hset(claims, mapping=dict.fromkeys(held, "1.0 the dead"))  # as if 15 s had passed
        outcome = transferred(job)
    assert (outcome.category, outcome.counters.success, len(pacs.instances)) == (Category.SUCCESS, 30, 30)
    assert len(pacs.stores) <= 31


def test_a_pool_of_threads_sends_each_file_once(
    own: PacsClient, redis_url: str, pacs: TestPACS, tmp_path: Path
) -> None:
    """One process may receive a part twice; it also releases its associations."""
    write_series(tmp_path / "files", 40)
    pacs.faults = Faults(hold_instances_after=0)
    directory = str(tmp_path / "files")
    job = own.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=directory, files_per_task=40))
    with workers.worker(redis_url, tmp_path, concurrency=8, pool="threads", PACS_TASKS_MAX_ASSOCIATIONS="8"):
        wait_until(lambda: pacs.stores, 20, "the first file is sent")
        hand_out_again(own.ledger.client)
        pacs.faults = Faults(delay=0.05)
        assert transferred(job).category is Category.SUCCESS
        assert len(pacs.stores) == 40
        again = own.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=directory))
        assert transferred(again).category is Category.SUCCESS
        assert len(pacs.stores) == 80
        # Without reuse: one for each of 40 parts. A thread that waits for a lease ends an idle association.
        assert pacs.associations <= 20
        wait_until(lambda: pacs.open_associations == 0, 10, "idle associations are released")


def hand_out_again(client: redis.Redis) -> None:
    """Deliver all messages again, as Redis does with those that nobody acknowledges in time."""
    for held in cast("list[str]", client.hvals("pacs_tasks.unacked")):
        message, _, queue = json.loads(held)
        client.lpush(queue, json.dumps(message))


@contextmanager
def losing_answers(port: int, command: bytes, times: int) -> Iterator[int]:
    """A proxy of a Redis that closes the connection after this command, before the reply."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.2)
    stop, left = threading.Event(), [times]

    def carry(near: socket.socket) -> None:
        asked = b""
        with near, socket.create_connection(("127.0.0.1", port)) as far:
            while not stop.is_set():
                for ready in select.select([near, far], [], [], 0.2)[0]:
                    said = ready.recv(1 << 20)
                    if ready is near:
                        asked += said
                    elif left[0] and command in asked and not said.startswith(b"-"):
                        left[0] -= 1
                        return
                    else:
                        asked = b""
                    if not said:
                        return
                    (far if ready is near else near).sendall(said)

    def accept() -> None:
        while not stop.is_set():
            try:
                near, _ = listener.accept()
            except TimeoutError:
                continue
            carry(near)

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        stop.set()
        thread.join(10)
        listener.close()
        assert left == [0], "nothing was lost"


def test_a_manifest_is_whole_although_an_answer_of_redis_was_lost(redis_url: str) -> None:
    """A repeated command takes effect once; otherwise some files would be listed twice and others never sent."""
    port, _, database = redis_url.rpartition(":")[2].partition("/")
    with losing_answers(int(port), b"/data/1500", 1) as near:
        ledger = Ledger(connect(f"redis://127.0.0.1:{near}/{database}", 5, 5))
        request = StoreDirectoryRequest(directory="/data")
        ledger.open("job", request.task, request)
        assert (
            ledger.manifest.plan("job", (FileLine(f"/data/{index}", 10) for index in range(2_500)), "worker") == 2_500
        )
        assert [line.subject for line in ledger.manifest.lines("job", 0, 9_999)] == [
            f"/data/{index}" for index in range(2_500)
        ]
        ledger.client.close()
