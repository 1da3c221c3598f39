"""Two structures in Redis that the ledger and the fleet share: bitmaps, and marks that expire."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import redis


class Bitmap:
    """The bits ``start`` up to, not including, ``stop`` of a bitmap, read in one command: 100,000 bits are 12 kB."""

    def __init__(self, client: redis.Redis, key: str, start: int, stop: int) -> None:
        self._start, self._stop, self._first = start, stop, start // 8
        self._bytes = b""
        if start < stop:
            execute: Any = client.execute_command
            self._bytes = execute("GETRANGE", key, self._first, (stop - 1) // 8, NEVER_DECODE=[])

    def indices(self) -> set[int]:
        """Give the indices of the bits that are set."""
        last = min(self._stop, (self._first + len(self._bytes)) * 8)
        return {index for index in range(self._start, last) if self._byte(index) >> (7 - index % 8) & 1}

    def count(self, start: int, stop: int) -> int:
        """Count the bits that are set in a part of the range."""
        first, last = start // 8, (stop + 7) // 8
        part = self._bytes[first - self._first : last - self._first].ljust(last - first, b"\0")
        bits = int.from_bytes(part, "big") >> (last * 8 - stop)
        return (bits & ((1 << (stop - start)) - 1)).bit_count()

    def _byte(self, index: int) -> int:
        return self._bytes[index // 8 - self._first]


class Marks:
    """The fields of a hash that expire unless somebody renews them; scripts include ``lua/marks.lua`` for the same.

    The value of a field is ``expiry value``. Redis before 7.4 cannot expire a field by itself.
    """

    def __init__(self, client: redis.Redis, key: str) -> None:
        self._redis, self._key = client, key

    def renew(self, members: Collection[str], seconds: int, value: str = "") -> None:
        """Add members, or renew them, for some seconds; the hash lives as long."""
        expiry = math.floor(server_time(self._redis)) + seconds
        fields: dict[Any, Any] = dict.fromkeys(members, f"{expiry} {value}")
        self._redis.hset(self._key, mapping=fields)
        self._redis.expire(self._key, seconds)

    def remove(self, members: Collection[str]) -> None:
        self._redis.hdel(self._key, *members)

    def live(self, *, remove_expired: bool = True) -> dict[str, str]:
        """Read the members that have not expired, with their values."""
        fields = cast("dict[str, str]", self._redis.hgetall(self._key))
        now = server_time(self._redis) if fields else 0.0
        marks = ((member, *text.partition(" ")) for member, text in fields.items())
        live = {member: value for member, expiry, _, value in marks if float(expiry) > now}
        if remove_expired and len(live) < len(fields):
            self.remove(fields.keys() - live.keys())
        return live


def server_time(client: redis.Redis) -> float:
    """Read the clock of the server, in Unix seconds: those of workers may differ."""
    seconds, microseconds = client.time()
    return seconds + microseconds / 1_000_000
