"""Messages that wait for their time in the memory of a worker."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.messaging import Consumer

from pacs_tasks.messages.dead_letters import DeadLetters
from pacs_tasks.operations import UNACKED
from tests.support import poison
from workers import transport

_QUEUE = "pacs_tasks.find"


@pytest.fixture
def broker(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


class Taker:
    """Takes messages as a worker does, and acknowledges none."""

    def __init__(self, connection: Any, broker: redis.Redis) -> None:
        self.messages: list[Any] = []
        self._connection, self._broker = connection, broker

    def drain(self) -> None:
        """Take whatever the queue has."""
        while self._broker.llen(_QUEUE):
            self._connection.drain_events(timeout=10)


@pytest.fixture
def taker(redis_url: str, broker: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Iterator[Taker]:
    monkeypatch.setattr(transport.Channel, "tasks", {"pacs_tasks.echo": lambda request=None: None})
    # kombu would give the messages back by a connection that it opens after it has closed all others.
    monkeypatch.setattr(transport.Channel, "do_restore", False)
    untyped: Any = Connection
    with untyped(redis_url, transport_options={"unacked_key": UNACKED}) as connection, connection.channel() as channel:
        found, untyped = Taker(connection, broker), Consumer
        queue: Any = Queue
        with untyped(channel, [queue(_QUEUE, routing_key=_QUEUE)], on_message=found.messages.append):
            yield found


def due_in(**time: int) -> bytes:
    return poison.task([[], {}, {}], eta=(datetime.now(UTC) + timedelta(**time)).isoformat())


def test_a_message_that_is_due_in_days_is_a_dead_letter(taker: Taker, broker: redis.Redis) -> None:
    """No worker keeps it for so long; one that is due today is kept."""
    broker.lpush(_QUEUE, due_in(days=3), due_in(hours=3))
    taker.drain()
    (letter,) = DeadLetters(broker, 60).all()
    assert letter.reason == "The message is due in more than 24 hours. Enqueue the task on the day."
    assert len(taker.messages) == 1


def test_a_worker_keeps_only_so_many_messages_that_are_due_late(
    taker: Taker, broker: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is a thousand; here it is three. Those that are due soon, or now, are taken all the same."""
    monkeypatch.setattr(transport, "_MOST_WAITING", 3)
    broker.lpush(_QUEUE, *(due_in(hours=3) for _ in range(5)), due_in(minutes=1), poison.task([[], {}, {}]))
    taker.drain()
    assert len(taker.messages) == 5
    assert [each.reason for each in DeadLetters(broker, 60).all()] == [
        "The worker keeps many messages already, and this one is not due soon. Enqueue the task later."
    ] * 2


def test_a_worker_keeps_a_message_once_however_often_it_is_delivered(taker: Taker, broker: redis.Redis) -> None:
    """As kombu does every 40 s with what is not acknowledged; it stays recorded as taken."""
    message = due_in(hours=3)
    for _ in range(3):
        broker.lpush(_QUEUE, message)
        taker.drain()
    assert len(taker.messages) == 1
    assert broker.hlen(UNACKED) == 1
    taker.messages[0].ack()
    assert not broker.exists(UNACKED)


def test_all_messages_are_published_by_one_client(redis_url: str, broker: redis.Redis) -> None:
    """A child process has another, whose pool is its own."""
    untyped: Any = Connection
    with untyped(redis_url) as connection, connection.channel() as channel:
        channel._size(_QUEUE)
        client = channel._create_client()
        assert channel._create_client() is client
        assert client.connection_pool is channel.pool
        # What kombu does in a child after a fork.
        channel._after_fork()
        assert channel._create_client() is not client
        assert channel._create_client().connection_pool is channel.pool
        assert channel._create_client(True) is not channel._create_client(True), "they wait, so each has a connection"
        channel._put(_QUEUE, {"properties": {"priority": 0}})
        assert broker.llen(_QUEUE) == 1
