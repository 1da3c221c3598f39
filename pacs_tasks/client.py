"""Enqueue a request, and look at the job that it became::

    from pacs_tasks import PacsClient, RemoteAE, StoreDirectoryRequest

    with PacsClient() as client:
        job = client.enqueue(StoreDirectoryRequest(remote=RemoteAE(host="192.168.1.100"), directory="/data/study"))
        job.wait()
        print(job.outcome().category)

Waiting is polling: one HMGET a look.
"""

from __future__ import annotations

import hashlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Self

from celery import Celery
from kombu.exceptions import OperationalError
from redis import OutOfMemoryError

from pacs_tasks import embedded
from pacs_tasks.answers import Outcome
from pacs_tasks.app import HIDDEN, create
from pacs_tasks.broker import connect, full
from pacs_tasks.budget import Associations, Budget, name_of
from pacs_tasks.errors import BrokerUnavailableError, InvalidRequestError, JobNotReadyError
from pacs_tasks.instances import Instances
from pacs_tasks.ledger import Ledger
from pacs_tasks.outages import Outages
from pacs_tasks.outcome import InstanceOutcome
from pacs_tasks.progress import JobState, Progress
from pacs_tasks.report import Receipt, receipts_of
from pacs_tasks.request import AnyRequest
from pacs_tasks.rows import RowAnswer, rows_of
from pacs_tasks.settings import Settings, settings

#: Seconds between two looks at a job: a twentieth of the time that it has taken, so that its end is noticed soon after
#: it however long it takes; within these bounds.
_FIRST_LOOK = 0.02
_LAST_LOOK = 0.25
_SHARE = 0.05
#: Seconds without any change after which we ask whether a worker is there at all, and for how long we listen.
_STANDSTILL = 30.0
_LISTEN = 2.0


class PacsClient:
    """Enqueues requests and finds jobs; usable from several threads; a context manager.

    Parameters
    ----------
    redis_url
        The Redis of the fleet; left out, that of ``PACS_TASKS_REDIS_URL``; where that is not set either, a private
        server and a worker on this machine serve for as long as they are needed.
    config
        Other settings than those of the environment.

    Raises
    ------
    BrokerUnavailableError
        If the Redis does not answer within ``redis_timeout`` seconds.
    ConfigurationError
        If a setting is wrong, or no private server exists for this machine.
    """

    def __init__(self, redis_url: str | None = None, config: Settings | None = None) -> None:
        self._settings = config or settings()
        url = redis_url or self._settings.redis_url
        with ExitStack() as stack:
            if url is None:
                url = stack.enter_context(embedded.attach(self._settings))
            self.redis_url = url
            redis = connect(url, self._settings.redis_timeout)
            stack.callback(redis.close)
            self.ledger = Ledger(redis, self._settings.keep_jobs)
            self._app = create(url, self._settings)
            stack.callback(self._app.close)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections (and of the private server, which ends when nothing needs it)."""
        self._stack.close()

    def enqueue(self, request: AnyRequest, idempotency_key: str | None = None) -> Job:
        """Put a request on the queue.

        The request itself goes to the ledger; the message holds the job's id alone, so that neither the queue nor
        Flower sees a path or a patient's name.

        Parameters
        ----------
        idempotency_key
            Any text: whoever enqueues again with the same one gets the same job, as long as its record is kept.

        Raises
        ------
        BrokerUnavailableError
            If the Redis does not answer; then nothing was enqueued.
        InvalidRequestError
            If the key belongs to a job that asks something else.
        JobNotFoundError
            If the request is about another job, and there is none of that id.
        """
        request = self.ledger.completed(request)
        job = Job(_job_id(idempotency_key), self.ledger, self._app)
        if not self.ledger.open(job.id, request.task, request):
            if job.request() != request:
                raise InvalidRequestError(
                    "this key belongs to a job that asks something else; take another key for another request", job.id
                )
            return job
        try:
            publish(self._app, request.task, job.id)
        except BaseException:
            self.ledger.discard(job.id)
            raise
        return job

    def job(self, job_id: str) -> Job:
        """The job with this id.

        Raises
        ------
        JobNotFoundError
            If there is none, or its record has expired.
        """
        self.ledger.progress(job_id)
        return Job(job_id, self.ledger, self._app)

    def associations(self) -> list[Associations]:
        """Every remote with which the fleet has associations open, or waits for one."""
        return Budget(self.ledger.client).in_use()

    def jobs(self, limit: int = 50) -> list[Progress]:
        """The newest jobs first, at most ``limit``."""
        return self.ledger.jobs(limit)


def _job_id(idempotency_key: str | None) -> str:
    """The key itself, which may be anything, stays with who gave it."""
    if idempotency_key is None:
        return uuid.uuid4().hex
    return hashlib.sha256(idempotency_key.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class Job:
    """One request on its way; :class:`PacsClient` makes these. ``id`` is also the id of its Celery task."""

    def __init__(self, job_id: str, ledger: Ledger, app: Celery) -> None:
        self.id = job_id
        self._ledger = ledger
        self._app = app

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
        if self._ledger.claims.live(self.id) or self._app.control.ping(timeout=_LISTEN):
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
            Outages(self._ledger.client).ask_soon(progress.waiting_for)
            return self
        if progress.state.finished:
            self._ledger.reopen(self.id, failed_too=False)
        return self._publish_again()

    def _publish_again(self) -> Self:
        # Celery keeps the first success of an id for good: forget it, so that the new one can be stored.
        self._app.backend.forget(self.id)
        publish(self._app, self._ledger.progress(self.id).task, self.id)
        return self

    def associations(self) -> Associations | None:
        """How many associations with the job's peer are in use now, by whatever job; nothing where none is."""
        name = name_of(self._ledger.request(self.id).remote)
        return next((each for each in Budget(self._ledger.client).in_use() if each.remote == name), None)

    @property
    def state(self) -> JobState:
        return self.progress().state


def publish(app: Celery, task: str, job_id: str) -> None:
    """Put the task of a job that the ledger knows on its queue.

    Raises
    ------
    BrokerUnavailableError
        If the broker does not take it.
    """
    try:
        app.send_task(task, task_id=job_id, argsrepr=HIDDEN, kwargsrepr=HIDDEN)
    except OutOfMemoryError:
        raise BrokerUnavailableError(full(app.connection().as_uri())) from None
    except OperationalError as error:
        raise BrokerUnavailableError(
            f"the broker does not take the job ({error}); check PACS_TASKS_REDIS_URL and that the server is running"
        ) from None
