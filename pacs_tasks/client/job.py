"""One job: its progress, its outcome, and how to wait for it, cancel it and continue it."""

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

#: Waiting is polling with one HMGET. The pause is this share of the time since the wait began, so that the end of a job
#: is noticed soon however long it takes, within these bounds in seconds.
_SHARE = 0.05
_SHORTEST_PAUSE = 0.005
_LONGEST_PAUSE = 0.25
#: Seconds without a change after which to check for a worker, and how long a worker may take to answer.
_STANDSTILL = 30.0
_PING_TIMEOUT = 2.0


class Job:
    """One job, from :class:`~pacs_tasks.client.PacsClient`. ``id`` is also the id of its Celery task."""

    def __init__(self, job_id: str, ledger: Ledger, broker: Broker) -> None:
        self.id = job_id
        self._ledger = ledger
        self._broker = broker

    def __repr__(self) -> str:
        return f"<Job {self.id}>"

    def request(self) -> AnyRequest:
        """Return the request of the job."""
        return self._ledger.request(self.id, bulk=True)

    def progress(self) -> Progress:
        """Return the state and the counters of the job."""
        progress = self._ledger.progress(self.id)
        if progress.cancel_requested and not progress.state.finished and self._ledger.settle(self.id):
            # A worker died with a claim on a cancelled job. Nothing else would end it.
            return self._ledger.progress(self.id)
        return progress

    def wait(
        self,
        timeout: float | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Progress:
        """Wait for the end of the job.

        Parameters
        ----------
        timeout
            Seconds. None: as long as it takes.
        on_progress
            Receives each progress.

        Raises
        ------
        JobNotReadyError
            If the job has not finished in time, or no worker serves this Redis. The job continues and can be waited
            for again.
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
                    f"Job {self.id} has not finished within {timeout:g} s (it is {progress.state}) and continues. "
                    f"Run `pacs-tasks wait {self.id}` to wait again."
                )
            now = time.monotonic()
            pause = min(max(_SHARE * (now - begun), _SHORTEST_PAUSE), _LONGEST_PAUSE)
            clock.wait(pause if deadline is None else max(0.0, min(pause, deadline - now)))

    def _check_worker(self) -> None:
        """Raise :class:`JobNotReadyError` if no worker has a claim on this job and none answers."""
        if self._ledger.claims.count(self.id) or self._broker.has_worker(_PING_TIMEOUT):
            return
        raise JobNotReadyError(
            f"Job {self.id} makes no progress: no worker serves this Redis. Start one with `pacs-tasks worker`, then "
            f"run `pacs-tasks wait {self.id}`."
        )

    def outcome(self) -> Outcome:
        """Return the outcome of the job.

        Raises
        ------
        JobNotReadyError
            If the job has not finished.
        PacsTasksError
            The error of a job without an outcome, in the class that the worker raised.
        """
        return self._ledger.outcome(self.id)

    def instances(self) -> Iterator[InstanceOutcome]:
        """Yield the outcome of each file or instance that has one, in the order of the manifest."""
        for line in Instances(self._ledger, self.id).in_order():
            if line.outcome is not None:
                yield line.outcome

    def receipts(self) -> Iterator[Receipt]:
        """Yield a receipt for each file or instance, with or without an outcome, in the order of the manifest.

        Raises
        ------
        InvalidRequestError
            If the job does not send or retrieve.
        """
        return receipts_of(self._ledger, self.id)

    def matches(self) -> Iterator[RowAnswer]:
        """Yield the matches of each row of a batch of queries, done or not, in the order of the request.

        Raises
        ------
        InvalidRequestError
            If the job is not a batch of queries.
        """
        return rows_of(self._ledger, self.id)

    def cancel(self) -> Progress:
        """Cancel the job. What was sent stays sent. It ends when no worker has a claim on it any more."""
        self._ledger.cancel(self.id)
        return self._ledger.progress(self.id)

    def retry(self) -> Self:
        """Continue with the files or instances that failed, are missing or were not begun, and with no others.

        Raises
        ------
        InvalidRequestError
            If the job is still running or has nothing to retry.
        """
        self._ledger.reopen(self.id)
        return self._publish_again()

    def resume(self) -> Self:
        """Continue with the files or instances that have no outcome, and not with those that failed.

        A running job may be resumed too if it makes no progress: nothing is done twice. If the job waits for a remote,
        that remote is tried at once.

        Raises
        ------
        InvalidRequestError
            If every file or instance has an outcome.
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
        """Return the associations of all jobs with the remote of this job, or None if there are none."""
        name = name_of(self._ledger.request(self.id).remote)
        return next((each for each in AssociationLeases(self._ledger.client).in_use() if each.remote == name), None)

    @property
    def state(self) -> JobState:
        return self.progress().state
