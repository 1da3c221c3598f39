"""The ledger, on a real Redis: each outcome once, each job ended once."""

from __future__ import annotations

import hashlib
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pacs_tasks import scripts
from pacs_tasks.broker import connect
from pacs_tasks.errors import (
    BrokerUnavailableError,
    InvalidRequestError,
    JobCancelledError,
    JobNotFoundError,
    JobNotReadyError,
    PeerBusyError,
    PeerUnavailableError,
)
from pacs_tasks.instances import Instances
from pacs_tasks.ledger import Ledger
from pacs_tasks.outcome import (
    Category,
    EchoOutcome,
    InstanceCategory,
    InstanceOutcome,
    Status,
    StatusCategory,
    TransferOutcome,
)
from pacs_tasks.progress import JobState
from pacs_tasks.request import EchoRequest, FindRequest, StoreDirectoryRequest

REQUEST = StoreDirectoryRequest(directory="/data")
SENT = InstanceOutcome(subject="/data/a", category=InstanceCategory.SUCCESS, size=10)
FAILED = InstanceOutcome.unanswered("/data/b", PeerUnavailableError("gone"))
#: The job, its manifest, what has an outcome, and its receipts.
EVERY_KEY = 4


@pytest.fixture
def ledger(redis_url: str) -> Ledger:
    return Ledger(connect(redis_url, 5), keep_jobs=60)


def planned(ledger: Ledger, total: int, job_id: str = "job") -> str:
    ledger.open(job_id, REQUEST.task, REQUEST)
    ledger.start(job_id, "worker")
    ledger.manifest.plan(job_id, ([f"/data/{index}", 10] for index in range(total)), "worker")
    return job_id


def test_a_job_opens_once(ledger: Ledger) -> None:
    """A redelivered task must not begin its job anew."""
    assert ledger.open("job", REQUEST.task, REQUEST)
    assert not ledger.open("job", EchoRequest.task, EchoRequest())
    assert ledger.request("job") == REQUEST
    assert ledger.progress("job").state is JobState.QUEUED


def test_an_outcome_counts_once(ledger: Ledger) -> None:
    """The same file recorded twice is one file, and the first word stands."""
    job = planned(ledger, 2)
    assert ledger.record(job, 0, SENT).new
    assert not ledger.record(job, 0, FAILED).new
    counters = ledger.progress(job).counters
    assert (counters.success, counters.failed, counters.bytes) == (1, 0, 10)


def test_workers_that_record_at_once_count_right_and_end_the_job_once(ledger: Ledger) -> None:
    """Sixteen threads record each of 300 files twice."""
    job = planned(ledger, 300)
    with ThreadPoolExecutor(16) as pool:
        told = list(pool.map(lambda index: ledger.record(job, index % 300, SENT), range(600)))
    assert sum(each.new for each in told) == 300
    assert sum(each.ended for each in told) == 1
    assert ledger.progress(job).state is JobState.DONE
    assert ledger.progress(job).counters.success == 300


def test_the_first_plan_stands(ledger: Ledger) -> None:
    """A planner that is handed out twice must not change the manifest under the parts."""
    job = planned(ledger, 2)
    assert ledger.manifest.plan(job, [["/other", 1]] * 5, "second worker") == 2
    assert ledger.manifest.entries(job, 0, 9) == [["/data/0", 10], ["/data/1", 10]]


def test_a_cancelled_job_ends_when_nobody_is_at_it(ledger: Ledger) -> None:
    """Not before: what a worker is sending will still arrive."""
    job = planned(ledger, 3)
    assert ledger.claims.take(job, "0-1", "worker")
    assert ledger.cancel(job) is JobState.RUNNING
    assert ledger.record(job, 0, SENT).cancelled
    ledger.claims.release(job, "0-1", "worker")
    assert ledger.settle(job)
    assert ledger.progress(job).state is JobState.CANCELLED
    outcome = ledger.outcome(job)
    assert isinstance(outcome, TransferOutcome)
    assert (outcome.category, outcome.counters.success) == (Category.CANCELLED, 1)


def test_a_queued_job_is_cancelled_at_once(ledger: Ledger) -> None:
    """No worker has it."""
    ledger.open("job", REQUEST.task, REQUEST)
    assert ledger.cancel("job") is JobState.CANCELLED
    assert ledger.start("job", "worker") is JobState.CANCELLED


def test_a_job_that_finished_stays_done_when_cancelled_too_late(ledger: Ledger) -> None:
    """Nothing is claimed that did not happen: everything was sent."""
    job = planned(ledger, 1)
    ledger.record(job, 0, SENT)
    assert ledger.cancel(job) is JobState.DONE


def test_a_claim_is_one_owners_until_it_lets_go(ledger: Ledger) -> None:
    """Its owner may prolong it."""
    assert ledger.claims.take("job", "0-9", "one")
    assert not ledger.claims.take("job", "0-9", "two")
    assert ledger.claims.take("job", "0-9", "one")
    ledger.claims.release("job", "0-9", "two")
    assert ledger.claims.live("job") == 1
    ledger.claims.release("job", "0-9", "one")
    assert ledger.claims.take("job", "0-9", "two")


def test_who_claims_all_of_a_scope_is_alone_there(ledger: Ledger) -> None:
    """As with a study and its series. One's own claims are not in one's way."""
    assert ledger.claims.take("study", "series 1", "one")
    assert not ledger.claims.take("study", "", "two")
    assert ledger.claims.take("study", "", "one")
    assert not ledger.claims.take("study", "series 2", "two")
    assert ledger.claims.take("another", "series 2", "two")
    for name in ("", "series 1"):
        ledger.claims.release("study", name, "one")
    assert ledger.claims.take("study", "", "two")
    assert not ledger.claims.take("study", "series 1", "one")
    ledger.claims.release("study", "", "two")
    assert ledger.claims.take("study", "series 1", "one")


def test_reopening_keeps_what_was_sent(ledger: Ledger) -> None:
    """A retry takes up what failed and what was never begun."""
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
    """More than one step's worth."""
    job = planned(ledger, 2500)
    for index in range(2500):
        ledger.record(job, index, FAILED)
    assert ledger.reopen(job) == 2500
    progress = ledger.progress(job)
    assert (progress.state, progress.attempt, progress.counters.failed) == (JobState.QUEUED, 2, 0)
    assert ledger.recorded(job, 0, 100) == set()


def test_a_late_word_of_a_cancelled_task_does_not_end_the_next_attempt(ledger: Ledger) -> None:
    """Its claim was the last, so the job had ended when the claim was released, and somebody retried it at once."""
    ledger.open("job", EchoRequest.task, EchoRequest())
    ledger.start("job", "worker")
    assert ledger.claims.take("job", "job", "worker 1")
    ledger.cancel("job")
    ledger.claims.release("job", "job", "worker 1")
    assert ledger.settle("job")
    ledger.reopen("job")
    ledger.failed("job", JobCancelledError("cancelled while waiting"))
    assert ledger.progress("job").state is JobState.QUEUED
    ledger.cancel("job")
    ledger.failed("job", JobCancelledError("cancelled while waiting"))
    assert ledger.progress("job").state is JobState.CANCELLED


def test_a_late_error_of_an_earlier_attempt_does_not_end_the_next(ledger: Ledger) -> None:
    """Of two parts that give the same peer up, the second may tell when the job has been resumed."""
    job = planned(ledger, 2)
    ledger.failed(job, PeerBusyError("busy"), attempt=1)
    assert ledger.progress(job).state is JobState.FAILED
    ledger.reopen(job, failed_too=False)
    ledger.failed(job, PeerBusyError("busy"), attempt=1)
    assert ledger.progress(job).state is JobState.QUEUED
    ledger.failed(job, PeerBusyError("busy"), attempt=2)
    assert ledger.progress(job).state is JobState.FAILED


def test_nothing_is_retried_that_runs_or_is_complete(ledger: Ledger) -> None:
    """Each with the reason."""
    job = planned(ledger, 1)
    with pytest.raises(InvalidRequestError, match="still running"):
        ledger.reopen(job)
    ledger.record(job, 0, SENT)
    with pytest.raises(InvalidRequestError, match="nothing to retry"):
        ledger.reopen(job)


def test_an_unknown_job_is_told(ledger: Ledger) -> None:
    """Celery would call it pending for ever."""
    for look in (ledger.progress, ledger.request, ledger.cancel, ledger.reopen, ledger.outcome):
        with pytest.raises(JobNotFoundError, match="no job 'nothing'"):
            look("nothing")


@pytest.mark.parametrize("name", ["", "../x", "job:manifest", "job:claims", "a\nb", "\udcff", "x" * 100_000])
def test_an_id_of_strange_form_is_an_unknown_job(ledger: Ledger, name: str) -> None:
    """Whatever somebody types, with a sentence that can be read; nobody gets at a key that is no job."""
    ledger.claims.take(planned(ledger, 2), "0-1", "worker")
    for look in (ledger.progress, ledger.request, ledger.cancel, ledger.reopen, ledger.outcome):
        with pytest.raises(JobNotFoundError, match="there is no job") as raised:
            look(name)
        assert len(str(raised.value)) < 200


def test_a_retry_that_comes_late_drops_nothing_that_was_sent(ledger: Ledger) -> None:
    """Two people retry at once: what the first one's retry has sent by then stays sent."""
    job = planned(ledger, 2)
    ledger.record(job, 0, SENT)
    ledger.record(job, 1, FAILED)
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda _: reopened(ledger, job), range(8)))
    assert told.count(True) == 1
    ledger.record(job, 1, SENT)
    keys = [f"pacs_tasks:job:{job}{part}" for part in ("", ":claims", ":outcomes")]
    ledger.client.eval(scripts.DROP, 3, *keys, "1")
    assert ledger.recorded(job, 0, 100) == {0, 1}
    assert ledger.progress(job).counters.success == 2


def reopened(ledger: Ledger, job: str) -> bool:
    try:
        ledger.reopen(job)
    except InvalidRequestError:
        return False
    return True


def test_what_is_recorded_for_an_expired_job_leaves_nothing_behind(ledger: Ledger) -> None:
    """And its part is told to stop."""
    assert ledger.record("gone", 0, SENT).cancelled
    assert not list(ledger.client.scan_iter("*gone*"))


def test_a_job_at_work_does_not_expire(ledger: Ledger) -> None:
    """It is kept for so long after its end, however long it takes."""
    job = planned(ledger, 2)
    ledger.client.expire(f"pacs_tasks:job:{job}", 5)
    ledger.unfinished.standstill(job, 100)
    assert int(str(ledger.client.ttl(f"pacs_tasks:job:{job}"))) > 5


def test_a_failed_job_raises_its_error_again(ledger: Ledger) -> None:
    """With its class, its sentence and what it is about."""
    ledger.open("job", REQUEST.task, REQUEST)
    with pytest.raises(JobNotReadyError):
        ledger.outcome("job")
    ledger.failed("job", PeerUnavailableError("cannot connect", "/private"))
    with pytest.raises(PeerUnavailableError, match="/private: cannot connect"):
        ledger.outcome("job")


def test_an_answer_is_kept_whole(ledger: Ledger) -> None:
    """A job with one answer gives it back as it was, and the first one stands."""
    outcome = EchoOutcome(status=Status(code=0, category=StatusCategory.SUCCESS, meaning="success"), seconds=0.1)
    ledger.open("job", EchoRequest.task, EchoRequest())
    ledger.done("job", outcome)
    ledger.failed("job", PeerUnavailableError("too late"))
    assert ledger.outcome("job") == outcome


def test_jobs_are_listed_newest_first_and_forgotten_when_they_expire(redis_url: str) -> None:
    """The index holds no job that is gone."""
    client = connect(redis_url, 5)
    ledger = Ledger(client, keep_jobs=60)
    for job_id in ("first", "second", "third"):
        ledger.open(job_id, FindRequest.task, FindRequest())
    assert ledger.unfinished.jobs() == ["first", "second", "third"]
    client.delete("pacs_tasks:job:second")
    assert [each.job_id for each in ledger.jobs(10)] == ["third", "first"]
    assert ledger.unfinished.jobs() == ["first", "third"]


def test_every_key_of_a_job_expires(ledger: Ledger) -> None:
    """Nothing is kept for ever."""
    job = planned(ledger, 1)
    ledger.record(job, 0, SENT)
    keys = [key for key in ledger.client.scan_iter("pacs_tasks:job:*") if "claims" not in key]
    assert len(keys) == EVERY_KEY
    assert all(0 < int(str(ledger.client.ttl(key))) <= 60 for key in keys)


def test_an_outcome_is_read_as_it_was_recorded(ledger: Ledger) -> None:
    """Whether it is kept short or whole."""
    plain = Status(code=0, category=StatusCategory.SUCCESS, meaning="success")
    sent = InstanceOutcome(
        subject="/data/0",
        category=InstanceCategory.SUCCESS,
        sop_class_uid="1.2.3",
        sop_instance_uid="1.2.3.4",
        transfer_syntax_uid="1.2.840.10008.1.2",
        status=plain,
        size=10,
        sha256=hashlib.sha256(b"bytes").hexdigest(),
        attempts=2,
        begun=1_700_000_000.25,
        ended=1_700_000_000.5,
        worker="one@machine",
    )
    outcomes = [
        sent,
        InstanceOutcome(subject="/data/1", category=InstanceCategory.SUCCESS, path="/out/张.dcm", size=7),
        sent.model_copy(update={"subject": "/data/2", "status": plain.model_copy(update={"comment": "thanks"})}),
        InstanceOutcome.unanswered("/data/3", PeerUnavailableError("gone")).model_copy(update={"attempts": 3}),
    ]
    job = planned(ledger, len(outcomes))
    for index, outcome in enumerate(outcomes):
        ledger.record(job, index, outcome)
    assert [line.outcome for line in Instances(ledger, job).in_order()] == outcomes
    assert [index for index, _ in ledger.problems(job)] == [2, 3]


def test_attempts_are_counted_over_a_retry(ledger: Ledger) -> None:
    """What failed after two sends and is retried has been sent twice before."""
    job = planned(ledger, 2)
    ledger.claims.count_attempt(job, 0)
    assert ledger.claims.attempts(job, 0, 2) == [1, 0]
    ledger.record(job, 0, FAILED.model_copy(update={"attempts": 2}))
    ledger.record(job, 1, SENT)
    ledger.reopen(job)
    assert ledger.claims.attempts(job, 0, 2) == [2, 0]
    assert ledger.recorded(job, 0, 2) == {1}


def test_a_redis_that_is_not_there_is_told_at_once() -> None:
    """With its address, without its password."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(BrokerUnavailableError, match=f"127.0.0.1:{port}.*does not answer") as raised:
        connect(f"redis://:secret@127.0.0.1:{port}/0", 3)
    assert "secret" not in str(raised.value)


def test_a_redis_that_is_silent_is_told_within_its_limit() -> None:
    """It accepts the connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begun = time.monotonic()
        with pytest.raises(BrokerUnavailableError, match="does not answer"):
            connect(f"redis://127.0.0.1:{silent.getsockname()[1]}/0", 1)
    assert time.monotonic() - begun < 4


@pytest.mark.parametrize("url", ["http://127.0.0.1", "nonsense"])
def test_an_address_that_is_no_redis_is_told(url: str) -> None:
    """Instead of a traceback."""
    with pytest.raises(BrokerUnavailableError, match="PACS_TASKS_REDIS_URL"):
        connect(url, 1)
