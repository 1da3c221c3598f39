"""The client. It enqueues a request and finds its job::

    from pacs_tasks import PacsClient, RemoteAE, StoreDirectoryRequest

    with PacsClient() as client:
        job = client.enqueue(StoreDirectoryRequest(remote=RemoteAE(host="192.168.1.100"), directory="/data/study"))
        job.wait()
        print(job.outcome().category)

See :class:`~pacs_tasks.client.job.Job` for the methods of a job.
"""

from __future__ import annotations

import hashlib
import uuid
from contextlib import ExitStack
from typing import Self

from pacs_tasks import embedded
from pacs_tasks.client.broker import Broker
from pacs_tasks.client.job import Job
from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.fleet.associations import AssociationLeases, Associations
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.outcome.progress import Progress
from pacs_tasks.request import AnyRequest
from pacs_tasks.settings import Settings, settings

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
        with ExitStack() as stack:
            if url is None:
                url = stack.enter_context(embedded.attach(self._settings))
            self.redis_url = url
            redis = connect(url, self._settings.redis_timeout)
            stack.callback(redis.close)
            self.ledger = Ledger(redis, self._settings.keep_jobs)
            self._broker = Broker(redis, url, self._settings)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and detach from the private server, which ends when nothing uses it."""
        self._stack.close()

    def enqueue(self, request: AnyRequest, idempotency_key: str | None = None) -> Job:
        """Enqueue a request.

        The request goes to the ledger and only the id of the job to the queue, so that neither the queue nor Flower
        shows a path or a patient's name.

        Parameters
        ----------
        idempotency_key
            Any text. The same key gives the same job again for as long as that job is kept.

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
        job = Job(_job_id(idempotency_key), self.ledger, self._broker)
        if not self.ledger.open(job.id, request.task, request):
            if job.request() != request:
                raise InvalidRequestError("This key belongs to a job with another request. Use another key.", job.id)
            return job
        try:
            self._broker.publish(request.task, job.id)
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

    def associations(self) -> list[Associations]:
        """Return every remote with which the fleet has associations open or waits for one."""
        return AssociationLeases(self.ledger.client).in_use()

    def jobs(self, limit: int = 50) -> list[Progress]:
        """Return the newest jobs, at most ``limit``, newest first."""
        return self.ledger.jobs(limit)


def _job_id(idempotency_key: str | None) -> str:
    """Return a new id, or one that a key determines without revealing it."""
    if idempotency_key is None:
        return uuid.uuid4().hex
    return hashlib.sha256(idempotency_key.encode("utf-8", "surrogatepass")).hexdigest()[:32]
