"""An ended job is reopened: files that were sent stay sent, and no late report ends the new attempt."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from pacs_tasks.errors import InvalidRequestError, JobCancelledError, PeerBusyError
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.ledger.keys import source
from pacs_tasks.outcome import JobState
from pacs_tasks.request import EchoRequest
from tests.support.recording import FAILED, SENT, planned


def test_reopening_keeps_what_was_sent(ledger: Ledger) -> None:
    """A retry covers the files that failed and those that were never begun."""
    job = planned(ledger, 3)
    ledger.record(job, 0, SENT)
    ledger.record(job, 1, FAILED)
    ledger.cancel(job)
    assert ledger.reopen(job) == 1
    progress = ledger.progress(job)
    assert (progress.state, progress.attempt, progress.cancel_requested) == (JobState.QUEUED, 2, False)
    assert (progress.counters.success, progress.counters.failed, progress.counters.unreachable) == (1, 0, 0)
    assert ledger.recorded(job, 0, 100) == {0}


def test_reopening_thousands_of_failures_drops_all_of_them(ledger: Ledger) -> None:
    """They need more than one step."""
    job = planned(ledger, 2500)
    for index in range(2500):
        ledger.record(job, index, FAILED)
    assert ledger.reopen(job) == 2500
    progress = ledger.progress(job)
    assert (progress.state, progress.attempt, progress.counters.failed) == (JobState.QUEUED, 2, 0)
    assert ledger.recorded(job, 0, 100) == set()


def test_a_late_word_of_a_cancelled_task_does_not_end_the_next_attempt(ledger: Ledger) -> None:
    """The release of the last claim ended the job, and a client retried it at once."""
    ledger.open("job", EchoRequest.task, EchoRequest())
    ledger.start("job", "worker")
    assert ledger.claims.claim("job", "job", "worker 1")
    ledger.cancel("job")
    ledger.claims.release("job", "job", "worker 1")
    assert ledger.settle("job")
    ledger.reopen("job")
    ledger.fail("job", JobCancelledError("cancelled while waiting"))
    assert ledger.progress("job").state is JobState.QUEUED
    ledger.cancel("job")
    ledger.fail("job", JobCancelledError("cancelled while waiting"))
    assert ledger.progress("job").state is JobState.CANCELLED


def test_a_late_error_of_an_earlier_attempt_does_not_end_the_next(ledger: Ledger) -> None:
    """Two parts give the remote up; the second may report that after the job was resumed."""
    job = planned(ledger, 2)
    ledger.fail(job, PeerBusyError("busy"), attempt=1)
    assert ledger.progress(job).state is JobState.FAILED
    ledger.reopen(job, failed_too=False)
    ledger.fail(job, PeerBusyError("busy"), attempt=1)
    assert ledger.progress(job).state is JobState.QUEUED
    ledger.fail(job, PeerBusyError("busy"), attempt=2)
    assert ledger.progress(job).state is JobState.FAILED


def test_nothing_is_retried_that_runs_or_is_complete(ledger: Ledger) -> None:
    """Each error names the reason."""
    job = planned(ledger, 1)
    with pytest.raises(InvalidRequestError, match="still running"):
        ledger.reopen(job)
    ledger.record(job, 0, SENT)
    with pytest.raises(InvalidRequestError, match="nothing to retry"):
        ledger.reopen(job)


def test_a_retry_that_comes_late_drops_nothing_that_was_sent(ledger: Ledger) -> None:
    """Two clients retry at once: the files that the first retry has sent stay sent."""
    job = planned(ledger, 2)
    ledger.record(job, 0, SENT)
    ledger.record(job, 1, FAILED)
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda _: reopened(ledger, job), range(8)))
    assert told.count(True) == 1
    ledger.record(job, 1, SENT)
    keys = [f"pacs_tasks:job:{job}{part}" for part in ("", ":claims", ":outcomes")]
    ledger.client.eval(source("ledger", "jobs/drop"), 3, *keys, "1")
    assert ledger.recorded(job, 0, 100) == {0, 1}
    assert ledger.progress(job).counters.success == 2


def reopened(ledger: Ledger, job: str) -> bool:
    try:
        ledger.reopen(job)
    except InvalidRequestError:
        return False
    return True


def test_attempts_are_counted_over_a_retry(ledger: Ledger) -> None:
    """A file that failed after two attempts keeps both when it is retried."""
    job = planned(ledger, 2)
    ledger.claims.count_attempt(job, 0)
    assert ledger.claims.attempts(job, 0, 2) == [1, 0]
    ledger.record(job, 0, FAILED.model_copy(update={"attempts": 2}))
    ledger.record(job, 1, SENT)
    ledger.reopen(job)
    assert ledger.claims.attempts(job, 0, 2) == [2, 0]
    assert ledger.recorded(job, 0, 2) == {1}
