"""The bits of a job's bitmaps, read in one command: 100,000 lines are 12 kB."""

from __future__ import annotations

from typing import Any

import redis
from redis.client import NEVER_DECODE


class Bitmap:
    """The bits ``start`` up to, not including, ``stop`` of a bitmap in Redis."""

    def __init__(self, client: redis.Redis, key: str, start: int, stop: int) -> None:
        self._start, self._stop, self._first = start, stop, start // 8
        self._bytes = b""
        if start < stop:
            execute: Any = client.execute_command
            self._bytes = execute("GETRANGE", key, self._first, (stop - 1) // 8, **{NEVER_DECODE: []})

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
