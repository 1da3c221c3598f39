"""A worker's claim on a job or a part, and the heartbeat that keeps claims and leases alive.

While a worker holds a claim, no other works on the same thing. Redis delivers a message again when its worker has been
silent for longer than the visibility timeout, even if that worker is only busy; the claim keeps the second worker from
sending the same files.

One thread per process prolongs its claims and leases as long as their owners show signs of life: a task may be busy for
a while with a slow disk or name server. A process that is dead or stopped has no heartbeat, and a task that hangs for a
minute loses what it holds.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import NoReturn, Protocol

import redis
from celery import Task

from pacs_tasks.errors import BrokerUnavailableError, JobFailedError
from pacs_tasks.ledger.jobs import CLAIM_LIFETIME, Ledger
from pacs_tasks.tasks.engine.retry import come_again

logger = logging.getLogger(__name__)

#: Seconds between two heartbeats.
_BEAT = CLAIM_LIFETIME / 3
#: Seconds without a sign of life after which the heartbeat prolongs nothing.
_SILENCE = 60.0
#: Seconds between two checks of the cancel flag.
_CANCEL_CHECK = 0.4
#: Seconds that the remote has to answer for the file in progress when a cancel comes: that answer still counts.
_LAST_ANSWER = 2.0
#: Seconds after which a task whose claim another holds tries again.
_STEP_BACK = 2
#: Workers that may die at one thing before it fails: it is the likely cause.
MOST_DEATHS = 3


class Held(Protocol):
    """Something that the heartbeat keeps alive."""

    @property
    def seen(self) -> float:
        """When its owner last gave a sign of life, by :func:`time.monotonic`."""

    def prolong(self) -> None:
        """Hold it for another lifetime; may raise what an unavailable Redis raises."""


class Heartbeat:
    """The heartbeat of one process; its thread runs while there is something to keep alive."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held: set[Held] = set()
        self._thread: threading.Thread | None = None

    def keep(self, held: Held) -> None:
        with self._changed:
            self._held.add(held)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
                self._thread.start()

    def forget(self, held: Held) -> None:
        """Prolong it no more; none is under way when this returns."""
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
                        _prolong(held)


def _prolong(held: Held) -> None:
    try:
        held.prolong()
    except (BrokerUnavailableError, redis.RedisError) as error:
        logger.debug("a claim or a lease was not prolonged (%s)", type(error).__name__)


@cache
def _heartbeat_of(_: int) -> Heartbeat:
    return Heartbeat()


def heartbeat() -> Heartbeat:
    """The heartbeat of this process; a forked child has its own."""
    return _heartbeat_of(os.getpid())


class Claim:
    """A claim. Call it to learn whether the job was cancelled; each call is a sign of life, so call it while you wait.

    Parameters
    ----------
    task
        Steps back when the claim has gone to another worker, for example because this machine slept.
    ledger, scope, name
        As for :meth:`pacs_tasks.ledger.jobs.Claims.claim`.
    job_id
        The job whose cancel flag is watched.

    Attributes
    ----------
    deaths
        How many workers have died with this claim.
    """

    def __init__(self, task: Task, ledger: Ledger, scope: str, name: str, job_id: str) -> None:
        self._task, self._ledger, self._scope, self.name, self.job_id = task, ledger, scope, name, job_id
        # With the thread: a pool of threads may receive the same task twice.
        self.owner = f"{task.request.hostname} {os.getpid()} {threading.get_ident()} {task.request.id}"
        self.cancelled = self._lost = False
        self.seen = self._checked = time.monotonic()
        held = self._ledger.claims.claim(scope, name, self.owner)
        if not held:
            self._step_back()
        self.deaths = held - 1
        heartbeat().keep(self)

    def __call__(self) -> bool:
        self.seen = now = time.monotonic()
        if self._lost:
            self._step_back()
        if not self.cancelled and now - self._checked >= _CANCEL_CHECK:
            self._checked = now
            self.cancelled = self._ledger.cancel_requested(self.job_id)
        return self.cancelled

    def overdue(self) -> bool:
        """As a call, but true only after the remote had time to answer for the file in progress."""
        return self() and time.monotonic() - self._checked >= _LAST_ANSWER

    def prolong(self) -> None:
        """Hold the claim for another lifetime; called by the heartbeat's thread."""
        self._lost = self._lost or not self._ledger.claims.claim(self._scope, self.name, self.owner)

    def check_deaths(self) -> None:
        """Raise :class:`JobFailedError` if every worker that begins this work dies."""
        if self.deaths >= MOST_DEATHS:
            raise poison(self.deaths)

    def release(self) -> None:
        heartbeat().forget(self)
        self._ledger.claims.release(self._scope, self.name, self.owner)
        self._ledger.settle(self.job_id)

    def _step_back(self) -> NoReturn:
        come_again(self._task, _STEP_BACK)


def poison(deaths: int) -> JobFailedError:
    """The error of work at which so many workers died."""
    return JobFailedError(
        f"{deaths} workers died while they worked on this. "
        "Check their logs and the memory of their machines, then retry the job."
    )


@contextmanager
def claimed(task: Task, ledger: Ledger, job_id: str, name: str, scope: str | None = None) -> Iterator[Claim]:
    """Hold a claim during the block; if another worker holds it, the task comes again.

    Parameters
    ----------
    scope
        The scope of the claim where that is not the job.
    """
    claim = Claim(task, ledger, scope or job_id, name, job_id)
    try:
        yield claim
    finally:
        claim.release()
