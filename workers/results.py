"""The results that a worker stores for Celery, whatever stands in their place.

Before it stores a result, Celery reads the one of the same id, and tries again for two minutes if it cannot: a stranger
could hold up each child of a worker by values that nobody can decode.
"""

from __future__ import annotations

from typing import Any

from celery.backends.redis import RedisBackend
from celery.states import PENDING
from redis.exceptions import ResponseError


class Backend(RedisBackend):  # type: ignore[misc]  # Celery ships no annotations
    """Takes a value that is no result for none."""

    def get(self, key: Any) -> Any:
        try:
            return super().get(key)
        except ResponseError as error:
            if "WRONGTYPE" not in str(error):
                raise
            return None

    def decode_result(self, payload: Any) -> Any:
        try:
            return super().decode_result(payload)
        except Exception:  # noqa: BLE001 - whatever a stranger wrote
            return {"status": PENDING, "result": None}
