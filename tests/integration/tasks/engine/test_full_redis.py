"""A full Redis refuses new data and keeps the old: clients get one clear error, and jobs go on when it has room."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pacs_tasks import (
    BrokerUnavailableError,
    Category,
    EchoRequest,
    JobState,
    PacsClient,
    RemoteAE,
    StoreDirectoryRequest,
    TransferOutcome,
)
from pacs_tasks.connection import connect
from pacs_tasks.testing import Faults, TestPACS
from tests.support import workers
from tests.support.dicom_files import write_series
from tests.support.ports import free_port
from tests.support.processes import ROOT, environment, started
from tests.support.redis_server import RedisServer, redis_server
from tests.support.waiting import wait_until

FILES = 60


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis for this test alone: its limit applies to all its databases."""
    with redis_server(tmp_path) as running:
        yield running


def limit_memory(server: RedisServer, limit: int) -> None:
    """Limit the server to so many bytes; 0 is no limit."""
    client = connect(server.url(), 5)
    client.config_set("maxmemory", limit)
    client.close()


def refused(server: RedisServer) -> bool:
    """Whether the server has refused a command for lack of memory."""
    client = connect(server.url(), 5)
    try:
        return "errorstat_OOM" in client.info("errorstats")
    finally:
        client.close()


def test_who_enqueues_is_told(server: RedisServer) -> None:
    """The error names the cause and the remedy; nothing is enqueued."""
    with PacsClient(server.url()) as client:
        limit_memory(server, 1)
        with pytest.raises(BrokerUnavailableError, match=r"is full .* more memory"):
            client.enqueue(EchoRequest())
        limit_memory(server, 0)
        assert client.jobs() == []


def test_a_job_outlasts_it(server: RedisServer, pacs: TestPACS, tmp_path: Path) -> None:
    """Each file has one outcome in the end, and the worker still runs."""
    write_series(tmp_path / "files", FILES, rows=2)
    pacs.faults = Faults(hold_instances_after=20)
    with PacsClient(server.url()) as client, workers.worker(server.url(), tmp_path) as worker:
        request = StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / "files"), files_per_task=10)
        job = client.enqueue(request)
        wait_until(lambda: len(pacs.stores) > 5, 20, "some files are sent")
        limit_memory(server, 1)
        pacs.faults = Faults()
        wait_until(lambda: refused(server), 30, "the worker to be refused something")
        limit_memory(server, 0)
        job.wait(120)
        outcome = job.outcome()
        assert isinstance(outcome, TransferOutcome)
        assert (outcome.category, outcome.counters.success) == (Category.SUCCESS, FILES)
        assert len(pacs.instances) == FILES
        assert worker.running()


def test_a_worker_waits_for_it_with_growing_pauses(server: RedisServer, tmp_path: Path) -> None:
    """One line an attempt says what is wrong, without tracebacks; the worker serves when there is room."""
    limit_memory(server, 1)
    command = [sys.executable, "-m", "celery", "-A", "workers.dimse", "worker", "--concurrency", "1"]
    variables = environment(PACS_TASKS_REDIS_URL=server.url(), PACS_TASKS_DATA_DIR=str(tmp_path))
    with started(
        command,
        tmp_path / "worker.log",
        lambda worker: "Trying again in 4.00 seconds" in worker.said(),
        env=variables,
        cwd=ROOT,
        timeout=60,
    ) as worker:
        assert "is full (maxmemory)" in worker.said()
        assert "Traceback" not in worker.said()
        limit_memory(server, 0)
        with PacsClient(server.url()) as client:
            assert client.enqueue(EchoRequest(remote=RemoteAE(port=free_port()))).wait(60).state is JobState.FAILED
