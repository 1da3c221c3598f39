"""The number of associations with each remote that may be open now, as the fleet has measured it.

Workers report what they move, at most ten times a second. One script closes a window of measurements, compares it with
the one before, and raises or lowers the number: see ``lua/tune.lua``. The reply has the number, and whether holders
shall give an association back to others who wait; they read it between two files. The record of a remote is forgotten
after a month without use.
"""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple, cast

import redis

from pacs_tasks.errors import BrokerUnavailableError
from pacs_tasks.fleet.leases import START, lease_arguments, lease_keys, tuning_key
from pacs_tasks.ledger.keys import Scripts

logger = logging.getLogger(__name__)

#: Seconds between two reports of what was moved.
_REPORT = 0.1
#: Seconds for which a silent Redis is not asked again.
REDIS_SILENT = 5.0


class Trouble(StrEnum):
    """A sign that a remote has more associations than it bears."""

    NONE = ""
    #: It rejected an association for now.
    REFUSED = "refused"
    #: It aborted an association.
    ABORTED = "aborted"
    #: It answered that it is out of resources, or took long to accept an association.
    BUSY = "busy"


class Moved(NamedTuple):
    """What a process has moved over its associations with a remote since its last report."""

    #: Seconds since that report, and seconds of associations in use in these: their sum.
    elapsed: float = 0.0
    used: float = 0.0
    instances: int = 0
    bytes: int = 0
    #: Seconds from one instance to the next on the same association, and from request to response: the sums.
    cycles: float = 0.0
    responses: float = 0.0
    #: Seconds for which the remote let associations wait that it had not accepted: the sum.
    unaccepted: float = 0.0


class Tuned(NamedTuple):
    """How many associations with a remote may be open now, and who shall give one back.

    Attributes
    ----------
    claims
        By :func:`~pacs_tasks.fleet.leases.group_of` a lease, the seconds of holding after each of which one of its
        holders shall give it back.
    """

    limit: int
    claims: Mapping[str, Sequence[float]]


class Tuning:
    """The tuning of all remotes in one Redis."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._scripts = Scripts(client, "fleet")

    def report(self, remote: str, limit: int, process: str, moved: Moved, trouble: Trouble = Trouble.NONE) -> Tuned:
        """Report what a process has moved, or trouble.

        Parameters
        ----------
        limit
            How many leases of this remote there may be in any case.
        process
            A name of the process, unique in the fleet.
        """
        arguments = [*lease_arguments(remote, limit), "", process, *moved, trouble.value]
        keys = [*lease_keys(remote), f"{tuning_key(remote)}:window"]
        number, *claims = self._scripts.run("tune", keys, arguments)
        pairs = zip(claims[::2], claims[1::2], strict=True)
        return Tuned(int(number), {group: json.loads(text) for group, text in pairs})

    def begin_with(self, remote: str, number: int, response: float) -> None:
        """Have a remote of which nothing is known begin with these: associations, and seconds to a response."""
        with self._redis.pipeline() as pipe:
            pipe.hsetnx(tuning_key(remote), "limit", str(number))
            pipe.hsetnx(tuning_key(remote), "response", f"{response:.4f}")
            pipe.execute()

    def response_time(self, remote: str) -> float | None:
        """Give the seconds that the remote usually takes to respond to a request; None if that is not known."""
        text = cast("str | None", self._redis.hget(tuning_key(remote), "response"))
        return None if text is None else float(text)


class Flow:
    """What one process moves over its associations with one remote, by the names of their leases; safe in threads."""

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

    def begin(self, lease: str) -> None:
        """Note that an association is in use from now on."""
        now = time.monotonic()
        with self._lock:
            self._resume(now)
            self._in_use[lease] = now, now

    def end(self, lease: str) -> None:
        """Note that it is not in use any more."""
        with self._lock:
            since, _ = self._in_use.pop(lease, (math.inf, math.inf))
            self._used += max(0.0, time.monotonic() - since)

    def wait(self, lease: str, limit: int) -> None:
        """Note that the remote lets an association wait, from now on or still: it has not accepted it."""
        now = time.monotonic()
        with self._lock:
            self._resume(now)
            since, _ = self._in_use.pop(lease, (now, now))
            self._used += now - since
            self._unaccepted.setdefault(lease, now)
        if now - self._reported >= _REPORT:
            self.report(limit)

    def end_wait(self, lease: str) -> None:
        """Note that it does not wait any more."""
        now = time.monotonic()
        with self._lock:
            self._waited += now - self._unaccepted.pop(lease, now)

    def _resume(self, now: float) -> None:
        if not (self._in_use or self._unaccepted):
            # There was nothing to report in the meantime.
            self._reported = max(self._reported, now - _REPORT)

    def add(self, lease: str, limit: int, instances: int, size: int, response: float | None = None) -> None:
        """Add what has been moved over one of them.

        Parameters
        ----------
        limit
            As for :meth:`Tuning.report`.
        size
            In bytes.
        response
            Seconds from request to response of all of them. None: since what was moved before.
        """
        now = time.monotonic()
        with self._lock:
            since, last = self._in_use.get(lease, (now, now))
            self._instances += instances
            self._bytes += size
            self._cycles += now - last
            self._responses += now - last if response is None else response
            self._in_use[lease] = since, now
        if now - self._reported >= _REPORT:
            self.report(limit)

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
