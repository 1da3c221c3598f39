"""The connection to the Redis that carries the jobs. Its failures are errors of this package."""

from __future__ import annotations

from typing import Any, cast

import redis
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.retry import Retry

from pacs_tasks.errors import BrokerUnavailableError

#: The errors of a Redis that is unreachable or out of memory.
AWAY = (redis.ConnectionError, redis.TimeoutError, redis.OutOfMemoryError)


class _Redis(redis.Redis):
    """A client that reports a lost connection as our error, with the address and what to check."""

    place: str

    def execute_command(self, *args: Any, **options: Any) -> Any:
        try:
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]  # redis-py leaves it so
        except redis.AuthenticationError as error:
            raise BrokerUnavailableError(
                f"The Redis at {self.place} rejected the password ({error}). Check PACS_TASKS_REDIS_URL."
            ) from None
        except redis.OutOfMemoryError:
            raise BrokerUnavailableError(full(self.place)) from None
        except redis.InvalidResponse:
            raise BrokerUnavailableError(
                f"The server at {self.place} is not a Redis. Check host and port in PACS_TASKS_REDIS_URL."
            ) from None
        except (*AWAY, OSError) as error:
            raise BrokerUnavailableError(
                f"The Redis at {self.place} does not answer ({str(error).rstrip('.') or type(error).__name__}). "
                "Check PACS_TASKS_REDIS_URL, and that the Redis is running and accepts connections from this machine."
            ) from None


def full(place: str) -> str:
    """Return the message about a Redis that refuses more data, which it must rather than forget jobs."""
    return (
        f"The Redis at {place} is full (maxmemory). Give it more memory, or keep jobs for a shorter time "
        "(PACS_TASKS_KEEP_JOBS)."
    )


def connect(redis_url: str, timeout: float, patience: int = 0) -> redis.Redis:
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

    Raises
    ------
    BrokerUnavailableError
        If nothing answers in time, or the password is rejected.
    """
    try:
        client = cast(
            _Redis,
            _Redis.from_url(
                redis_url,
                decode_responses=True,
                socket_connect_timeout=timeout,
                socket_timeout=timeout,
                retry=Retry(ExponentialBackoff(cap=2, base=0.1), patience),
                # A full Redis has room again when a key expires or somebody frees memory.
                retry_on_error=[redis.OutOfMemoryError],
                health_check_interval=30,
            ),
        )
    except ValueError:
        # The reason is left out: any part of a malformed address may be the password.
        raise BrokerUnavailableError(
            "PACS_TASKS_REDIS_URL is not the address of a Redis. Write it as redis://:PASSWORD@HOST:PORT/0, "
            "with / # ? @ : and % in the password percent-encoded (/ is %2F)."
        ) from None
    client.place = _place(redis_url)
    try:
        client.ping()
    except redis.ResponseError as error:
        raise BrokerUnavailableError(
            f"The Redis at {client.place} refused the connection ({error}). Check PACS_TASKS_REDIS_URL."
        ) from None
    return client


def answers(url: str, timeout: float = 1.0) -> bool:
    """Report whether the server at ``url`` answers within ``timeout`` seconds and accepts our password."""
    try:
        with _impatient(url, timeout) as client:
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


def _place(redis_url: str) -> str:
    """Return the address without its password."""
    scheme, _, rest = redis_url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
