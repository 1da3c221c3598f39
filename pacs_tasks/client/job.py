"""One request on its way: looked at, waited for, ended, taken up again.

Waiting is polling: one HMGET a look.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Self

from pacs_tasks.client.broker import Broker
from pacs_tasks.errors import JobNotReadyError
from pacs_tasks.fleet.associations import AssociationLeases, Associations, name_of
from pacs_tasks.fleet.outages import Outages
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.ledger.matches import RowAnswer, rows_of
from pacs_tasks.ledger.outcomes import Instances
from pacs_tasks.ledger.receipts import Receipt, receipts_of
from pacs_tasks.outcome import InstanceOutcome, Outcome
from pacs_tasks.outcome.progress import JobState, Progress
from pacs_tasks.request import AnyRequest

#: Seconds between two looks at a job: a twentieth of the time that it has taken, so that its end is noticed soon after
#: it however long it takes; within these bounds.
_FIRST_LOOK = 0.02
_LAST_LOOK = 0.25
_SHARE = 0.05
#: Seconds without any change after which we ask whether a worker is there at all, and for how long we listen.
_STANDSTILL = 30.0
_LISTEN = 2.0


class Job:
    """One request on its way, made by :class:`~pacs_tasks.client.PacsClient`.

    ``id`` is also the id of its Celery task.
    """

    def __init__(self, job_id: str, ledger: Ledger, broker: Broker) -> None:
        self.id = job_id
        self._ledger = ledger
        self._broker = broker

    def __repr__(self) -> str:
        return f"<Job {self.id}>"

    def request(self) -> AnyRequest:
        """What was asked."""
        return self._ledger.request(self.id, bulk=True)

    def progress(self) -> Progress:
        """A look at the job's state and counters."""
        progress = self._ledger.progress(self.id)
        if progress.cancel_requested and not progress.state.finished and self._ledger.settle(self.id):
            # A worker died with a claim on a cancelled job: nobody else would end it.
            return self._ledger.progress(self.id)
        return progress

    def wait(
        self,
        timeout: float | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Progress:
        """Wait for the job's end.

        Parameters
        ----------
        timeout
            Seconds; left out, as long as it takes.
        on_progress
            Is given each look at the job.

        Raises
        ------
        JobNotReadyError
            If it has not finished in time, or nothing happens since no worker serves this Redis. The job stays, and
            can be waited for again.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        clock, begun = threading.Event(), time.monotonic()
        before, changed = None, begun
        while True:
            progress = self.progress()
            if progress != before:
                before, changed = progress, time.monotonic()
            elif time.monotonic() - changed > _STANDSTILL:
                self._check_worker()
                changed = time.monotonic()
            if on_progress is not None:
                on_progress(progress)
            if progress.state.finished:
                return progress
            if deadline is not None and time.monotonic() >= deadline:
                raise JobNotReadyError(
                    f"job {self.id} has not finished within {timeout:g} s (it is {progress.state}); "
                    f"it goes on: `pacs-tasks wait {self.id}` waits again"
                )
            now = time.monotonic()
            pause = min(max(_SHARE * (now - begun), _FIRST_LOOK), _LAST_LOOK)
            clock.wait(pause if deadline is None else max(0.0, min(pause, deadline - now)))

    def _check_worker(self) -> None:
        """Raise :class:`JobNotReadyError` if no worker is at this job and none answers."""
        if self._ledger.claims.count(self.id) or self._broker.has_worker(_LISTEN):
            return
        raise JobNotReadyError(
            f"job {self.id} stands still: no worker serves this Redis; start one with `pacs-tasks worker`, "
            f"then `pacs-tasks wait {self.id}` waits again"
        )

    def outcome(self) -> Outcome:
        """What the peer answered.

        Raises
        ------
        JobNotReadyError
            If the job has not finished.
        PacsTasksError
            The error of a job that ended without an answer, in the class that was raised on the worker.
        """
        return self._ledger.outcome(self.id)

    def instances(self) -> Iterator[InstanceOutcome]:
        """The outcome of each file or instance that has one, in the order of the manifest."""
        for line in Instances(self._ledger, self.id).in_order():
            if line.outcome is not None:
                yield line.outcome

    def receipts(self) -> Iterator[Receipt]:
        """A receipt for each file or instance, in the order of the manifest, those without an outcome included.

        Raises
        ------
        InvalidRequestError
            If the job is none that sends or retrieves instance by instance.
        """
        return receipts_of(self._ledger, self.id)

    def matches(self) -> Iterator[RowAnswer]:
        """What each row of a query of many has found, in the order of the request, those not yet asked included.

        Raises
        ------
        InvalidRequestError
            If the job asks no rows.
        """
        return rows_of(self._ledger, self.id)

    def cancel(self) -> Progress:
        """Ask the job to end. What was sent stays sent; it is cancelled once no worker is at it any more."""
        self._ledger.cancel(self.id)
        return self._ledger.progress(self.id)

    def retry(self) -> Self:
        """Go on with what failed, is missing or was never begun, and with nothing else.

        Raises
        ------
        InvalidRequestError
            If the job is still running, or nothing in it failed.
        """
        self._ledger.reopen(self.id)
        return self._publish_again()

    def resume(self) -> Self:
        """Go on with what has no outcome, and leave what failed alone.

        It may be asked of a running job as well, if it stands still: what a worker is at is not done twice. A job that
        waits for a peer has that peer asked at once.

        Raises
        ------
        InvalidRequestError
            If everything has an outcome.
        """
        progress = self._ledger.progress(self.id)
        if progress.waiting_for:
            Outages(self._ledger.client).probe_now(progress.waiting_for)
            return self
        if progress.state.finished:
            self._ledger.reopen(self.id, failed_too=False)
        return self._publish_again()

    def _publish_again(self) -> Self:
        self._broker.forget(self.id)
        self._broker.publish(self._ledger.progress(self.id).task, self.id)
        return self

    def associations(self) -> Associations | None:
        """How many associations with the job's peer are in use now, by whatever job; nothing where none is."""
        name = name_of(self._ledger.request(self.id).remote)
        return next((each for each in AssociationLeases(self._ledger.client).in_use() if each.remote == name), None)

    @property
    def state(self) -> JobState:
        return self.progress().state
