"""Is a server there, and is it ours?"""

from __future__ import annotations

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry


def answers(url: str, timeout: float = 1.0) -> bool:
    """Whether the server at ``url`` answers within ``timeout`` seconds, and to our password, so that it is ours."""
    retry = Retry(NoBackoff(), 0)
    try:
        with redis.Redis.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=retry) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def shut_down(url: str, timeout: float) -> bool:
    """Ask the server at ``url`` to write its files and end; false if it cannot be asked."""
    retry = Retry(NoBackoff(), 0)
    try:
        with redis.Redis.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=retry) as client:
            client.shutdown()
    except redis.RedisError:
        return False
    return True
