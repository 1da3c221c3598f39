"""An address at which there is not a Redis for us: one sentence that says what is there and what to check."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from pacs_tasks.connection import connect
from pacs_tasks.errors import BrokerUnavailableError
from tests.support.redis_server import RedisServer


@pytest.fixture
def web_server() -> Iterator[int]:
    """The port of something that answers in another language than Redis."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            try:
                caller, _ = listening.accept()
            except OSError:
                return
            with caller:
                caller.recv(1024)
                caller.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        yield int(listening.getsockname()[1])
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def test_a_port_of_something_else_is_told(web_server: int) -> None:
    """Such as a web server's; that it answers does not make it a Redis."""
    with pytest.raises(BrokerUnavailableError, match=f"127.0.0.1:{web_server}.* is not a Redis.*PACS_TASKS_REDIS_URL"):
        connect(f"redis://127.0.0.1:{web_server}/0", 3)


def test_a_database_that_the_redis_does_not_have_is_told(redis_process: RedisServer) -> None:
    """Whatever the Redis answers to the first word, it is the address that must be corrected."""
    with pytest.raises(BrokerUnavailableError, match=r"DB index is out of range.*Check PACS_TASKS_REDIS_URL"):
        connect(redis_process.url(9999), 3)


@pytest.mark.parametrize("password", ["se/cret", "se#cret", "se?cret"])
def test_a_password_that_breaks_the_address_is_not_repeated(password: str) -> None:
    """The sentence says how to write one with such a sign in it."""
    with pytest.raises(BrokerUnavailableError, match="percent-encoded") as raised:
        connect(f"redis://:{password}@127.0.0.1:6379/0", 1)
    assert "'se'" not in str(raised.value)
    assert "cret" not in str(raised.value)


def test_a_redis_that_is_not_there_is_told_at_once() -> None:
    """With its address, without its password."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(BrokerUnavailableError, match=f"127.0.0.1:{port}.*does not answer") as raised:
        connect(f"redis://:secret@127.0.0.1:{port}/0", 3)
    assert "secret" not in str(raised.value)


def test_a_redis_that_is_silent_is_told_within_its_limit() -> None:
    """It accepts the connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begun = time.monotonic()
        with pytest.raises(BrokerUnavailableError, match="does not answer"):
            connect(f"redis://127.0.0.1:{silent.getsockname()[1]}/0", 1)
    assert time.monotonic() - begun < 4


@pytest.mark.parametrize("url", ["http://127.0.0.1", "nonsense"])
def test_an_address_that_is_no_redis_is_told(url: str) -> None:
    """Instead of a traceback."""
    with pytest.raises(BrokerUnavailableError, match="PACS_TASKS_REDIS_URL"):
        connect(url, 1)
