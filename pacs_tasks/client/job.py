"""One job of a client: what it does, what came of it, how to wait for it, and what may be done about it."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Generic, Self, cast

from typing_extensions import TypeVar

from pacs_tasks.errors import JobNotReadyError
from pacs_tasks.ledger.outcomes import Instances, RowAnswer, rows_of, whole_outcome
from pacs_tasks.operations import message_priority
from pacs_tasks.outcome import InstanceOutcome, JobState, Outcome, Progress

if TYPE_CHECKING:
    from pacs_tasks.client.broker import Broker
    from pacs_tasks.fleet.leases import Associations
    from pacs_tasks.ledger.jobs import Ledger
    from pacs_tasks.ledger.receipts import Receipt
    from pacs_tasks.request import AnyRequest

#: The outcome of a job, by the request that was enqueued; of a job that was found by its id, any outcome.
O_co = TypeVar("O_co", default=Outcome, covariant=True)

#: Waiting is polling with one command. The pause is this share of the time since the wait began, so that the end of a
#: job is noticed soon however long it takes, within these bounds in seconds.
_SHARE = 0.05
_SHORTEST_PAUSE = 0.005
_LONGEST_PAUSE = 0.25
#: A pause is so many times as long as the read before it: thousands of jobs take long to read.
_READS = 4
#: Seconds without a change after which to check for a worker.
_STANDSTILL = 30.0


class Job(Generic[O_co]):
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
        check_after: float | None = None,
    ) -> Progress:
        """Wait for the end of the job.

        Parameters
        ----------
        timeout
            Seconds. None: as long as it takes.
        on_progress
            Receives each progress.
        check_after
            Seconds without a change after which to check that a worker serves this Redis. None: 30, in which a worker
            may be replaced.

        Raises
        ------
        JobNotReadyError
            If the job has not finished in time, or no worker serves this Redis. The job continues and can be waited
            for again.
        """
        watch, clock = Watch(timeout, check_after), threading.Event()
        while True:
            watch.begin()
            progress = self.progress()
            if watch.stands_still(progress):
                self.check_worker()
            if on_progress is not None:
                on_progress(progress)
            if progress.state.finished:
                return progress
            if watch.overdue:
                raise one_not_in_time(self.id, timeout, progress.state)
            clock.wait(watch.pause())

    def check_worker(self) -> None:
        """Raise :class:`JobNotReadyError` if no worker has a claim on this job and none runs."""
        if not (self._ledger.claims.count(self.id) or self._broker.has_worker()):
            raise no_worker(self.id)

    def outcome(self) -> O_co:
        """Return the outcome of the job.

        Raises
        ------
        JobNotReadyError
            If the job has not finished.
        PacsTasksError
            The error of a job without an outcome, in the class that the worker raised.
        """
        return cast(O_co, whole_outcome(self._ledger, self.id))

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
        from pacs_tasks.ledger.receipts import receipts_of

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

    def retry(self, requester: str = "") -> Self:
        """Continue with the files or instances that failed, are missing or were not begun, and with no others.

        Parameters
        ----------
        requester
            As for :meth:`.PacsClient.enqueue`.

        Raises
        ------
        InvalidRequestError
            If the job is still running or has nothing to retry.
        """
        self._ledger.reopen(self.id, requester or current_user())
        return self._publish_again()

    def resume(self, requester: str = "") -> Self:
        """Continue with the files or instances that have no outcome, and not with those that failed.

        A running job may be resumed too if it makes no progress: nothing is done twice. If the job waits for a remote,
        that remote is tried at once.

        Parameters
        ----------
        requester
            As for :meth:`.PacsClient.enqueue`.

        Raises
        ------
        InvalidRequestError
            If every file or instance has an outcome.
        """
        progress = self._ledger.progress(self.id)
        if progress.waiting_until is not None:
            from pacs_tasks.fleet.pace import HoursWaits

            return self._publish_again() if HoursWaits(self._ledger.client).end(self.id) else self
        if progress.waiting_for:
            from pacs_tasks.fleet.outages import Outages

            Outages(self._ledger.client).probe_now(progress.waiting_for)
            return self
        if progress.state.finished:
            self._ledger.reopen(self.id, requester or current_user(), failed_too=False)
        return self._publish_again()

    def _publish_again(self) -> Self:
        self._broker.forget(self.id)
        request = self._ledger.request(self.id)
        self._broker.publish(request.task, self.id, message_priority(request))
        return self

    def associations(self) -> Associations | None:
        """Return the associations of all jobs with the remote of this job, or None if there are none."""
        from pacs_tasks.fleet.leases import AssociationLeases, name_of

        name = name_of(self._ledger.request(self.id).remote)
        return next((each for each in AssociationLeases(self._ledger.client).in_use() if each.remote == name), None)

    @property
    def state(self) -> JobState:
        return self.progress().state


class Watch:
    """One wait: what was seen last, and since when. It leaves the pause itself to the client.

    Parameters
    ----------
    timeout
        Seconds until it is overdue. None: never.
    check_after
        Seconds without a change after which it stands still. None: 30.
    """

    def __init__(self, timeout: float | None, check_after: float | None) -> None:
        self._begun = self._changed = self._read = time.monotonic()
        self._deadline = None if timeout is None else self._begun + timeout
        self._standstill = _STANDSTILL if check_after is None else check_after
        self._before: object = None

    def begin(self) -> None:
        """Note that reading begins."""
        self._read = time.monotonic()

    def stands_still(self, seen: object) -> bool:
        """Note what was read; return whether it is time to check that a worker serves this Redis."""
        now = time.monotonic()
        if seen != self._before:
            self._before, self._changed = seen, now
        elif now - self._changed > self._standstill:
            self._changed, self._standstill = now, _STANDSTILL
            return True
        return False

    @property
    def overdue(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def pause(self) -> float:
        """Give the seconds until the next read."""
        now = time.monotonic()
        pause = min(max(_SHARE * (now - self._begun), _SHORTEST_PAUSE), _LONGEST_PAUSE)
        pause = max(pause, _READS * (now - self._read))
        return pause if self._deadline is None else max(0.0, min(pause, self._deadline - now))


def no_worker(job_id: str) -> JobNotReadyError:
    """Make the error for a job that nobody works on."""
    return JobNotReadyError(
        f"Job {job_id} makes no progress: no worker serves this Redis. Start one with `pacs-tasks worker`, then "
        f"run `pacs-tasks wait {job_id}`."
    )


def one_not_in_time(job_id: str, timeout: float | None, state: JobState) -> JobNotReadyError:
    """Make the error for a job that was waited for in vain."""
    return JobNotReadyError(
        f"Job {job_id} has not finished within {timeout:g} s (it is {state}) and continues. "
        f"Run `pacs-tasks wait {job_id}` to wait again."
    )


def some_not_in_time(timeout: float | None, waiting: Collection[str]) -> JobNotReadyError:
    """Make the error for several jobs that were waited for in vain."""
    return JobNotReadyError(
        f"{len(waiting)} jobs have not finished within {timeout:g} s and continue, such as {next(iter(waiting))}. "
        "Wait for them again."
    )


def current_user() -> str:
    """Name the user of this process and the machine, as the system has them, for the audit trail."""
    known = (os.environ.get(name) for name in ("LOGNAME", "USER", "USERNAME"))
    return f"{next(filter(None, known), '') or _account()}@{socket.gethostname()}"


def _account() -> str:
    """Name the account of a process that has no environment of a login, such as a service's."""
    if sys.platform != "win32":
        import pwd

        with contextlib.suppress(KeyError):
            return pwd.getpwuid(os.getuid()).pw_name
    return "unknown"
