"""Marks: members of a hash that expire unless somebody renews them. Scripts include ``lua/marks.lua`` for the same.

The value of a field is ``expiry value``; the expiry is in Unix seconds of the server, so that the clocks of workers do
not matter. Redis before 7.4 cannot expire a field by itself.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, cast

import redis


class Marks:
    """The marks in one hash."""

    def __init__(self, client: redis.Redis, key: str) -> None:
        self._redis, self._key = client, key

    def renew(self, members: Collection[str], seconds: int, value: str = "") -> None:
        """Add members, or renew them, for some seconds; the hash lives as long."""
        expiry = math.floor(self._now()) + seconds
        fields: dict[Any, Any] = dict.fromkeys(members, f"{expiry} {value}")
        self._redis.hset(self._key, mapping=fields)
        self._redis.expire(self._key, seconds)

    def remove(self, members: Collection[str]) -> None:
        self._redis.hdel(self._key, *members)

    def live(self, *, remove_expired: bool = True) -> dict[str, str]:
        """Read the members that have not expired, with their values."""
        fields = cast("dict[str, str]", self._redis.hgetall(self._key))
        now = self._now() if fields else 0.0
        marks = ((member, *text.partition(" ")) for member, text in fields.items())
        live = {member: value for member, expiry, _, value in marks if float(expiry) > now}
        if remove_expired and len(live) < len(fields):
            self.remove(fields.keys() - live.keys())
        return live

    def _now(self) -> float:
        seconds, microseconds = self._redis.time()
        return seconds + microseconds / 1_000_000
