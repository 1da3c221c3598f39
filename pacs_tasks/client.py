"""The Python client: it enqueues requests and follows their jobs::

from pacs_tasks import PacsClient, RemoteAE, StoreDirectoryRequest

with PacsClient() as client:
job = client.enqueue(StoreDirectoryRequest(remote=RemoteAE(host="192.168.1.100"), directory="/data/study"))
job.wait()
print(job.outcome().category)
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Generic, Self, cast, overload

from typing_extensions import TypeVar

from pacs_tasks import embedded
from pacs_tasks.errors import BrokerUnavailableError, InvalidRequestError, JobNotReadyError
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.ledger.outcomes import Instances, RowAnswer, rows_of, whole_outcome
from pacs_tasks.operations import HIDDEN, OPERATIONS, message_priority, queue_key
from pacs_tasks.outcome import (
    CommitOutcome,
    EchoOutcome,
    FindOutcome,
    GetOutcome,
    InstanceOutcome,
    JobState,
    MoveOutcome,
    Outcome,
    PreflightOutcome,
    Progress,
    TransferOutcome,
    VerifyOutcome,
)
from pacs_tasks.request import (
    AnyRequest,
    CommitRequest,
    EchoRequest,
    FindBatchRequest,
    FindRequest,
    GetRequest,
    MoveRequest,
    PreflightRequest,
    RetrieveRequest,
    StoreDirectoryRequest,
    StorePathsRequest,
    StoreRequest,
    VerifyRequest,
)
from pacs_tasks.sealing import sealing_by
from pacs_tasks.settings import Settings, settings

if TYPE_CHECKING:
    import redis

    from pacs_tasks.fleet.leases import Associations
    from pacs_tasks.ledger.receipts import Receipt

#: Neither positional nor named arguments, and nothing that follows the task.
_BODY = [[], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]


class Broker:
    """The queues in the Redis of a fleet, filled as Celery does. Loading Celery would double a short command's time.

    A message has version 2 of Celery's task protocol in kombu's envelope for Redis. A test compares each field with
    what the pinned version of Celery sends. Other services send theirs with Celery itself.

    Parameters
    ----------
    client
        The connection to it.
    url
        Its address.
    settings
        Its time limits.
    private
        Whether it is the private server, whose supervisor starts the worker and starts it again.
    """

    def __init__(self, client: redis.Redis, url: str, settings: Settings, *, private: bool = False) -> None:
        self._redis = client
        self._url = url
        self._settings = settings
        self._private = private

    def publish(self, task: str, job_id: str, priority: int = 0) -> None:
        """Put the task of a job that the ledger knows on its queue; ``priority`` is that of the message.

        Raises
        ------
        BrokerUnavailableError
            If the Redis does not accept it.
        """
        queue = OPERATIONS[task].queue
        self._redis.lpush(queue_key(queue, priority), _message(task, job_id, queue, priority, self._settings))
        # Flower shows a task from this event on. The job does not depend on it.
        with contextlib.suppress(BrokerUnavailableError):
            database = self._redis.connection_pool.connection_kwargs.get("db") or 0
            self._redis.publish(f"/{database}.celeryev/task.sent", _sent_event(task, job_id, queue))

    def forget(self, job_id: str) -> None:
        """Delete Celery's result of a job: the first success of an id would stay for good."""
        self._redis.delete(f"celery-task-meta-{job_id}")

    def has_worker(self, seconds: float) -> bool:
        """Report whether a worker answers within so many seconds. A private worker may still be starting."""
        if self._private:
            return not embedded.failure(self._settings)
        from pacs_tasks.app import create

        with create(self._url, self._settings) as app, app.connection_for_write() as connection:
            return bool(app.control.ping(timeout=seconds, connection=connection, limit=1))


def _message(task: str, job_id: str, queue: str, priority: int, config: Settings) -> str:
    headers: dict[str, Any] = {
        "lang": "py",
        "task": task,
        "id": job_id,
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": job_id,
        "parent_id": None,
        "argsrepr": HIDDEN,
        "kwargsrepr": HIDDEN,
        "origin": _sender(),
        "ignore_result": None,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
    }
    if config.signing_key:
        # Loads Celery.
        from pacs_tasks.messages.signature import HEADER, Signed, own_signature

        headers[HEADER] = own_signature(config, Signed(task, job_id, _BODY))
    shown = {"argsrepr": HIDDEN, "kwargsrepr": HIDDEN}
    return _envelope(_BODY, headers, "", queue, priority, delivery_mode=2, correlation_id=job_id, reply_to="", **shown)


def _sent_event(task: str, job_id: str, queue: str) -> str:
    event = {
        "type": "task-sent",
        "timestamp": time.time(),
        "hostname": _sender(),
        "utcoffset": (time.altzone if time.localtime().tm_isdst else time.timezone) / 3600,
        "pid": os.getpid(),
        "clock": 1,
        "uuid": job_id,
        "root_id": job_id,
        "parent_id": None,
        "name": task,
        "args": HIDDEN,
        "kwargs": HIDDEN,
        "retries": 0,
        "eta": None,
        "expires": None,
        "queue": queue,
        "exchange": "",
        "routing_key": queue,
    }
    return _envelope(event, {"hostname": _sender()}, "celeryev", "task.sent", 0, delivery_mode=1)


def _envelope(
    body: Any, headers: dict[str, Any], exchange: str, routing_key: str, priority: int, **properties: Any
) -> str:
    return json.dumps(
        {
            "body": base64.b64encode(json.dumps(body).encode()).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": headers,
            "properties": {
                **properties,
                "delivery_info": {"exchange": exchange, "routing_key": routing_key},
                "priority": priority,
                "body_encoding": "base64",
                "delivery_tag": str(uuid.uuid4()),
            },
        }
    )


def _sender() -> str:
    return f"gen{os.getpid()}@{socket.gethostname()}"


#: Waiting is polling with one HMGET. The pause is this share of the time since the wait began, so that the end of a job
#: is noticed soon however long it takes, within these bounds in seconds.
_SHARE = 0.05
_SHORTEST_PAUSE = 0.005
_LONGEST_PAUSE = 0.25
#: Seconds without a change after which to check for a worker, and how long a worker may take to answer.
_STANDSTILL = 30.0
_PING_TIMEOUT = 3.0


#: The outcome of a job, by the request that was enqueued; of a job that was found by its id, any outcome.
O_co = TypeVar("O_co", default=Outcome, covariant=True)


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
        deadline = None if timeout is None else time.monotonic() + timeout
        clock, begun = threading.Event(), time.monotonic()
        before, changed = None, begun
        standstill = _STANDSTILL if check_after is None else check_after
        while True:
            progress = self.progress()
            if progress != before:
                before, changed = progress, time.monotonic()
            elif time.monotonic() - changed > standstill:
                self._check_worker()
                changed, standstill = time.monotonic(), _STANDSTILL
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
        if progress.waiting_until is not None:
            from pacs_tasks.fleet.pace import HoursWaits

            return self._publish_again() if HoursWaits(self._ledger.client).end(self.id) else self
        if progress.waiting_for:
            from pacs_tasks.fleet.outages import Outages

            Outages(self._ledger.client).probe_now(progress.waiting_for)
            return self
        if progress.state.finished:
            self._ledger.reopen(self.id, failed_too=False)
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


__all__ = ["Job", "PacsClient"]


class PacsClient:
    """A client of one Redis. It is a context manager and may be used from several threads.

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
            self.redis_url = url
            redis = connect(url, self._settings.redis_timeout, sealing=sealing_by(self._settings))
            stack.callback(redis.close)
            self.ledger = Ledger(redis, self._settings.keep_jobs)
            self._broker = Broker(redis, url, self._settings, private=private)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and detach from the private server, which ends when nothing uses it."""
        self._stack.close()

    @overload
    def enqueue(self, request: EchoRequest, idempotency_key: str | None = None) -> Job[EchoOutcome]: ...
    @overload
    def enqueue(
        self,
        request: StoreRequest | StoreDirectoryRequest | StorePathsRequest | FindBatchRequest | RetrieveRequest,
        idempotency_key: str | None = None,
    ) -> Job[TransferOutcome]: ...
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
        job: Job = Job(_job_id(idempotency_key), self.ledger, self._broker)
        if not self.ledger.open(job.id, request.task, request, requester=requester or _user()):
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
        return Job(self.ledger.find(text, tasks), self.ledger, self._broker)

    def associations(self) -> list[Associations]:
        """Return every remote with which the fleet has associations open or waits for one."""
        from pacs_tasks.fleet.leases import AssociationLeases

        return AssociationLeases(self.ledger.client).in_use()

    def jobs(self, limit: int = 50) -> list[Progress]:
        """Return the newest jobs, at most ``limit``, newest first."""
        return self.ledger.jobs(limit)


def _user() -> str:
    """Name the user of this process and the machine, as the system has them."""
    known = (os.environ.get(name) for name in ("LOGNAME", "USER", "USERNAME"))
    return f"{next(filter(None, known), '') or _account()}@{socket.gethostname()}"


def _account() -> str:
    """Name the account of a process that has no environment of a login, such as a service's."""
    if sys.platform != "win32":
        import pwd

        with contextlib.suppress(KeyError):
            return pwd.getpwuid(os.getuid()).pw_name
    return "unknown"


def _job_id(idempotency_key: str | None) -> str:
    """Return a new id, or one that a key determines without revealing it."""
    if idempotency_key is None:
        return uuid.uuid4().hex
    return hashlib.sha256(idempotency_key.encode("utf-8", "surrogatepass")).hexdigest()[:32]
