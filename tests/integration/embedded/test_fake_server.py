"""fakeredis as the private server, with sockets and a file of our own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from pacs_tasks import embedded
from pacs_tasks.embedded.fake_server import Server
from pacs_tasks.settings import PrivateServerKind, load
from tests.support.ports import free_port

_PASSWORD = "pass word ä"


@contextmanager
def serving(file: Path) -> Iterator[Server]:
    """A server in this process."""
    with Server(free_port(), _PASSWORD, file) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join(10)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path / "keys") as running:
        yield running


def client_of(server: Server, password: str | None = _PASSWORD, **options: Any) -> redis.Redis:
    port = server.server_address[1]
    return redis.Redis("127.0.0.1", port, password=password, decode_responses=True, socket_timeout=10, **options)


@pytest.mark.parametrize("password", [None, "", "pass", "default"])
@pytest.mark.parametrize("protocol", [2, 3])
def test_a_stranger_learns_nothing(server: Server, password: str | None, protocol: int) -> None:
    """Neither before nor after a wrong password."""
    with client_of(server, password, protocol=protocol) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.get("key")


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_client_keeps_its_connection(server: Server, protocol: int) -> None:
    """After an error, and after a reply that is longer than the buffer of a socket."""
    lines = ["x" * 1000] * 10_000
    with client_of(server, protocol=protocol) as client:
        identity = client.client_id()
        with pytest.raises(redis.ResponseError):
            client.execute_command("NO SUCH")
        client.rpush("lines", *lines)
        assert client.lrange("lines", 0, -1) == lines
        assert client.client_id() == identity


def test_a_silent_subscriber_gets_messages(server: Server) -> None:
    """So that a worker answers who looks for it."""
    with client_of(server) as client, client_of(server) as other, client.pubsub() as subscriber:
        subscriber.subscribe("news")
        assert subscriber.get_message(timeout=10)
        other.publish("news", "here")
        message = subscriber.get_message(timeout=10)
        assert message is not None
        assert message["data"] == "here"


def test_who_waits_for_a_list_gets_what_comes(server: Server) -> None:
    with client_of(server) as client, client_of(server) as other:
        pushing = threading.Timer(0.2, other.lpush, args=("queue", "job"))
        pushing.start()
        assert list(client.brpop(["queue"], timeout=10)) == ["queue", "job"]
        pushing.join()


def test_keys_outlive_the_server(tmp_path: Path) -> None:
    """Of every type, with the time that they have left."""
    with serving(tmp_path / "keys") as first, client_of(first) as client:
        client.set("text", "a", ex=100)
        client.hset("hash", "field", "b")
        client.zadd("sorted", {"member": 1.5})
        client.rpush("list", "c", "d")
        client.sadd("set", "e")
        client.set("gone", "f", px=1)
        first.write()
    with serving(tmp_path / "keys") as second, client_of(second) as client:
        assert client.get("text") == "a"
        assert 90 < int(client.ttl("text")) <= 100
        assert client.hgetall("hash") == {"field": "b"}
        assert client.zscore("sorted", "member") == 1.5
        assert client.lrange("list", 0, -1) == ["c", "d"]
        assert client.smembers("set") == {"e"}
        assert client.exists("gone") == 0


def test_it_serves_as_private_server_and_keeps_its_jobs(tmp_path: Path) -> None:
    """Across the end of its supervisor, at its own port or another."""
    settings = load(data_dir=tmp_path / "data", idle_timeout=60.0, embedded=PrivateServerKind.FAKEREDIS)
    try:
        with embedded.attach(settings) as url, redis.Redis.from_url(url) as client:
            client.set("kept", "yes")
        embedded.stop(settings)
        with embedded.attach(settings) as url, redis.Redis.from_url(url, decode_responses=True) as client:
            assert client.get("kept") == "yes"
    finally:
        embedded.stop(settings)
