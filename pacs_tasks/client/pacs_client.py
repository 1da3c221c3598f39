"""Enqueue a request, and find the job that it became::

    from pacs_tasks import PacsClient, RemoteAE, StoreDirectoryRequest

    with PacsClient() as client:
        job = client.enqueue(StoreDirectoryRequest(remote=RemoteAE(host="192.168.1.100"), directory="/data/study"))
        job.wait()
        print(job.outcome().category)

What can be asked of a job is in :mod:`pacs_tasks.client.job`.
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
        request = self.ledger.complete(request)
        job = Job(_job_id(idempotency_key), self.ledger, self._broker)
        if not self.ledger.open(job.id, request.task, request):
            if job.request() != request:
                raise InvalidRequestError(
                    "this key belongs to a job that asks something else; take another key for another request", job.id
                )
            return job
        try:
            self._broker.publish(request.task, job.id)
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
        return Job(job_id, self.ledger, self._broker)

    def associations(self) -> list[Associations]:
        """Every remote with which the fleet has associations open, or waits for one."""
        return AssociationLeases(self.ledger.client).in_use()

    def jobs(self, limit: int = 50) -> list[Progress]:
        """The newest jobs first, at most ``limit``."""
        return self.ledger.jobs(limit)


def _job_id(idempotency_key: str | None) -> str:
    """The key itself, which may be anything, stays with who gave it."""
    if idempotency_key is None:
        return uuid.uuid4().hex
    return hashlib.sha256(idempotency_key.encode("utf-8", "surrogatepass")).hexdigest()[:32]
