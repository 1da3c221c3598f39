"""Connections that say nothing keep nobody from the server."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from pacs_tasks.serve.protocol import Limits, limited
from tests.support.http_api import serving
from tests.support.redis_server import redis_server
from tests.support.waiting import wait_until

#: Seconds after which a test fails.
PATIENCE = 10.0
HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n"


async def _echo(_scope: Any, receive: Any, send: Any) -> None:
    """Answer with the body; a body that begins with ``s`` has a response that never ends."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message.get("body", b""), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body, "more_body": body.startswith(b"s")})
    if body.startswith(b"s"):
        while (await receive())["type"] != "http.disconnect":
            pass


@contextmanager
def _server(limits: Limits) -> Iterator[int]:
    """A server with these limits; its port."""
    config = uvicorn.Config(
        _echo, http=limited(limits), lifespan="off", log_config=None, timeout_keep_alive=60, timeout_graceful_shutdown=0
    )
    server = uvicorn.Server(config)
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
        thread.start()
        try:
            wait_until(lambda: server.started, PATIENCE, "the server to start")
            yield int(listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(PATIENCE)


@contextmanager
def _connected(port: int, sent: bytes = b"") -> Iterator[socket.socket]:
    with closing(socket.create_connection(("127.0.0.1", port), PATIENCE)) as connection:
        connection.sendall(sent)
        yield connection


def _answered(connection: socket.socket) -> None:
    """Wait for the first piece of a response that does not end."""
    received = b""
    while not received.endswith(b"stream....\r\n"):
        piece = connection.recv(1 << 16)
        assert piece, "the connection ended"
        received += piece


def _ended(connection: socket.socket) -> bool:
    """Wait for the end of a connection that brings nothing more."""
    try:
        return connection.recv(1 << 16) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("sent", [b"", HEAD, HEAD + b"\r\nabc"], ids=["nothing", "half a head", "half a body"])
def test_a_connection_that_falls_silent_ends(sent: bytes) -> None:
    """It waits for a request that never comes, or for the rest of one."""
    with _server(Limits(head=0.2, piece=0.2)) as port, _connected(port, sent) as connection:
        assert _ended(connection)


def test_a_response_may_take_its_time() -> None:
    """A request that is whole is awaited no longer, whatever its response takes and whatever comes meanwhile."""
    with (
        _server(Limits(head=0.2, piece=0.2)) as port,
        _connected(port, HEAD + b"\r\nstream....GET") as watching,
        _connected(port) as silent,
    ):
        _answered(watching)
        assert _ended(silent)
        watching.setblocking(False)
        with pytest.raises(BlockingIOError):
            watching.recv(1)


def test_a_connection_too_many_ends_the_one_that_is_silent_for_longest() -> None:
    """Those that are being answered stay, and so do those of a proxy that has a request for each."""
    with _server(Limits(of_address=4, grace=0.0)) as port, ExitStack() as stack:
        first, second = (stack.enter_context(_connected(port, HEAD)) for _ in range(2))
        watching = [stack.enter_context(_connected(port, HEAD + b"\r\nstream....")) for _ in range(4)]
        for each in watching:
            _answered(each)
        assert _ended(first)
        assert _ended(second)
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as connection:
            connection.request("POST", "/", b"more")
            assert connection.getresponse().read() == b"more"


def test_many_that_connect_at_once_are_answered() -> None:
    """As the browsers of a department behind one proxy: none of them is silent, they have only just connected."""
    with _server(Limits(of_address=4)) as port, ExitStack() as stack:
        connections = [stack.enter_context(_connected(port)) for _ in range(40)]
        for each in connections:
            each.sendall(HEAD + b"\r\nstream....")
        for each in connections:
            _answered(each)


def test_silent_connections_lock_nobody_out(tmp_path: Path) -> None:
    """They are more than the server may have files."""
    with (
        redis_server(tmp_path) as redis,
        serving(redis.url(), tmp_path, 200) as service,
        ExitStack() as stack,
    ):
        for _ in range(220):
            connection = stack.enter_context(closing(socket.socket()))
            connection.setblocking(False)
            connection.connect_ex(("127.0.0.1", service.port))
        assert service.call("GET", "/health", status=200).json == {"status": "up"}
