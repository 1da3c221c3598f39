"""A worker's claim on a job or a part: nobody else works on it meanwhile, and its cancel flag is watched."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from celery import Task

from pacs_tasks.errors import JobFailedError
from pacs_tasks.ledger import CLAIM_LIFETIME, Ledger

#: Seconds between two looks at the cancel flag.
_LOOK = 0.4
_PROLONG = CLAIM_LIFETIME / 5
#: Seconds that the peer has to answer for the file that is on its way when a cancel comes: then it counts.
_LAST_WORD = 2.0
#: Seconds until a task that is claimed elsewhere looks again.
_STEP_BACK = 2
#: Of so many dead workers that held one claim, what was claimed is the reason: it fails.
_MOST_DEATHS = 5


class Claim:
    """Callable: has a cancel been asked for? Asking also keeps the claim alive, so ask while you wait.

    Parameters
    ----------
    task
        Which steps back when the claim has gone to another, as it does when this machine slept.
    ledger, scope, name
        As for :meth:`pacs_tasks.ledger.Ledger.claim`.
    job_id
        Whose cancel flag is watched.
    """

    def __init__(self, task: Task, ledger: Ledger, scope: str, name: str, job_id: str) -> None:
        self._task, self._ledger, self._scope, self._name, self._job_id = task, ledger, scope, name, job_id
        #: A pool of threads may be handed the same task twice.
        self.owner = f"{task.request.hostname} {os.getpid()} {threading.get_ident()} {task.request.id}"
        self.cancelled = False
        self._deaths = self._hold()

    def _hold(self) -> int:
        """Claim or prolong; how many owners have died with this claim."""
        self._looked = self._prolonged = time.monotonic()
        held = self._ledger.claim(self._scope, self._name, self.owner)
        if not held:
            raise self._task.retry(countdown=_STEP_BACK, max_retries=None)
        return held - 1

    def overdue(self) -> bool:
        """As a call, but true only when the peer has had time to answer what was on its way as the cancel came."""
        return self() and time.monotonic() - self._looked >= _LAST_WORD

    def release(self) -> None:
        self._ledger.release(self._scope, self._name, self.owner)
        self._ledger.settle(self._job_id)

    def check_deaths(self) -> None:
        """Raise :class:`JobFailedError` if this work ends every worker that takes it up."""
        if self._deaths >= _MOST_DEATHS:
            raise JobFailedError(
                f"{self._deaths} workers died while they were at it; look into their logs and their machines' memory, "
                "then retry the job"
            )

    def __call__(self) -> bool:
        now = time.monotonic()
        if not self.cancelled and now - self._looked >= _LOOK:
            self._looked = now
            self.cancelled = self._ledger.cancel_requested(self._job_id)
            if now - self._prolonged >= _PROLONG:
                self._hold()
        return self.cancelled


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
