"""The connection to the Redis that carries the jobs. Its failures are errors of this package."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit
from weakref import WeakSet

import pydantic.main
import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.driver_info import DriverInfo
from redis.retry import Retry

from pacs_tasks.errors import BrokerSettingError, BrokerUnavailableError
from pacs_tasks.sealing import Sealing
from pacs_tasks.settings import check_redis_url

#: The errors of a Redis that is unreachable or cannot be written, which may change by itself.
AWAY = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.OutOfMemoryError,
    redis.ReadOnlyError,
)
#: For each connection that is not told, redis-py reads its version from its metadata: longer than connecting takes.
_DRIVER = DriverInfo(lib_version=redis.__version__)
#: Seconds for an answer that something else waits for, such as an instance that is received.
QUICK = 1.0
#: Connections that the waits of an event loop share.
_MOST_CONNECTIONS = 8
#: The parameters of an address that name files, and the settings that they come from.
_FILES: Mapping[str, str] = MappingProxyType(
    {
        "ssl_ca_certs": "PACS_TASKS_REDIS_CA",
        "ssl_certfile": "PACS_TASKS_REDIS_CERT",
        "ssl_keyfile": "PACS_TASKS_REDIS_KEY",
    }
)
#: The replies of a Redis that cannot write for the moment and for which redis-py has no class of its own.
_UNWRITABLE = ("MISCONF", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "BUSY")


class _Redis(redis.Redis):
    """A client that reports a Redis that cannot be used as our error, with the address and what to check."""

    place: str
    sealing: Sealing | None
    #: Makes a pool without connections.
    new_pool: Callable[[], redis.ConnectionPool]

    def execute_command(self, *args: Any, **options: Any) -> Any:
        try:
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]  # redis-py leaves it so
        except (redis.RedisError, OSError) as error:
            if (explained := explain(error, self.place)) is None:
                raise
            raise explained from None


class _AsyncRedis(redis.asyncio.Redis):
    """As :class:`_Redis`, for asyncio. Thousands of waits share a few connections."""

    place: str
    turns: asyncio.Semaphore

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        try:
            async with self.turns:
                return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]  # as above
        except (redis.RedisError, OSError) as error:
            if (explained := explain(error, self.place)) is None:
                raise
            raise explained from None


#: The clients of this process, to renew them in a forked child.
_clients: WeakSet[_Redis] = WeakSet()


def _renew_after_fork() -> None:
    """Give each client of a forked child a pool of its own.

    redis-py replaces the connections by itself, but first acquires a lock of the pool, which a thread of the parent may
    have held during the fork: nobody would ever release it.
    """
    for client in _clients:
        client.connection_pool = client.new_pool()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_renew_after_fork)
    # Models are built when they are first used, under one lock of the process. If a thread held it during a fork, the
    # child would wait for ever when it uses a model that has not been built.
    if (_building := getattr(pydantic.main, "_rebuild_lock", None)) is not None:
        os.register_at_fork(
            before=_building.acquire, after_in_parent=_building.release, after_in_child=_building.release
        )


def explain(error: redis.RedisError | OSError, place: str) -> BrokerUnavailableError | None:
    """Return what an error says about the Redis at ``place`` as a whole; None if it is about one command."""
    if isinstance(error, redis.ResponseError):
        return _explain_reply(error, place)
    if isinstance(error, redis.AuthenticationError):
        return BrokerSettingError(
            f"The Redis at {place} rejected the password ({error}). Correct it in PACS_TASKS_REDIS_URL, with "
            "/ # ? @ : and % percent-encoded (/ is %2F)."
        )
    if isinstance(error, redis.exceptions.BusyLoadingError):
        return BrokerUnavailableError(f"The Redis at {place} is still loading its data. Try again in a moment.")
    if isinstance(error, redis.InvalidResponse):
        return BrokerSettingError(f"The server at {place} is not a Redis. Check host and port in PACS_TASKS_REDIS_URL.")
    if isinstance(error, redis.ConnectionError | redis.TimeoutError | OSError):
        return _explain_silence(error, place)
    return None


def _explain_silence(error: Exception, place: str) -> BrokerUnavailableError:
    if "[SSL" not in str(error) and "[X509" not in str(error):
        return BrokerUnavailableError(
            f"The Redis at {place} does not answer ({str(error).rstrip('.') or type(error).__name__}). "
            "Check PACS_TASKS_REDIS_URL, and that the Redis is running and accepts connections from this machine."
        )
    # What OpenSSL says, without its names of files and lines.
    reason = str(error).rpartition("] ")[2].partition(" (_ssl.c")[0].rstrip(".")
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return BrokerSettingError(
            f"The Redis at {place} has a certificate that this machine does not trust ({reason}). Name its authority "
            "in PACS_TASKS_REDIS_CA, and the host of its certificate in PACS_TASKS_REDIS_URL."
        )
    return BrokerSettingError(
        f"There is no TLS with the Redis at {place} ({reason}). Check that it uses TLS at this port, and set "
        "PACS_TASKS_REDIS_CERT if it requires a certificate."
    )


def _check_files(redis_url: str) -> None:
    """Check that the files of TLS in an address can be read. redis-py takes the error for one of the network."""
    for name, path in parse_qsl(urlsplit(redis_url).query):
        if (setting := _FILES.get(name)) is None:
            continue
        try:
            with Path(path).open("rb"):
                pass
        except OSError as error:
            raise BrokerSettingError(
                f"The file of {setting} cannot be read ({error.strerror}). Check its path and its permissions.", path
            ) from None


def _explain_reply(error: redis.ResponseError, place: str) -> BrokerUnavailableError | None:
    if isinstance(error, redis.OutOfMemoryError):
        return BrokerUnavailableError(
            f"The Redis at {place} is full (maxmemory). Give it more memory, or keep jobs for a shorter time "
            "(PACS_TASKS_KEEP_JOBS)."
        )
    if isinstance(error, redis.ReadOnlyError):
        return BrokerSettingError(
            f"The Redis at {place} is a read-only replica. Name its primary in PACS_TASKS_REDIS_URL."
        )
    if isinstance(error, redis.exceptions.NoPermissionError):
        return BrokerSettingError(
            f"The user of the Redis at {place} may not do this ({error}). Grant it the rights that the guide to "
            "fleets lists, or name another user in PACS_TASKS_REDIS_URL."
        )
    if isinstance(error, redis.exceptions.MovedError | redis.exceptions.ClusterCrossSlotError):
        return BrokerSettingError(
            f"The Redis at {place} is a node of a Redis Cluster, which Celery cannot use. Name a single Redis in "
            "PACS_TASKS_REDIS_URL."
        )
    if str(error).startswith(_UNWRITABLE) or isinstance(
        error, redis.exceptions.MasterDownError | redis.exceptions.ClusterDownError
    ):
        return (
            BrokerUnavailableError(
                f"The Redis at {place} accepts no data: the disk of its directory is full. Free space there."
            )
            if "No space left" in str(error)
            else BrokerUnavailableError(
                f"The Redis at {place} accepts no data at present ({str(error).partition('. ')[0].rstrip('.')}). Read "
                "its log."
            )
        )
    return None


def connect(redis_url: str, timeout: float, patience: int = 0, sealing: Sealing | None = None) -> redis.Redis:
    """Connect to the Redis of a fleet.

    Parameters
    ----------
    redis_url
        ``redis://``, ``rediss://`` or ``unix://``.
    timeout
        Seconds to wait for the connection and for each reply.
    patience
        How often to repeat a command without a reply: never while a person waits, but a worker must not lose an
        outcome. Each step of the ledger may be repeated.
    sealing
        The encryption of what is private there. None: that of the settings of this process.

    Raises
    ------
    BrokerUnavailableError
        If nothing answers in time.
    BrokerSettingError
        If the address is malformed, is not that of a Redis, or holds a password that the Redis rejects.
    """
    url = check_redis_url(redis_url)
    _check_files(url)
    new_pool = partial(
        redis.ConnectionPool.from_url,
        url,
        decode_responses=True,
        socket_connect_timeout=timeout,
        socket_timeout=timeout,
        retry=Retry(ExponentialBackoff(cap=2, base=0.1), patience),
        # A full Redis has room again when a key expires or somebody frees memory.
        retry_on_error=[redis.OutOfMemoryError],
        health_check_interval=30,
        driver_info=_DRIVER,
    )
    client = _client_of(new_pool)
    client.place, client.sealing, client.new_pool = place_of(redis_url), sealing, new_pool
    _clients.add(client)
    try:
        client.ping()
    except redis.ResponseError as error:
        raise BrokerSettingError(
            f"The Redis at {client.place} refused the connection ({error}). Check PACS_TASKS_REDIS_URL."
        ) from None
    return client


class LateConnection:
    """A connection that is made when it is first needed, by :func:`connect`, which raises the same errors then."""

    def __init__(self, redis_url: str, timeout: float = QUICK) -> None:
        self._url, self._timeout = redis_url, timeout
        self._client: redis.Redis | None = None

    def client(self) -> redis.Redis:
        if self._client is None:
            self._client = connect(self._url, self._timeout)
        return self._client

    def close(self) -> None:
        """Close the connection if there is one; the next need makes another."""
        if self._client is not None:
            with contextlib.suppress(redis.RedisError, OSError):
                self._client.close()
            self._client = None


def _client_of(new_pool: Callable[[], redis.ConnectionPool]) -> _Redis:
    try:
        client = cast(_Redis, _Redis.from_pool(new_pool()))
        # redis-py checks the parameters of the address when it makes a connection.
        client.connection_pool.make_connection()
    except (ValueError, TypeError, redis.RedisError):
        # The reason is left out: any part of a malformed address may be the password.
        raise BrokerSettingError(
            "PACS_TASKS_REDIS_URL has a port or a parameter after ? that no Redis has. Correct or remove it."
        ) from None
    return client


def connect_async(redis_url: str, timeout: float) -> redis.asyncio.Redis:
    """Make a client for asyncio of a Redis to which :func:`connect` has connected; the same errors when it is used."""
    client = cast(
        _AsyncRedis,
        _AsyncRedis.from_url(
            redis_url,
            decode_responses=True,
            socket_connect_timeout=timeout,
            socket_timeout=timeout,
            retry=AsyncRetry(NoBackoff(), 0),
            health_check_interval=30,
        ),
    )
    client.place, client.turns = place_of(redis_url), asyncio.Semaphore(_MOST_CONNECTIONS)
    return client


def answers(url: str) -> bool:
    """Report whether the server at ``url`` answers within a second and accepts our password."""
    try:
        with _impatient(url, 1.0) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def shut_down(url: str, timeout: float) -> bool:
    """Have the server at ``url`` write its files and end. False if it gives no answer."""
    try:
        with _impatient(url, timeout) as client:
            client.shutdown()
    except redis.RedisError:
        return False
    return True


def _impatient(url: str, timeout: float) -> redis.Redis:
    retry = Retry(NoBackoff(), 0)
    return redis.Redis.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=retry)


def place_of(redis_url: str) -> str:
    """Return the address without user, password and parameters, of which one may be the password."""
    scheme, _, rest = redis_url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"
