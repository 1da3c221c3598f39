"""A worker's claim on a job or a part: nobody else works on it meanwhile, and its cancel flag is watched."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from celery import Task

from pacs_tasks.errors import JobFailedError
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.tasks.engine.heartbeat import pulse
from pacs_tasks.tasks.engine.retry import come_again

#: Seconds between two looks at the cancel flag.
_LOOK = 0.4
#: Seconds that the peer has to answer for the file that is on its way when a cancel comes: then it counts.
_LAST_WORD = 2.0
#: Seconds until a task that is claimed elsewhere looks again.
_STEP_BACK = 2
#: Of so many dead workers that were at one thing, that thing is the reason: it fails.
MOST_DEATHS = 3


class Claim:
    """Callable: has a cancel been asked for? Asking is the sign of life that keeps the claim, so ask while you wait.

    Parameters
    ----------
    task
        Which steps back when the claim has gone to another, as it does when this machine slept.
    ledger, scope, name
        As for :meth:`pacs_tasks.ledger.claims.Claims.take`.
    job_id
        Whose cancel flag is watched.
    """

    def __init__(self, task: Task, ledger: Ledger, scope: str, name: str, job_id: str) -> None:
        self._task, self._ledger, self._scope, self.name, self.job_id = task, ledger, scope, name, job_id
        #: A pool of threads may be handed the same task twice.
        self.owner = f"{task.request.hostname} {os.getpid()} {threading.get_ident()} {task.request.id}"
        self.cancelled = self._lost = False
        self.seen = self._looked = time.monotonic()
        held = self._ledger.claims.take(scope, name, self.owner)
        if not held:
            self._step_back()
        #: How many workers have died with this claim.
        self.deaths = held - 1
        pulse().keep(self)

    def prolong(self) -> None:
        """Hold the claim for another while, from the thread of the pulse."""
        self._lost = self._lost or not self._ledger.claims.take(self._scope, self.name, self.owner)

    def _step_back(self) -> NoReturn:
        come_again(self._task, _STEP_BACK)

    def overdue(self) -> bool:
        """As a call, but true only when the peer has had time to answer what was on its way as the cancel came."""
        return self() and time.monotonic() - self._looked >= _LAST_WORD

    def release(self) -> None:
        pulse().forget(self)
        self._ledger.claims.release(self._scope, self.name, self.owner)
        self._ledger.settle(self.job_id)

    def check_deaths(self) -> None:
        """Raise :class:`JobFailedError` if this work ends every worker that takes it up."""
        if self.deaths >= MOST_DEATHS:
            raise poison(self.deaths)

    def __call__(self) -> bool:
        self.seen = now = time.monotonic()
        if self._lost:
            self._step_back()
        if not self.cancelled and now - self._looked >= _LOOK:
            self._looked = now
            self.cancelled = self._ledger.cancel_requested(self.job_id)
        return self.cancelled


def poison(deaths: int) -> JobFailedError:
    """The error of what so many workers died of."""
    return JobFailedError(
        f"{deaths} workers died while they were at it; look into their logs and their machines' memory, "
        "then retry the job"
    )


@contextmanager
def claimed(task: Task, ledger: Ledger, job_id: str, name: str, scope: str | None = None) -> Iterator[Claim]:
    """Hold a claim while the block runs; a task that finds it held by another steps back and looks again.

    Redis hands a message out again when its worker is silent for longer than the visibility timeout, also when that
    worker is merely busy: the claim keeps the second one from sending the same files meanwhile.

    Parameters
    ----------
    scope
        What the claim is about, where that is not the job itself.
    """
    claim = Claim(task, ledger, scope or job_id, name, job_id)
    try:
        yield claim
    finally:
        claim.release()
