"""Malformed messages of every kind, to one real worker and to Flower."""

from __future__ import annotations

import base64
import json
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu.clocks import LamportClock

from pacs_tasks import EchoRequest, Job, PacsClient
from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.messages.dead_letters import LONGEST, DeadLetters
from pacs_tasks.testing import TestPACS
from tests.support import poison, workers
from tests.support.command import Terminal
from tests.support.cost import bounded
from tests.support.service import another_service
from tests.support.waiting import wait_until
from workers import transport

_LOGIN = "admin:poison"


#: Requests that are none, with what the service that waits is told.
_NO_REQUESTS = [
    (poison.NAME, "not a JSON object"),
    ([1], "not a JSON object"),
    ({"remote": poison._nested(500)}, "nested deeper"),
]


@pytest.fixture
def broker(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def _taken(broker: redis.Redis) -> dict[str, Any]:
    """The message that waits in a queue, which no worker has taken."""
    found: dict[str, Any] = json.loads(str(broker.rpop("pacs_tasks.find"), "utf-8"))  # type: ignore[arg-type]
    return found


def _flower(url: str, path: str) -> str:
    request = urllib.request.Request(
        url + path, headers={"Authorization": f"Basic {base64.b64encode(_LOGIN.encode()).decode()}"}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return str(answer.read().decode())


def test_no_message_ends_a_worker_or_shows_what_it_holds(
    broker: redis.Redis,
    redis_url: str,
    pacs: TestPACS,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """A worker and Flower at DEBUG get each kind, and the worker serves the good message behind them."""
    kinds, database = poison.tasks(), int(redis_url.rpartition("/")[2])
    letters, size = DeadLetters(broker, 60), str(poison.SIZE)
    with (
        workers.worker(redis_url, tmp_path, concurrency=1, level="DEBUG", PACS_TASKS_MESSAGE_SIZE=size) as worker,
        workers.flower(redis_url, tmp_path, _LOGIN, log_level="debug") as flower,
        PacsClient(redis_url) as client,
    ):
        # Flower is connected once it knows the worker.
        wait_until(lambda: "worker@" in _flower(flower, "/api/workers?refresh=1"), 30, "Flower knows the worker")
        for each in poison.events().values():
            broker.publish(f"/{database}.celeryev/worker.heartbeat", each)
            broker.publish(f"/{database}.celeryev/task.sent", each)
        for each in poison.commands().values():
            broker.publish(f"/{database}.celery.pidbox", each)
        with bounded(worker, 120, 100 << 20, record_property):
            for queue in ("pacs_tasks.find", "pacs_tasks.store", "pacs_tasks.move\x06\x169"):
                broker.lpush(queue, *kinds.values())
            job = client.enqueue(EchoRequest(remote=pacs.remote))
            assert job.wait(120).state.finished, worker.said()[-2000:]
        assert job.outcome()
        wait_until(lambda: letters.count() == min(3 * len(kinds), 500), 60, "all are dead letters")
        # The last one is put aside before it is acknowledged.
        keys = ("pacs_tasks.find", "pacs_tasks.store", "pacs_tasks.unacked")
        wait_until(lambda: not broker.exists(*keys), 30, "nothing is left in the queues")
        assert worker.running()
        assert worker.said().count(" ready.") == 1, "it did not restart, nor connect again"
        shown = [_flower(flower, path) for path in ("/api/tasks", "/tasks", "/workers", "/metrics")]
        assert f"pacs_tasks_dead_letters {letters.count():.1f}" in shown[-1]
        assert job.id in shown[0], "Flower still follows events"
        said = [*shown, worker.said(), (tmp_path / "flower.log").read_text("utf-8")]
        assert not [each for each in said if poison.NAME in each]
    terminal = Terminal(tmp_path, redis_url)
    table = terminal.run("dead-letters", "--json")
    assert {each["queue"] for each in table.json["dead_letters"]} <= {
        "pacs_tasks.find", "pacs_tasks.store", "pacs_tasks.move",
    }  # fmt: skip
    assert poison.NAME not in table.stdout


def test_a_clock_of_a_stranger_makes_no_worker_mute(broker: redis.Redis, redis_url: str, tmp_path: Path) -> None:
    """Answers after it have a clock that is not refused."""
    database = int(redis_url.rpartition("/")[2])
    with workers.worker(redis_url, tmp_path, concurrency=1), another_service(redis_url) as service:
        ping = poison.envelope({"method": "ping"}, headers={"clock": 2**63 - 1})
        channel = f"/{database}.celery.pidbox"
        for _ in range(3):
            # A worker says that it is ready before it listens to commands.
            wait_until(lambda: broker.publish(channel, ping), 10, "the worker to listen")
        assert service.control.ping(timeout=30, limit=1)
        assert service.control.mailbox.clock.value < 2**62


def test_a_clock_follows_others_in_small_steps() -> None:
    assert LamportClock.adjust is transport._adjust
    clock: Any = LamportClock()
    assert [clock.adjust(each) for each in (10, 3, None, 20.5)] == [11, 12, 13, 21]
    assert [clock.adjust(2**63 - 1) for _ in range(1000)][-1] < 2**42


def test_a_job_whose_message_is_refused_ends_with_the_reason(
    broker: redis.Redis, redis_url: str, tmp_path: Path
) -> None:
    """The service that waits for its result gets an error, and so does the job. The letter can be read and deleted."""
    task_id = uuid.uuid4().hex
    terminal = Terminal(tmp_path, redis_url)
    with workers.worker(redis_url, tmp_path, concurrency=1), another_service(redis_url) as service:
        service.send_task(
            "pacs_tasks.echo", kwargs={"request": {}, poison.NAME: 1}, task_id=task_id, queue="pacs_tasks.find"
        )
        with pytest.raises(Exception, match="does not have these arguments"):
            service.AsyncResult(task_id).get(timeout=30)
        assert "does not have these arguments" in terminal.run("status", task_id).stdout
        for request, reason in _NO_REQUESTS:
            waiting = service.send_task("pacs_tasks.echo", kwargs={"request": request}, queue="pacs_tasks.find")
            with pytest.raises(Exception, match=reason):
                waiting.get(timeout=30)
        unknown = service.send_task("pacs_tasks.nothing", queue="pacs_tasks.find")
        with pytest.raises(Exception, match="No task of pacs-tasks has this name"):
            unknown.get(timeout=30)
    _unknown, _deep, letter = DeadLetters(broker, 60).all()
    assert (letter.task, letter.job_id) == ("pacs_tasks.echo", task_id)
    shown = terminal.run("dead-letters", letter.id)
    assert "does not have these arguments" in shown.stdout
    assert poison.NAME not in shown.stdout
    message = terminal.run("dead-letters", letter.id, "--content", "--json").json["dead_letters"][0]["content"]
    assert poison.NAME in base64.b64decode(json.loads(message)["body"]).decode()
    terminal.run("dead-letters", letter.id[:6], "--delete")
    assert letter.id not in terminal.run("dead-letters").stdout


def test_a_message_that_was_delivered_too_often_is_a_dead_letter(
    broker: redis.Redis, redis_url: str, pacs: TestPACS, tmp_path: Path
) -> None:
    """Workers died with it again and again. Its job ends; enqueued by hand, it is served."""
    letters = DeadLetters(broker, 60)
    with PacsClient(redis_url) as client:
        job = client.enqueue(EchoRequest(remote=pacs.remote))
        raw = _taken(broker)
        tag = raw["properties"]["delivery_tag"]
        raw["headers"]["redelivered"] = True
        broker.set(f"pacs_tasks:deliveries:{tag}", 3, ex=60)
        with workers.worker(redis_url, tmp_path, concurrency=1, PACS_TASKS_MAX_DELIVERIES="3"):
            broker.lpush("pacs_tasks.find", json.dumps(raw))
            job.wait(30)
            with pytest.raises(InvalidRequestError, match="received this message 3 times"):
                job.outcome()
            [letter] = letters.all()
            assert letter.whole
            broker.delete(f"pacs_tasks:deliveries:{tag}")
            Terminal(tmp_path, redis_url).run("dead-letters", letter.id, "--enqueue")
            wait_until(lambda: not letters.count() and not broker.exists("pacs_tasks.find"), 20, "it is served")


def test_keys_of_another_type_are_set_aside(
    broker: redis.Redis, redis_url: str, pacs: TestPACS, tmp_path: Path
) -> None:
    """Before and while a worker runs."""
    broker.set("pacs_tasks.store", "x")
    with workers.worker(redis_url, tmp_path, concurrency=1) as worker, PacsClient(redis_url) as client:
        broker.set("pacs_tasks.unacked", "x")
        broker.hset("pacs_tasks.move", "a", "b")
        job = client.enqueue(EchoRequest(remote=pacs.remote))
        assert job.wait(60).state.finished, worker.said()
        assert job.outcome()
        assert worker.running()


def test_garbage_among_taken_messages_is_a_dead_letter(
    broker: redis.Redis, redis_url: str, pacs: TestPACS, tmp_path: Path
) -> None:
    """It does not hold up the messages of dead workers behind it."""
    letters = DeadLetters(broker, 60)
    with PacsClient(redis_url) as client:
        job = client.enqueue(EchoRequest(remote=pacs.remote))
        good = _taken(broker)
        for number, value in enumerate([b"\xff", b"[" * 100_000, b"{}", json.dumps([poison.NAME, "a", "b"]).encode()]):
            broker.hset("pacs_tasks.unacked", f"bad{number}", value)
            broker.zadd("pacs_tasks.unacked_index", {f"bad{number}": 1})
        broker.hset("pacs_tasks.unacked", "good", json.dumps([good | {"queue": "pacs_tasks.find"}, "", "nowhere"]))
        broker.zadd("pacs_tasks.unacked_index", {"good": 2})
        with workers.worker(redis_url, tmp_path, concurrency=1) as worker:
            assert job.wait(60).state.finished, worker.said()
            wait_until(lambda: letters.count() == 4, 30, "they are dead letters")
            assert poison.NAME not in worker.said()


def test_letters_are_bounded(broker: redis.Redis) -> None:
    letters = DeadLetters(broker, 60)
    for number in range(503):
        letters.add(b"x" * (LONGEST + 1), "pacs_tasks.find", f"reason {number}")
    assert [each.reason for each in letters.all()][::499] == ["reason 502", "reason 3"]
    assert len(broker.keys("pacs_tasks:dead_letter:*")) == letters.count() == 500
    with pytest.raises(InvalidRequestError, match="not kept whole"):
        letters.enqueue_again(letters.all()[0])
    assert len(letters.content(letters.all()[0])) == LONGEST


def test_poisoned_records_harm_no_other_job(
    broker: redis.Redis, redis_url: str, pacs: TestPACS, tmp_path: Path
) -> None:
    """Values of other types at keys of jobs and results; the worker serves the others, also after a standstill."""
    with PacsClient(redis_url) as client, workers.worker(redis_url, tmp_path, concurrency=1) as worker:
        jobs: list[Job[Any]] = [client.enqueue(EchoRequest(remote=pacs.remote)) for _ in range(2)]
        for each in jobs:
            assert each.wait(60).state.finished
        broker.set("pacs_tasks:job:poison1", poison.NAME)
        broker.lpush("pacs_tasks:job:poison2", poison.NAME)
        broker.sadd("pacs_tasks:job:poison3", poison.NAME)
        broker.hset("pacs_tasks:job:poison4", mapping={"task": "x", "state": "queued", "created": poison.NAME})
        broker.hset("pacs_tasks:job:poison5", mapping={"task": "x", "state": "running", "created": "1", "seen_at": "x"})
        broker.zadd("pacs_tasks:jobs", {f"poison{number}": 9e9 for number in range(1, 6)})
        assert {each.job_id for each in client.jobs()} >= {each.id for each in jobs}
        for value in ("\xff", "[" * 5000, "{}", "null", '{"status": 5}'):
            job_id = uuid.uuid4().hex
            client.ledger.open(job_id, EchoRequest.task, EchoRequest(remote=pacs.remote))
            broker.set(f"celery-task-meta-{job_id}", value)
            # Nobody published its message: the watch of the worker does.
            jobs.append(client.job(job_id))
        broker.delete(f"celery-task-meta-{jobs[-1].id}")
        broker.hset(f"celery-task-meta-{jobs[-1].id}", "a", "b")
        for each in jobs:
            assert each.wait(60).state.finished, worker.said()[-2000:]
            assert each.outcome()
        assert worker.running()
        assert poison.NAME not in worker.said()
