"""The client that enqueues requests and finds their jobs."""

from __future__ import annotations

import hashlib
import os
import threading
import uuid
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self, overload

from pacs_tasks import embedded
from pacs_tasks.client.broker import Broker
from pacs_tasks.client.job import Job, O_co, Watch, current_user, some_not_in_time
from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.ledger.finding import find
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.operations import message_priority
from pacs_tasks.outcome import (
    CommitOutcome,
    EchoOutcome,
    FindOutcome,
    GetOutcome,
    MoveOutcome,
    PreflightOutcome,
    Progress,
    TransferOutcome,
    VerifyOutcome,
)
from pacs_tasks.request import (
    AnyRequest,
    AnyTransfer,
    CommitRequest,
    EchoRequest,
    FindRequest,
    GetRequest,
    MoveRequest,
    PreflightRequest,
    VerifyRequest,
)
from pacs_tasks.sealing import sealing_by
from pacs_tasks.settings import Settings, settings

if TYPE_CHECKING:
    from pacs_tasks.fleet.leases import Associations


class PacsClient:
    """A client of one Redis. It is a context manager. Several threads may use it, and so may a child of ``os.fork``.

    Parameters
    ----------
    redis_url
        The Redis of the fleet. None: that of ``PACS_TASKS_REDIS_URL`` or, if that is not set, a private server and
        worker on this machine for as long as they are needed.
    config
        Settings instead of those of the environment.

    Raises
    ------
    BrokerUnavailableError
        If the Redis does not answer within ``redis_timeout`` seconds.
    ConfigurationError
        If a setting is wrong, or there is no private server for this platform.
    """

    def __init__(self, redis_url: str | None = None, config: Settings | None = None) -> None:
        from pacs_tasks.connection import connect

        self._settings = config or settings()
        url = redis_url or self._settings.redis_url
        if redis_url and redis_url.startswith("rediss://"):
            url = self._settings.with_tls(redis_url)
        with ExitStack() as stack:
            private = url is None
            if url is None:
                url = stack.enter_context(embedded.attach(self._settings))
            self.redis_url, self.redis_timeout = url, self._settings.redis_timeout
            redis = connect(url, self.redis_timeout, sealing=sealing_by(self._settings))
            stack.callback(redis.close)
            self.ledger = Ledger(redis, self._settings.keep_jobs)
            self._broker = Broker(redis, self._settings, private=private)
            self._stack, self._process = stack.pop_all(), os.getpid()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and detach from the private server, which ends when nothing uses it.

        In a child of ``os.fork``, only its own connections are closed.
        """
        if self._process == os.getpid():
            self._stack.close()
        else:
            self.ledger.client.close()

    @overload
    def enqueue(self, request: EchoRequest, idempotency_key: str | None = None) -> Job[EchoOutcome]: ...
    @overload
    def enqueue(self, request: AnyTransfer, idempotency_key: str | None = None) -> Job[TransferOutcome]: ...
    @overload
    def enqueue(self, request: PreflightRequest, idempotency_key: str | None = None) -> Job[PreflightOutcome]: ...
    @overload
    def enqueue(self, request: FindRequest, idempotency_key: str | None = None) -> Job[FindOutcome]: ...
    @overload
    def enqueue(self, request: MoveRequest, idempotency_key: str | None = None) -> Job[MoveOutcome]: ...
    @overload
    def enqueue(self, request: GetRequest, idempotency_key: str | None = None) -> Job[GetOutcome]: ...
    @overload
    def enqueue(self, request: VerifyRequest, idempotency_key: str | None = None) -> Job[VerifyOutcome]: ...
    @overload
    def enqueue(self, request: CommitRequest, idempotency_key: str | None = None) -> Job[CommitOutcome]: ...
    @overload
    def enqueue(self, request: AnyRequest, idempotency_key: str | None = None, requester: str = "") -> Job: ...
    def enqueue(self, request: AnyRequest, idempotency_key: str | None = None, requester: str = "") -> Job:
        """Enqueue a request.

        The request goes to the ledger and only the id of the job to the queue, so that neither the queue nor Flower
        shows a path or a patient's name.

        Parameters
        ----------
        idempotency_key
            Any text. The same key gives the same job again for as long as that job is kept.
        requester
            On whose behalf, for the audit trail. Empty: the user of this process.

        Raises
        ------
        BrokerUnavailableError
            If the Redis does not answer. Nothing was enqueued then.
        InvalidRequestError
            If the key belongs to a job with another request.
        JobNotFoundError
            If the request is about another job and no job has its id.
        """
        request = self.ledger.complete(request)
        job: Job = Job(job_id_of(idempotency_key), self.ledger, self._broker)
        if not self.ledger.open(job.id, request.task, request, requester=requester or current_user()):
            if job.request() != request:
                raise InvalidRequestError("This key belongs to a job with another request. Use another key.", job.id)
            return job
        try:
            if self._settings.signing_key:
                from pacs_tasks.messages.signature import sign_record

                sign_record(self.ledger, job.id, request, self._settings)
            self._broker.publish(request.task, job.id, message_priority(request))
        except BaseException:
            self.ledger.discard(job.id)
            raise
        return job

    def job(self, job_id: str) -> Job:
        """Return the job with this id.

        Raises
        ------
        JobNotFoundError
            If there is none, or its record has expired.
        """
        self.ledger.progress(job_id)
        return Job(job_id, self.ledger, self._broker)

    def find(self, text: str, tasks: Collection[str] = ()) -> Job:
        """Return the job whose id is ``text`` or is the only one that begins so, or the newest job for ``last``.

        ``tasks`` are the public tasks that ``last`` may have; empty for any.

        Raises
        ------
        JobNotFoundError
            If there is none.
        InvalidRequestError
            If several ids begin so.
        """
        return Job(find(self.ledger.client, text, tasks), self.ledger, self._broker)

    def as_completed(
        self, jobs: Iterable[Job[O_co]], timeout: float | None = None, check_after: float | None = None
    ) -> Iterator[Job[O_co]]:
        """Yield each job when it has ended, however it ended, in the order of their ends.

        Parameters
        ----------
        timeout
            Seconds for all of them. None: as long as it takes.
        check_after
            As for :meth:`Job.wait`.

        Raises
        ------
        JobNotReadyError
            If some have not finished in time, or no worker serves this Redis. They continue and can be waited for
            again.
        JobNotFoundError
            If the record of one has expired.
        """
        waiting = {job.id: job for job in jobs}
        watch, clock = Watch(timeout, check_after), threading.Event()
        while waiting:
            watch.begin()
            seen = self.ledger.states(waiting)
            for job_id in [each for each, view in seen.items() if view.finished]:
                yield waiting.pop(job_id)
            for job_id, view in seen.items():
                if view.cancelling:
                    waiting[job_id].progress()
            if not waiting:
                return
            if watch.stands_still(seen):
                next(iter(waiting.values())).check_worker()
            if watch.overdue:
                raise some_not_in_time(timeout, waiting)
            clock.wait(watch.pause())

    def wait_all(
        self, jobs: Iterable[Job[O_co]], timeout: float | None = None, check_after: float | None = None
    ) -> list[Progress]:
        """Wait for the end of all jobs and return their progress in the same order; as :meth:`as_completed`."""
        chosen = list(jobs)
        for _ in self.as_completed(chosen, timeout, check_after):
            pass
        return [job.progress() for job in chosen]

    def associations(self) -> list[Associations]:
        """Return every remote with which the fleet has associations open or waits for one."""
        from pacs_tasks.fleet.leases import AssociationLeases

        return AssociationLeases(self.ledger.client).in_use()

    def jobs(self, limit: int = 50) -> list[Progress]:
        """Return the newest jobs, at most ``limit``, newest first."""
        return self.ledger.jobs(limit)


def job_id_of(idempotency_key: str | None) -> str:
    """Return the id of the job of a key, which does not reveal the key, or a new one."""
    if idempotency_key is None:
        return uuid.uuid4().hex
    return hashlib.sha256(idempotency_key.encode("utf-8", "surrogatepass")).hexdigest()[:32]
