"""The figures of a receiver for those who watch the fleet: sent to Redis at intervals, not with each instance."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping

import redis

from pacs_tasks.connection import connect
from pacs_tasks.errors import PacsTasksError
from pacs_tasks.fleet.receivers import count_reception

logger = logging.getLogger("pacs_tasks.receiver")


class Figures:
    """What one process of a receiver has counted, and what of it is in Redis."""

    def __init__(self, redis_url: str, timeout: float, ae_title: str) -> None:
        self._url, self._timeout, self._ae_title = redis_url, timeout, ae_title
        self._client: redis.Redis | None = None
        self._sent: Mapping[str, int] = {}

    def send(self, counts: Mapping[str, int]) -> None:
        """Add to Redis what was counted since the last call; later if it does not answer."""
        new = {name: number - self._sent.get(name, 0) for name, number in counts.items()}
        if not any(new.values()):
            return
        try:
            if self._client is None:
                self._client = connect(self._url, self._timeout)
            count_reception(self._client, self._ae_title, new)
        except (PacsTasksError, redis.RedisError) as error:
            logger.debug("figures are sent later (%s)", type(error).__name__)
        else:
            self._sent = dict(counts)

    def close(self) -> None:
        if self._client is not None:
            with contextlib.suppress(redis.RedisError, OSError):
                self._client.close()
