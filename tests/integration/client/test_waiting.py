"""Waiting for several jobs at once, from threads, from forked children and from an event loop."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pacs_tasks import (
    AsyncJob,
    AsyncPacsClient,
    EchoOutcome,
    EchoRequest,
    FindBatchRequest,
    FindRow,
    InvalidRequestError,
    Job,
    JobNotFoundError,
    JobNotReadyError,
    JobState,
    PacsClient,
    RemoteAE,
    Status,
    StatusCategory,
    StoreDirectoryRequest,
)
from pacs_tasks.errors import BrokerUnavailableError
from pacs_tasks.testing import TestPACS
from tests.support.dicom_files import write_series
from tests.support.ports import free_port
from tests.support.processes import ROOT, Process, environment

ECHO = EchoRequest(remote=RemoteAE(ae_title="NOBODY", port=1))


@pytest.fixture
def alone(redis_url: str) -> Iterator[PacsClient]:
    """A client of a Redis without a worker: the test itself ends its jobs."""
    with PacsClient(redis_url) as client:
        yield client


def end(client: PacsClient, job_id: str) -> None:
    """End a job as its worker would."""
    status = Status(code=0, category=StatusCategory.SUCCESS, meaning="Success.")
    client.ledger.finish(job_id, EchoOutcome(status=status, seconds=0.1))


def test_jobs_come_in_the_order_of_their_ends(alone: PacsClient) -> None:
    """A cancelled job has ended too; the rest is named when the time is over."""
    jobs = [alone.enqueue(ECHO) for _ in range(4)]
    ends = alone.as_completed(jobs, timeout=30)
    for index in (2, 0):
        end(alone, jobs[index].id)
        assert next(ends).id == jobs[index].id
    jobs[3].cancel()
    assert next(ends).id == jobs[3].id
    with pytest.raises(JobNotReadyError, match=f"1 jobs have not finished .* such as {jobs[1].id}"):
        list(alone.as_completed(jobs, timeout=0))
    end(alone, jobs[1].id)
    assert next(ends).id == jobs[1].id
    states = [progress.state for progress in alone.wait_all(jobs)]
    assert states == [JobState.DONE, JobState.DONE, JobState.DONE, JobState.CANCELLED]


def test_a_wait_for_nobody_ends(alone: PacsClient) -> None:
    """No worker serves this Redis; a job without a record is an error as well; no jobs at all have ended."""
    jobs = [alone.enqueue(ECHO) for _ in range(2)]
    with pytest.raises(JobNotReadyError, match="no worker serves this Redis"):
        alone.wait_all(jobs, check_after=0)
    alone.ledger.discard(jobs[1].id)
    with pytest.raises(JobNotFoundError):
        alone.wait_all(jobs)
    assert alone.wait_all([]) == []


def test_threads_share_a_client(alone: PacsClient) -> None:
    """Each thread finds its own jobs, and the same key gives all of them the same job."""

    def work(number: int) -> set[str]:
        jobs = [alone.enqueue(ECHO) for _ in range(25)]
        assert alone.enqueue(ECHO, idempotency_key="one for all").progress().state is JobState.QUEUED
        for job in jobs:
            assert job.request() == ECHO
            (end(alone, job.id) if number % 2 else job.cancel())
        wanted = JobState.DONE if number % 2 else JobState.CANCELLED
        assert {progress.state for progress in alone.wait_all(jobs, timeout=30)} == {wanted}
        return {job.id for job in jobs}

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(work, range(8)))
    assert len(set().union(*found)) == 8 * 25
    assert len(alone.jobs(limit=1_000)) == 8 * 25 + 1


#: Threads use the client and build models all the time, and one holds the lock of its connections while the process
#: forks.
_FORKS = """
import os, sys, threading
from pydantic import BaseModel
from pacs_tasks import EchoRequest, PacsClient

class Built(BaseModel):
    number: int

with PacsClient(sys.argv[1]) as client:
    stopped, children = threading.Event(), []

    def use():
        while not stopped.is_set():
            client.jobs(1)

    def build():
        while not stopped.is_set():
            Built.model_rebuild(force=True)

    threads = [threading.Thread(target=each) for each in (use, use, use, build)]
    for thread in threads:
        thread.start()
    for number in range(10):
        held, forked = threading.Event(), threading.Event()

        def hold():
            with client.ledger.client.connection_pool._lock:
                held.set()
                forked.wait()

        holder = threading.Thread(target=hold)
        holder.start()
        held.wait()
        child = os.fork()
        if child == 0:
            try:
                with client:
                    job = client.enqueue(EchoRequest(), idempotency_key=f"child {number}")
                    job.cancel()
                    assert [each.state for each in client.wait_all([job], timeout=30)] == ["cancelled"]
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
        forked.set()
        holder.join()
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    stopped.set()
    for thread in threads:
        thread.join()
    print(codes, len(client.jobs()))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_forked_children_share_a_client(redis_url: str) -> None:
    """A child uses and closes the client of its parent, whatever the threads of the parent do; so does the parent."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", _FORKS, redis_url],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split("\n")[0] == f"{[0] * 10} 10", done.stderr


def test_the_client_for_asyncio_has_the_same_methods() -> None:
    """And each has the same parameters, except that a state is awaited: it takes a round trip."""
    for plain, awaited in ((PacsClient, AsyncPacsClient), (Job, AsyncJob)):
        names = {name for name in vars(plain) if not name.startswith("_")}
        assert names == {name for name in vars(awaited) if not name.startswith("_")}
        for name in names - {"state"}:
            ours, theirs = (list(inspect.signature(getattr(each, name)).parameters) for each in (plain, awaited))
            assert ours == theirs, name


def test_an_event_loop_works_with_jobs(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """Everything that the other client does, with a worker and a PACS."""
    write_series(tmp_path, 5)

    async def work() -> None:
        async with AsyncPacsClient(client.redis_url) as ours:
            sent = await ours.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path)))
            asked = await ours.enqueue(FindBatchRequest(remote=pacs.remote, rows=(FindRow(number=1, keys={}),)))
            echoes = [await ours.enqueue(EchoRequest(remote=pacs.remote)) for _ in range(10)]
            progress = await ours.wait_all([sent, asked, *echoes], timeout=60)
            assert {each.state for each in progress} == {JobState.DONE}
            assert {job.id async for job in ours.as_completed(echoes)} == {job.id for job in echoes}
            assert (await sent.outcome()).counters.success == 5
            assert await sent.state() is JobState.DONE
            assert [each.category async for each in sent.instances()] == ["success"] * 5
            assert len([each async for each in sent.receipts()]) == 5
            assert [each.row async for each in asked.matches()] == [1]
            assert isinstance(await (await ours.job(sent.id)).request(), StoreDirectoryRequest)
            assert (await ours.find(sent.id[:20])).id == sent.id
            assert sent.id in {each.job_id for each in await ours.jobs(1_000)}
            with pytest.raises(InvalidRequestError, match="nothing to retry"):
                await sent.retry()
            await ours.associations()
            await sent.associations()

    asyncio.run(work())
    assert len(pacs.instances) == 5


def test_an_event_loop_waits_without_threads(alone: PacsClient) -> None:
    """A hundred waits share the loop, a few connections and the few threads that enqueued."""

    async def work() -> int:
        async with AsyncPacsClient(alone.redis_url) as ours:
            jobs = await asyncio.gather(*(ours.enqueue(ECHO) for _ in range(100)))
            waits = [asyncio.create_task(job.wait(timeout=60)) for job in jobs[:-1]]
            with pytest.raises(JobNotReadyError, match="it is queued"):
                await jobs[-1].wait(timeout=0.1)
            assert (await jobs[-1].cancel()).state is JobState.CANCELLED
            threads = threading.active_count()
            database = alone.redis_url.rpartition("/")[2]
            connections = sum(each["db"] == database for each in alone.ledger.client.client_list())
            for job in jobs[:-1]:
                end(alone, job.id)
            assert {progress.state for progress in await asyncio.gather(*waits)} == {JobState.DONE}
            assert connections <= 8 + 32
            return threads

    before = threading.active_count()
    assert asyncio.run(work()) - before <= 32


def test_an_event_loop_learns_that_there_is_no_redis() -> None:
    """The error is that of the other client."""

    async def work() -> None:
        async with AsyncPacsClient(f"redis://127.0.0.1:{free_port()}/0"):
            pass

    with pytest.raises(BrokerUnavailableError, match="does not answer"):
        asyncio.run(work())


def test_a_public_client_needs_a_worker(shared_worker: Process, client: PacsClient) -> None:
    """A worker that answers lets the wait go on until its time is over."""
    assert shared_worker.running()
    job = client.enqueue(EchoRequest(remote=RemoteAE(ae_title="NOBODY", port=free_port()), timeout=5))
    (progress,) = client.wait_all([job], timeout=60, check_after=0)
    assert progress.state is JobState.FAILED
