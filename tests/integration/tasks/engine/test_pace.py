"""Jobs keep to the pace and the hours of their remote, over all workers.

An instance is never too early, whatever the load of the machine; how late it may be is no matter of the pace.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pacs_tasks import (
    Category,
    Job,
    JobState,
    PacsClient,
    Priority,
    RetrieveMethod,
    RetrieveRequest,
    StoreDirectoryRequest,
    TransferOutcome,
)
from pacs_tasks.ae import RemoteAE
from pacs_tasks.testing import TestPACS
from tests.support import workers
from tests.support.arrivals import Times
from tests.support.dicom_files import study_uid, write_series
from tests.support.ports import free_port
from tests.support.processes import Process
from tests.support.waiting import wait_until

#: Most seconds of a job: the machine may be busy.
LIMIT = 90


def settings_of(remote: RemoteAE, **pace: object) -> str:
    """The settings of a worker that name a remote with this pace."""
    about = {"ae_title": remote.ae_title, "host": remote.host, "port": remote.port}
    return json.dumps({"paced": {**about, **pace}})


@contextmanager
def fleet(redis_url: str, directory: Path, remotes: str, number: int = 2) -> Iterator[list[Process]]:
    """So many workers with these remotes."""
    with ExitStack() as stack:
        names = [f"worker{each}" for each in range(number)]
        yield [
            stack.enter_context(workers.worker(redis_url, directory, name, PACS_TASKS_REMOTES=remotes))
            for name in names
        ]


def outcome_of(job: Job) -> TransferOutcome:
    job.wait(LIMIT)
    outcome = job.outcome()
    assert isinstance(outcome, TransferOutcome)
    assert outcome.category is Category.SUCCESS, outcome
    return outcome


#: Adds a figure to the summary of the run.
Report = Callable[[str, object], None]


def assert_never_early(times: Times, begun: float, rate: float, at_once: float, report: Report) -> None:
    """No entry came before its token was due; so many come at once."""
    measured = (len(times) - 1) / (times.at[-1] - times.at[0])
    report("at the peer", f"{measured:.2f} a second of {rate:.2f} ({measured / rate - 1:+.1%})")
    for number, at in enumerate(times.at):
        assert number <= rate * (at - begun) + at_once, f"{number} after {at - begun:.3f} s"


@pytest.mark.parametrize("rate", [5, 40, 400])
def test_two_workers_share_the_instances_of_a_second(
    redis_url: str, tmp_path: Path, pacs: TestPACS, rate: int, record_property: Report
) -> None:
    """And nothing about it stays in Redis."""
    number = {5: 12, 40: 120, 400: 800}[rate]
    write_series(tmp_path / "files", number, rows=2)
    pacs.stores = times = Times()
    with fleet(redis_url, tmp_path, settings_of(pacs.remote, instances_per_second=rate)), PacsClient(redis_url) as own:
        begun = time.monotonic()
        job = own.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / "files")))
        assert outcome_of(job).counters.success == len(times) == number
        # Two processes of each worker may have tokens for a tenth of a second.
        assert_never_early(times, begun, rate, max(1, rate * 0.1), record_property)
        wait_until(lambda: not list(own.ledger.client.scan_iter("pacs_tasks:pace:*")), 10, "the tokens to be forgotten")


def test_two_workers_share_the_bytes_of_a_second(
    redis_url: str, tmp_path: Path, pacs: TestPACS, record_property: Report
) -> None:
    """They are counted as the files have them."""
    files = write_series(tmp_path / "files", 60, rows=128)
    size, rate = files[0].stat().st_size, 1_000_000
    pacs.stores = times = Times()
    with fleet(redis_url, tmp_path, settings_of(pacs.remote, bytes_per_second="1MB")), PacsClient(redis_url) as own:
        begun = time.monotonic()
        job = own.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / "files")))
        assert outcome_of(job).counters.success == len(times) == len(files)
        assert_never_early(times, begun, rate / size, rate / size * 0.1 + 1, record_property)


@pytest.mark.parametrize("method", ["get", "move", "forward"])
def test_a_pacs_is_asked_to_deliver_at_its_pace(
    redis_url: str, tmp_path: Path, method: str, record_property: Report
) -> None:
    """By C-GET, by C-MOVE to the receiver, and by C-MOVE to a third AE."""
    number, rate, port = 60, 20, free_port()
    held = [*write_series(tmp_path / "held/1", number - 20), *write_series(tmp_path / "held/2", 20, series=2)]
    with TestPACS("DEST") as destination, TestPACS("SOURCE", instances=held) as source, ExitStack() as stack:
        source.destinations = {"DEST": ("127.0.0.1", destination.port), "RECEIVER": ("127.0.0.1", port)}
        source.deliveries = times = Times()
        if method == "move":
            stack.enter_context(workers.receiver(redis_url, tmp_path, port, "RECEIVER"))
        stack.enter_context(fleet(redis_url, tmp_path, settings_of(source.remote, instances_per_second=rate)))
        own = stack.enter_context(PacsClient(redis_url))
        begun = time.monotonic()
        where = {"to": destination.remote} if method == "forward" else {"output_dir": str(tmp_path / "out")}
        how = {} if method == "forward" else {"method": RetrieveMethod(method)}
        request = RetrieveRequest.model_validate({"remote": source.remote, "study_uid": study_uid(), **where, **how})
        assert outcome_of(own.enqueue(request)).counters.success == len(times) == number
        # Requests of half a second; by C-GET, each of two associations is one instance ahead.
        assert_never_early(times, begun, rate, 4 if method == "get" else rate * 0.5, record_property)


def test_a_slow_pace_holds_no_association(redis_url: str, tmp_path: Path, pacs: TestPACS) -> None:
    """The job shows its pace, waits without an association, counts no tries, and can be cancelled at once."""
    write_series(tmp_path / "files", 6, rows=2)
    remotes = settings_of(pacs.remote, instances_per_second=0.2)
    with fleet(redis_url, tmp_path, remotes, 1), PacsClient(redis_url) as own:
        job = own.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / "files")))
        wait_until(lambda: pacs.stores, 30, "the first file")
        wait_until(lambda: not (pacs.open_associations or own.ledger.claims.count(job.id)), 10, "all to be given back")
        assert len(pacs.stores) == 1
        wait_until(lambda: job.progress().pace == "0.2 instances a second", 10, "the job to show its pace")
        wait_until(lambda: len(pacs.stores) == 2, 30, "the second file")
        job.cancel()
        assert job.wait(10).state is JobState.CANCELLED
        assert job.progress().counters.failed == 0


def test_a_killed_worker_leaves_its_tokens_to_the_other(
    redis_url: str, tmp_path: Path, pacs: TestPACS, record_property: Report
) -> None:
    """Everything is sent, and nothing early."""
    number, rate = 400, 50
    write_series(tmp_path / "files", number, rows=2)
    pacs.stores = times = Times()
    remotes = settings_of(pacs.remote, instances_per_second=rate)
    with fleet(redis_url, tmp_path, remotes) as (first, _), PacsClient(redis_url) as own:
        begun = time.monotonic()
        job = own.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / "files")))
        wait_until(lambda: len(times) > 50, 30, "some files")
        first.kill()
        assert outcome_of(job).counters.success == number
        assert_never_early(times, begun, rate, rate * 0.1, record_property)


def _window(begin: timedelta, end: timedelta) -> str:
    now = datetime.now(UTC)
    return f"{now + begin:%H:%M}-{now + end:%H:%M}"


def test_bulk_waits_for_the_hours(redis_url: str, tmp_path: Path, pacs: TestPACS) -> None:
    """Other jobs do not. It says until when, can be cancelled, and goes on when the hours have begun."""
    write_series(tmp_path / "files", 5, rows=2)
    hour = timedelta(hours=1)
    closed, always = _window(10 * hour, 12 * hour), ["00:00-12:00", "12:00-24:00"]

    def bulk(own: PacsClient, priority: Priority = Priority.BULK) -> Job:
        request = StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / "files"), priority=priority)
        return own.enqueue(request)

    with PacsClient(redis_url) as own:
        with fleet(redis_url, tmp_path, settings_of(pacs.remote, bulk_hours=[closed], time_zone="UTC"), 1):
            job, other = bulk(own), bulk(own)
            wait_until(lambda: job.progress().waiting_until and other.progress().waiting_until, 30, "both to wait")
            seen = job.progress()
            assert seen.waiting_for == f"{pacs.ae_title} at 127.0.0.1:{pacs.port}"
            assert seen.waiting_until is not None
            assert 9 * 3600 < seen.waiting_until - time.time() <= 10 * 3600
            assert seen.waiting_reason.endswith(f"{closed[:5]} (UTC)")
            assert not pacs.stores
            assert outcome_of(bulk(own, Priority.NORMAL)).counters.success == 5
            other.cancel()
            assert other.wait(10).state is JobState.CANCELLED
            # It finds the hours closed, and waits again.
            job.resume()
            wait_until(lambda: job.progress().waiting_until, 30, "it to wait again")
            assert len(pacs.stores) == 5
        with fleet(redis_url, tmp_path, settings_of(pacs.remote, bulk_hours=always), 1):
            assert outcome_of(job).counters.success == 5
            # If the job went on by its own message, the watch finds in its next round that the wait is over.
            wait_until(lambda: not list(own.ledger.client.scan_iter("pacs_tasks:pace:*")), 30, "nothing to wait for")
