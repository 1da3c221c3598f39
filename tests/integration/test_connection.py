"""An address at which there is not a Redis for us: one sentence that says what is there and what to check."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pacs_tasks.connection import connect, place_of
from pacs_tasks.errors import BrokerSettingError, BrokerUnavailableError
from pacs_tasks.settings import check_redis_url
from tests.support.redis_server import RedisServer, redis_server
from tests.support.waiting import wait_until


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


@pytest.mark.parametrize("sign", ["/", "#", "?", "[", " ", "@/", "@#", "@?", ":12?"])
def test_a_password_that_breaks_the_address_is_not_repeated(sign: str) -> None:
    """The sentence says how to write one with such a sign in it. No piece of it becomes a host to connect to."""
    with pytest.raises(BrokerSettingError, match="percent-encoded") as raised:
        connect(f"redis://:se{sign}cret@127.0.0.1:6379/0", 1)
    assert "'se'" not in str(raised.value)
    assert "cret" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1", "nonsense", "localhost:6379", "redis://h:port/0", "redis://h/name", "redis+socket:///r"),
        *("redis://h/0?ssl_cert_reqs=none", "redis://h/0?no_such_parameter=1", "redis://h:99999/0"),
    ],
)
def test_an_address_that_is_no_redis_is_told(url: str) -> None:
    """Instead of a traceback."""
    with pytest.raises(BrokerSettingError, match="PACS_TASKS_REDIS_URL"):
        connect(url, 1)


@pytest.mark.parametrize(
    "url",
    [
        *("redis://localhost", "redis://:p@ss@h:1/0", "redis://me:p%2Fw@h:1/0", "redis://[::1]:1/0"),
        *("rediss://h:1/0?ssl_cert_reqs=required", "redis://h/0?socket_timeout=3&health_check_interval=2"),
        *("unix:///run/redis.sock?db=3", "unix://me@/run/redis.sock?db=1&password=p@x"),
    ],
)
def test_an_address_as_redis_py_reads_it_is_accepted(url: str) -> None:
    assert check_redis_url(url) == url


def test_the_address_is_shown_without_its_secrets() -> None:
    """Redis-py reads a password among the parameters, too."""
    assert place_of("redis://me:p@ss@h:1/0?password=secret") == "redis://h:1/0"
    assert place_of("unix:///run/r.sock?db=1&password=secret") == "unix:///run/r.sock"


@pytest.mark.parametrize(
    ("settings", "said", "kind"),
    [
        (["--replicaof", "127.0.0.1 1"], "read-only replica", BrokerSettingError),
        (["--maxmemory", "1"], r"full \(maxmemory\)", BrokerUnavailableError),
        (["--min-replicas-to-write", "1"], "accepts no data at present", BrokerUnavailableError),
        (["--requirepass", "secret"], "rejected the password.*percent-encoded", BrokerSettingError),
        (["--user", *["default", "on", "nopass", "~other:*", "&*", "+@all"]], "may not do this", BrokerSettingError),
    ],
)
def test_a_redis_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, settings: list[str], said: str, kind: type[BrokerUnavailableError]
) -> None:
    """For commands and for scripts. What a worker may wait for has another class than a wrong setting."""
    with redis_server(tmp_path, more=settings) as server, ExitStack() as stack:

        def write(*command: object) -> None:
            client = connect(server.url(), 3)
            stack.callback(client.close)
            client.execute_command(*command)

        for command in (("SET", "a", 1), ("EVAL", "return redis.call('SET', KEYS[1], 1)", 1, "a")):
            with pytest.raises(BrokerUnavailableError, match=said) as raised:
                write(*command)
            assert type(raised.value) is kind


def test_a_redis_that_cannot_save_is_one_sentence(tmp_path: Path) -> None:
    """Such as one whose disk is full: it refuses to write after a snapshot that failed (MISCONF)."""
    (place := tmp_path / "dump").mkdir()
    more = ["--dir", str(place), "--save", "3600 1", "--stop-writes-on-bgsave-error", "yes"]
    with redis_server(tmp_path, more=more) as server, redis.Redis(port=server.port) as direct:
        place.rmdir()
        direct.bgsave()
        wait_until(lambda: direct.info("persistence")["rdb_last_bgsave_status"] == "err", 10, "the snapshot to fail")
        with pytest.raises(
            BrokerUnavailableError, match=r"accepts no data at present \(MISCONF [^.]*\). Read"
        ) as raised:
            connect(server.url(), 3)
    assert type(raised.value) is BrokerUnavailableError


def test_a_redis_that_loads_its_data_is_one_sentence(tmp_path: Path) -> None:
    """It answers LOADING to everything, also to the first ping."""
    more = ["--enable-debug-command", "yes", "--loading-process-events-interval-bytes", "1024"]
    with redis_server(tmp_path, more=more) as server, redis.Redis(port=server.port) as direct:
        # It answers between two kilobytes that it loads, which nothing compresses.
        for number in range(100):
            direct.set(str(number), os.urandom(2048))
        direct.config_set("key-load-delay", 100_000)
        loading = threading.Thread(target=_reload, args=[server.port])
        loading.start()

        def said() -> str:
            try:
                connect(server.url(), 3).close()
            except BrokerUnavailableError as error:
                return error.message if type(error) is BrokerUnavailableError else ""
            return ""

        assert "is still loading its data. Try again" in wait_until(said, 10, "the Redis to load its data")
        server.process.kill()
        loading.join(10)


def _reload(port: int) -> None:
    """Have a server load its data again; this waits until it is killed."""
    with contextlib.suppress(redis.RedisError), redis.Redis(port=port, retry=Retry(NoBackoff(), 0)) as client:
        client.execute_command("DEBUG", "RELOAD")


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
