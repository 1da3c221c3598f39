"""What a worker process moves over its associations with a remote, as it reports it to the tuning.

It does so at most ten times a second. The reply says how many associations there may be, and whether holders shall give
one back to others who wait; they read it between two files.
"""

from __future__ import annotations

import logging
import math
import os
import platform
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import redis

from pacs_tasks.errors import BrokerUnavailableError
from pacs_tasks.fleet.leases import START
from pacs_tasks.fleet.tuning import Moved, Trouble, Tuning

logger = logging.getLogger(__name__)

#: Seconds between two reports of what was moved.
_REPORT = 0.1
#: Seconds for which a silent Redis is not asked again.
REDIS_SILENT = 5.0


class Held(Protocol):
    """A lease of an association."""

    name: str
    limit: int


class Flow:
    """What one process moves over all its associations with one remote; safe in threads."""

    def __init__(self, remote: str, tuning: Callable[[], Tuning]) -> None:
        self._remote, self._tuning = remote, tuning
        self._process = f"{platform.node()}-{os.getpid()}"
        self._lock = threading.Lock()
        #: By the lease of an association in use, since when its use is not reported, and when it was last moved over.
        self._in_use: dict[str, tuple[float, float]] = {}
        #: By the lease of one that the remote lets wait, since when that is not reported.
        self._unaccepted: dict[str, float] = {}
        self._reported = time.monotonic()
        #: The sums since the last report, as in :class:`Moved`. They are for each file, so they are plain numbers.
        self._used = self._cycles = self._responses = self._waited = 0.0
        self._instances = self._bytes = 0
        #: As the last reply said: how many associations there may be, and who shall give one back.
        self.limit = START
        self.claims: Mapping[str, Sequence[float]] = {}

    def begin(self, lease: Held) -> None:
        """Note that an association is in use from now on."""
        now = time.monotonic()
        with self._lock:
            self._resume(now)
            self._in_use[lease.name] = now, now

    def end(self, lease: Held) -> None:
        """Note that it is not in use any more."""
        with self._lock:
            since, _ = self._in_use.pop(lease.name, (math.inf, math.inf))
            self._used += max(0.0, time.monotonic() - since)

    def wait(self, lease: Held) -> None:
        """Note that the remote lets an association wait, from now on or still: it has not accepted it."""
        now = time.monotonic()
        with self._lock:
            self._resume(now)
            since, _ = self._in_use.pop(lease.name, (now, now))
            self._used += now - since
            self._unaccepted.setdefault(lease.name, now)
        if now - self._reported >= _REPORT:
            self.report(lease.limit)

    def end_wait(self, lease: Held) -> None:
        """Note that it does not wait any more."""
        now = time.monotonic()
        with self._lock:
            self._waited += now - self._unaccepted.pop(lease.name, now)

    def _resume(self, now: float) -> None:
        if not (self._in_use or self._unaccepted):
            # There was nothing to report in the meantime.
            self._reported = max(self._reported, now - _REPORT)

    def add(self, lease: Held, instances: int, size: int, response: float | None = None) -> None:
        """Add what has been moved over one of them.

        Parameters
        ----------
        size
            In bytes.
        response
            Seconds from request to response of all of them. None: since what was moved before.
        """
        now = time.monotonic()
        with self._lock:
            since, last = self._in_use.get(lease.name, (now, now))
            self._instances += instances
            self._bytes += size
            self._cycles += now - last
            self._responses += now - last if response is None else response
            self._in_use[lease.name] = since, now
        if now - self._reported >= _REPORT:
            self.report(lease.limit)

    def report(self, limit: int, trouble: Trouble = Trouble.NONE) -> None:
        """Report what was moved since the last report."""
        now = time.monotonic()
        with self._lock:
            elapsed = now - self._reported
            if elapsed <= 0:
                return
            used = self._used + sum(now - since for since, _ in self._in_use.values())
            waited = self._waited + sum(now - since for since in self._unaccepted.values())
            moved = Moved(elapsed, used, self._instances, self._bytes, self._cycles, self._responses, waited)
            self._in_use = {name: (now, last) for name, (_, last) in self._in_use.items()}
            self._unaccepted = dict.fromkeys(self._unaccepted, now)
            self._used = self._cycles = self._responses = self._waited = 0.0
            self._instances = self._bytes = 0
            self._reported = now
        try:
            self.limit, self.claims = self._tuning().report(self._remote, limit, self._process, moved, trouble)
        except (BrokerUnavailableError, redis.RedisError) as error:
            self.claims, self._reported = {}, now + REDIS_SILENT
            logger.debug("nothing was reported of a remote (%s)", type(error).__name__)
