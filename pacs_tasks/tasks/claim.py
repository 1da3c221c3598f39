"""A worker's claim on a job or a part: nobody else works on it meanwhile, and its cancel flag is watched."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from celery import Task

from pacs_tasks.ledger import CLAIM_LIFETIME, Ledger

#: Seconds between two looks at the cancel flag.
_LOOK = 0.4
_PROLONG = CLAIM_LIFETIME / 5
#: Seconds until a task that is claimed elsewhere looks again.
_STEP_BACK = 2


class Claim:
    """Callable: has a cancel been asked for? Asking also keeps the claim alive, so ask while you wait.

    Parameters
    ----------
    ledger, scope, name
        As for :meth:`pacs_tasks.ledger.Ledger.claim`.
    owner
        Who claims.
    job_id
        Whose cancel flag is watched.
    """

    def __init__(self, ledger: Ledger, scope: str, name: str, owner: str, job_id: str) -> None:
        self._ledger, self._scope, self._name, self._owner, self._job_id = ledger, scope, name, owner, job_id
        self._looked = self._prolonged = time.monotonic()
        self.cancelled = False

    def __call__(self) -> bool:
        now = time.monotonic()
        if not self.cancelled and now - self._looked >= _LOOK:
            self._looked = now
            self.cancelled = self._ledger.cancel_requested(self._job_id)
            if now - self._prolonged >= _PROLONG:
                self._prolonged = now
                self._ledger.claim(self._scope, self._name, self._owner)
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
    owner = f"{task.request.hostname} {os.getpid()} {task.request.id}"
    where = scope or job_id
    if not ledger.claim(where, name, owner):
        raise task.retry(countdown=_STEP_BACK, max_retries=None)
    try:
        yield Claim(ledger, where, name, owner, job_id)
    finally:
        ledger.release(where, name, owner)
        ledger.settle(job_id)
