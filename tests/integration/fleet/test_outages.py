"""Remotes that are down, and the jobs that wait for them, on a real Redis."""

from __future__ import annotations

import pytest

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.fleet import outages as outages_module
from pacs_tasks.fleet.outages import MOST_FAILURES, Outages
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.outcome import JobState
from pacs_tasks.request import StoreDirectoryRequest
from tests.support.waiting import wait_until

LOCAL, REMOTE = LocalAE(ae_title="US"), RemoteAE(ae_title="ARCHIVE", host="10.0.0.1", port=104)
NAME = str(REMOTE)
REQUEST = StoreDirectoryRequest(remote=REMOTE, directory="/data")


@pytest.fixture
def outages(ledger: Ledger) -> Outages:
    return Outages(ledger.client)


def fail(outages: Outages, times: int = MOST_FAILURES) -> bool:
    return [outages.record_failure(NAME, LOCAL, REMOTE, "connection refused") for _ in range(times)][-1]


def running(ledger: Ledger, job_id: str) -> str:
    ledger.open(job_id, REQUEST.task, REQUEST)
    ledger.start(job_id, "worker")
    return job_id


def left(ledger: Ledger) -> set[str]:
    """The keys of outages."""
    return set(map(str, ledger.client.scan_iter("pacs_tasks:outage*")))


def test_failures_in_a_row_make_it_down(outages: Outages, ledger: Ledger) -> None:
    """A success between them starts the count again."""
    assert not fail(outages, MOST_FAILURES - 1)
    outages.forget_failures(NAME)
    assert not fail(outages, MOST_FAILURES - 1)
    assert not outages.is_down(NAME)
    assert fail(outages, 1)
    assert outages.is_down(NAME)
    outages.forget_failures(NAME)
    assert outages.is_down(NAME), "only a probe ends an outage: an old success may come late"
    assert left(ledger)


def test_a_job_waits_only_for_a_remote_that_is_down(outages: Outages, ledger: Ledger) -> None:
    """Its progress reports the remote, since when it is down, and why."""
    job = running(ledger, "job")
    assert not outages.park(NAME, job, 60)
    assert not ledger.progress(job).waiting_for
    fail(outages)
    assert outages.park(NAME, job, 60)
    seen = ledger.progress(job)
    assert (seen.state, seen.waiting_for, seen.waiting_reason) == (JobState.RUNNING, NAME, "connection refused")
    assert seen.waiting_since is not None
    assert ledger.standstills.check(job, 0) == ledger.standstills.check(job, 0) == "", (
        "a job that waits does not stand still"
    )
    assert outages.end(NAME) == [job]
    assert not ledger.progress(job).waiting_for
    assert left(ledger) == set()


def test_one_worker_probes_at_a_time_and_ever_more_rarely(outages: Outages, ledger: Ledger) -> None:
    """The worker that is given a probe is the only one until its time is up."""
    fail(outages)
    outages.park(NAME, running(ledger, "job"), 60)
    outages.probe_now(NAME)
    assert outages.due() == [(NAME, LOCAL, REMOTE)]
    assert outages.due() == []
    pauses = []
    for _ in range(6):
        assert outages.still_down(NAME) == []
        pauses.append(float(str(ledger.client.hget(f"pacs_tasks:outage:{NAME}", "pause"))))
    assert pauses == [2, 4, 8, 8, 8, 8]


def test_the_first_probe_comes_after_a_pause(outages: Outages, monkeypatch: pytest.MonkeyPatch) -> None:
    """A remote that failed a moment ago is not back yet."""
    monkeypatch.setattr(outages_module, "_FIRST_PAUSE", 60.0)
    fail(outages)
    assert outages.due() == []
    outages.probe_now(NAME)
    assert outages.due() == [(NAME, LOCAL, REMOTE)]


def test_a_job_gives_up_when_its_patience_ends(outages: Outages, ledger: Ledger) -> None:
    """Others still wait; once no job waits, the outage is forgotten."""
    fail(outages)
    outages.park(NAME, running(ledger, "hasty"), 0)
    outages.park(NAME, running(ledger, "patient"), 60)
    outages.park(NAME, running(ledger, "cancelled"), 60)
    ledger.cancel("cancelled")
    assert ledger.progress("cancelled").state is JobState.CANCELLED
    wait_until(lambda: outages.still_down(NAME) == ["hasty"], 5, "the hasty job to give up")
    assert not ledger.progress("hasty").waiting_for
    assert ledger.progress("patient").waiting_for
    ledger.cancel("patient")
    assert outages.still_down(NAME) == []
    assert not outages.is_down(NAME)
    assert left(ledger) == set()


def test_a_job_that_is_parked_again_keeps_its_patience(outages: Outages, ledger: Ledger) -> None:
    """Each of its parts that finds the remote down parks it again."""
    fail(outages)
    job = running(ledger, "job")
    outages.park(NAME, job, 0)
    outages.park(NAME, job, 60)
    wait_until(lambda: outages.still_down(NAME) == [job], 5, "its first patience to count")


def test_everything_about_an_outage_expires(outages: Outages, ledger: Ledger) -> None:
    """Even if no worker ever probes the remote again."""
    fail(outages, 1)
    assert all(int(str(ledger.client.ttl(key))) > 0 for key in left(ledger))
    fail(outages)
    outages.park(NAME, running(ledger, "job"), 60)
    assert all(int(str(ledger.client.ttl(key))) > 0 for key in left(ledger))
    ledger.client.delete(f"pacs_tasks:outage:{NAME}")
    outages.probe_now(NAME)
    assert outages.due() == []
    assert not outages.is_down(NAME)
