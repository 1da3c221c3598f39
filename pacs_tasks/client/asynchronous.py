"""The Python client for asyncio::

    from pacs_tasks import AsyncPacsClient, EchoRequest, RemoteAE

    async with AsyncPacsClient() as client:
        job = await client.enqueue(EchoRequest(remote=RemoteAE(host="192.168.1.100")))
        await job.wait()
        print(await job.outcome())

Whatever is read again and again is read by redis.asyncio, so that waiting for thousands of jobs takes no thread. All
else takes a few round trips once; :class:`~pacs_tasks.client.PacsClient` does it in a thread of the loop's pool.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast, overload

from pacs_tasks.client.job import Job, O_co, Watch, one_not_in_time, some_not_in_time
from pacs_tasks.client.pacs_client import PacsClient
from pacs_tasks.connection import connect_async
from pacs_tasks.ledger.keys import (
    PROGRESS_FIELDS,
    SEALED_KEY,
    JobView,
    checked_job_key,
    chunks,
    job_key,
    progress_of,
    read_views,
    source,
)
from pacs_tasks.outcome import (
    CommitOutcome,
    EchoOutcome,
    FindOutcome,
    GetOutcome,
    InstanceOutcome,
    JobState,
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

if TYPE_CHECKING:
    import redis.asyncio

    from pacs_tasks.fleet.leases import Associations
    from pacs_tasks.ledger.jobs import Ledger
    from pacs_tasks.ledger.outcomes import RowAnswer
    from pacs_tasks.ledger.receipts import Receipt
    from pacs_tasks.settings import Settings

T = TypeVar("T")

#: Outcomes, receipts or rows that are read in a thread at once.
_PAGE = 500


class _Reader:
    """What is read of jobs without a thread."""

    def __init__(self, client: redis.asyncio.Redis, ledger: Ledger) -> None:
        self._redis, self._ledger = client, ledger
        self._states = client.register_script(source("ledger", "jobs/states"))

    async def progress(self, job_id: str) -> Progress:
        """As :meth:`.Ledger.progress`."""
        key = checked_job_key(job_id)
        values = cast("list[str | None]", await self._redis.hmget(key, list(PROGRESS_FIELDS)))
        fields = dict(zip(PROGRESS_FIELDS, values, strict=True))
        return progress_of(job_id, fields, self._ledger.seals.read(job_id, fields[SEALED_KEY]))

    async def states(self, job_ids: Collection[str]) -> dict[str, JobView]:
        """As :meth:`.Ledger.states`."""
        found: dict[str, JobView] = {}
        for chunk in chunks(job_ids):
            found |= read_views(chunk, await self._states(keys=[job_key(each) for each in chunk]))
        return found

    async def close(self) -> None:
        await self._redis.aclose()


class AsyncJob(Generic[O_co]):
    """One job, from :class:`AsyncPacsClient`; as :class:`~pacs_tasks.client.Job`, with methods to await."""

    def __init__(self, job: Job[O_co], reader: _Reader) -> None:
        self.id = job.id
        self._job, self._reader = job, reader

    def __repr__(self) -> str:
        return f"<AsyncJob {self.id}>"

    async def request(self) -> AnyRequest:
        """Return the request of the job."""
        return await asyncio.to_thread(self._job.request)

    async def progress(self) -> Progress:
        """Return the state and the counters of the job."""
        progress = await self._reader.progress(self.id)
        if progress.cancel_requested and not progress.state.finished:
            return await asyncio.to_thread(self._job.progress)
        return progress

    async def wait(
        self,
        timeout: float | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        check_after: float | None = None,
    ) -> Progress:
        """Wait for the end of the job; as :meth:`.Job.wait`."""
        watch = Watch(timeout, check_after)
        while True:
            watch.begin()
            # A progress takes ten times as long to read as a state.
            view = (await self._reader.states([self.id]))[self.id]
            progress = await self.progress() if on_progress or view.finished or view.cancelling else None
            if watch.stands_still(progress or view):
                await self.check_worker()
            if progress is not None and on_progress is not None:
                on_progress(progress)
            if progress is not None and progress.state.finished:
                return progress
            if watch.overdue:
                raise one_not_in_time(self.id, timeout, view.state)
            await asyncio.sleep(watch.pause())

    async def check_worker(self) -> None:
        """As :meth:`.Job.check_worker`."""
        await asyncio.to_thread(self._job.check_worker)

    async def outcome(self) -> O_co:
        """Return the outcome of the job; errors as of :meth:`.Job.outcome`."""
        return await asyncio.to_thread(self._job.outcome)

    def instances(self) -> AsyncIterator[InstanceOutcome]:
        """Yield the outcome of each file or instance that has one, in the order of the manifest."""
        return _paged(self._job.instances)

    def receipts(self) -> AsyncIterator[Receipt]:
        """Yield a receipt for each file or instance; errors as of :meth:`.Job.receipts`."""
        return _paged(self._job.receipts)

    def matches(self) -> AsyncIterator[RowAnswer]:
        """Yield the matches of each row of a batch of queries; errors as of :meth:`.Job.matches`."""
        return _paged(self._job.matches)

    async def cancel(self) -> Progress:
        """Cancel the job. What was sent stays sent. It ends when no worker has a claim on it any more."""
        return await asyncio.to_thread(self._job.cancel)

    async def retry(self, requester: str = "") -> Self:
        """Continue with the files or instances that failed, are missing or were not begun; as :meth:`.Job.retry`."""
        await asyncio.to_thread(self._job.retry, requester)
        return self

    async def resume(self, requester: str = "") -> Self:
        """Continue with the files or instances that have no outcome; as :meth:`.Job.resume`."""
        await asyncio.to_thread(self._job.resume, requester)
        return self

    async def associations(self) -> Associations | None:
        """Return the associations of all jobs with the remote of this job, or None if there are none."""
        return await asyncio.to_thread(self._job.associations)

    async def state(self) -> JobState:
        """Return the state of the job; as ``state`` of :class:`~pacs_tasks.client.Job`, which is a property."""
        return (await self.progress()).state


class AsyncPacsClient:
    """A client of one Redis for one event loop, to be used as ``async with AsyncPacsClient() as client``.

    Parameters
    ----------
    redis_url, config
        As for :class:`~pacs_tasks.client.PacsClient`, whose errors are raised at the beginning of the block.
    """

    def __init__(self, redis_url: str | None = None, config: Settings | None = None) -> None:
        self._given = redis_url, config

    async def __aenter__(self) -> Self:
        self._client = await asyncio.to_thread(PacsClient, *self._given)
        connection = connect_async(self._client.redis_url, self._client.redis_timeout)
        self._reader = _Reader(connection, self._client.ledger)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections and detach from the private server."""
        await self._reader.close()
        await asyncio.to_thread(self._client.close)

    @overload
    async def enqueue(self, request: EchoRequest, idempotency_key: str | None = None) -> AsyncJob[EchoOutcome]: ...
    @overload
    async def enqueue(self, request: AnyTransfer, idempotency_key: str | None = None) -> AsyncJob[TransferOutcome]: ...
    @overload
    async def enqueue(
        self, request: PreflightRequest, idempotency_key: str | None = None
    ) -> AsyncJob[PreflightOutcome]: ...
    @overload
    async def enqueue(self, request: FindRequest, idempotency_key: str | None = None) -> AsyncJob[FindOutcome]: ...
    @overload
    async def enqueue(self, request: MoveRequest, idempotency_key: str | None = None) -> AsyncJob[MoveOutcome]: ...
    @overload
    async def enqueue(self, request: GetRequest, idempotency_key: str | None = None) -> AsyncJob[GetOutcome]: ...
    @overload
    async def enqueue(self, request: VerifyRequest, idempotency_key: str | None = None) -> AsyncJob[VerifyOutcome]: ...
    @overload
    async def enqueue(self, request: CommitRequest, idempotency_key: str | None = None) -> AsyncJob[CommitOutcome]: ...
    @overload
    async def enqueue(
        self, request: AnyRequest, idempotency_key: str | None = None, requester: str = ""
    ) -> AsyncJob: ...
    async def enqueue(
        self, request: AnyRequest, idempotency_key: str | None = None, requester: str = ""
    ) -> AsyncJob[Any]:
        """Enqueue a request; as :meth:`.PacsClient.enqueue`, with its errors."""
        return self._own(await asyncio.to_thread(self._client.enqueue, request, idempotency_key, requester))

    async def job(self, job_id: str) -> AsyncJob:
        """Return the job with this id; errors as of :meth:`.PacsClient.job`."""
        return self._own(await asyncio.to_thread(self._client.job, job_id))

    async def find(self, text: str, tasks: Collection[str] = ()) -> AsyncJob:
        """Return the job that ``text`` names; as :meth:`.PacsClient.find`, with its errors."""
        return self._own(await asyncio.to_thread(self._client.find, text, tasks))

    async def as_completed(
        self,
        jobs: Iterable[AsyncJob[O_co]],
        timeout: float | None = None,
        check_after: float | None = None,
    ) -> AsyncIterator[AsyncJob[O_co]]:
        """Yield each job when it has ended; as :meth:`.PacsClient.as_completed`, with its errors."""
        waiting = {job.id: job for job in jobs}
        watch = Watch(timeout, check_after)
        while waiting:
            watch.begin()
            seen = await self._reader.states(waiting)
            for job_id in [each for each, view in seen.items() if view.finished]:
                yield waiting.pop(job_id)
            for job_id, view in seen.items():
                if view.cancelling:
                    await waiting[job_id].progress()
            if not waiting:
                return
            if watch.stands_still(seen):
                await next(iter(waiting.values())).check_worker()
            if watch.overdue:
                raise some_not_in_time(timeout, waiting)
            await asyncio.sleep(watch.pause())

    async def wait_all(
        self,
        jobs: Iterable[AsyncJob[O_co]],
        timeout: float | None = None,
        check_after: float | None = None,
    ) -> list[Progress]:
        """Wait for the end of all jobs and return their progress in the same order; as :meth:`as_completed`."""
        chosen = list(jobs)
        async for _ in self.as_completed(chosen, timeout, check_after):
            pass
        return [await job.progress() for job in chosen]

    async def associations(self) -> list[Associations]:
        """Return every remote with which the fleet has associations open or waits for one."""
        return await asyncio.to_thread(self._client.associations)

    async def jobs(self, limit: int = 50) -> list[Progress]:
        """Return the newest jobs, at most ``limit``, newest first."""
        return await asyncio.to_thread(self._client.jobs, limit)

    def _own(self, job: Job[O_co]) -> AsyncJob[O_co]:
        return AsyncJob(job, self._reader)


async def _paged(read: Callable[[], Iterator[T]]) -> AsyncIterator[T]:
    """Yield what an iterator reads, which waits for Redis in a thread."""
    rest = await asyncio.to_thread(read)
    while page := await asyncio.to_thread(lambda: list(islice(rest, _PAGE))):
        for each in page:
            yield each
