"""The pulse of a process: one thread keeps its claims and leases alive as long as their owners give signs of life.

A task may be busy for a while without a look at anything: a disk that syncs, a name server that is slow. A process that
is dead or stopped has no pulse, and a task that hangs for a minute loses what it holds as well.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from functools import cache
from typing import Protocol

import redis

from pacs_tasks.errors import BrokerUnavailableError
from pacs_tasks.ledger.claims import CLAIM_LIFETIME

logger = logging.getLogger(__name__)

#: Seconds between two beats.
_BEAT = CLAIM_LIFETIME / 3
#: Seconds without a sign of life after which nothing is kept alive.
_SILENCE = 60.0


class Held(Protocol):
    """What is kept alive."""

    @property
    def seen(self) -> float:
        """When its owner last gave a sign of life, by :func:`time.monotonic`."""

    def prolong(self) -> None:
        """Hold it for another while; it may raise what a Redis raises that is away."""


class Pulse:
    """The thread of one process; it runs while there is something to keep alive."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held: set[Held] = set()
        self._thread: threading.Thread | None = None

    def keep(self, held: Held) -> None:
        with self._changed:
            self._held.add(held)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)
                self._thread.start()

    def forget(self, held: Held) -> None:
        """Nothing is prolonged any more when this returns."""
        with self._changed:
            self._held.discard(held)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._held:
                    self._thread = None
                    return
                self._changed.wait(_BEAT)
                for held in self._held:
                    if time.monotonic() - held.seen < _SILENCE:
                        _try(held.prolong)


def _try(step: Callable[[], None]) -> None:
    try:
        step()
    except (BrokerUnavailableError, redis.RedisError) as error:
        logger.debug("a claim or a lease was not prolonged (%s)", type(error).__name__)


@cache
def _of_process(_: int) -> Pulse:
    return Pulse()


def pulse() -> Pulse:
    """The pulse of this process: a child that was forked has its own."""
    return _of_process(os.getpid())
