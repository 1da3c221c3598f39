"""The ledger on a real Redis: each outcome counts once, each job ends once."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from pacs_tasks.connection import connect
from pacs_tasks.dimse.status import store_status
from pacs_tasks.errors import (
    InvalidRequestError,
    JobNotFoundError,
    JobNotReadyError,
    PeerUnavailableError,
)
from pacs_tasks.ledger.finding import find
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.ledger.manifest import FileLine
from pacs_tasks.ledger.outcomes import Instances
from pacs_tasks.outcome import (
    Category,
    EchoOutcome,
    InstanceCategory,
    InstanceOutcome,
    JobState,
    Status,
    StatusCategory,
    TransferOutcome,
)
from pacs_tasks.request import EchoRequest, FindRequest
from tests.support.recording import FAILED, REQUEST, SENT, planned

#: The keys of a job: the job itself, its manifest, its bitmap of outcomes, and its receipts.
EVERY_KEY = 4


def test_a_job_opens_once(ledger: Ledger) -> None:
    """A redelivered task must not start its job again."""
    assert ledger.open("job", REQUEST.task, REQUEST)
    assert not ledger.open("job", EchoRequest.task, EchoRequest())
    assert ledger.request("job") == REQUEST
    assert ledger.progress("job").state is JobState.QUEUED


def test_an_outcome_counts_once(ledger: Ledger) -> None:
    """A file recorded twice is one file, and the first outcome counts."""
    job = planned(ledger, 2)
    assert ledger.record(job, 0, SENT).new
    assert not ledger.record(job, 0, FAILED).new
    counters = ledger.progress(job).counters
    assert (counters.success, counters.failed, counters.bytes) == (1, 0, 10)


def test_workers_that_record_at_the_same_time_count_right_and_end_the_job_once(ledger: Ledger) -> None:
    """Sixteen threads record each of 300 files twice."""
    job = planned(ledger, 300)
    with ThreadPoolExecutor(16) as pool:
        told = list(pool.map(lambda index: ledger.record(job, index % 300, SENT), range(600)))
    assert sum(each.new for each in told) == 300
    assert sum(each.ended for each in told) == 1
    assert ledger.progress(job).state is JobState.DONE
    assert ledger.progress(job).counters.success == 300


def test_the_first_manifest_is_kept(ledger: Ledger) -> None:
    """A redelivered planner must not change the manifest of running parts."""
    job = planned(ledger, 2)
    assert ledger.manifest.plan(job, [FileLine("/other", 1)] * 5, "second worker") == 2
    assert ledger.manifest.lines(job, 0, 9) == [FileLine("/data/0", 10), FileLine("/data/1", 10)]


def test_a_cancelled_job_ends_when_nobody_works_on_it(ledger: Ledger) -> None:
    """Not before: the file that a worker is sending still arrives."""
    job = planned(ledger, 3)
    assert ledger.claims.claim(job, "0-1", "worker")
    assert ledger.cancel(job) is JobState.RUNNING
    assert ledger.record(job, 0, SENT).cancelled
    ledger.claims.release(job, "0-1", "worker")
    assert ledger.settle(job)
    assert ledger.progress(job).state is JobState.CANCELLED
    outcome = ledger.outcome(job)
    assert isinstance(outcome, TransferOutcome)
    assert (outcome.category, outcome.counters.success) == (Category.CANCELLED, 1)


def test_a_queued_job_is_cancelled_at_once(ledger: Ledger) -> None:
    """No worker works on it."""
    ledger.open("job", REQUEST.task, REQUEST)
    assert ledger.cancel("job") is JobState.CANCELLED
    assert ledger.start("job", "worker") is JobState.CANCELLED


def test_a_job_that_finished_stays_done_when_cancelled_too_late(ledger: Ledger) -> None:
    """Everything was sent."""
    job = planned(ledger, 1)
    ledger.record(job, 0, SENT)
    assert ledger.cancel(job) is JobState.DONE


def test_a_claim_belongs_to_one_owner_until_it_is_released(ledger: Ledger) -> None:
    """Its owner may renew it."""
    assert ledger.claims.claim("job", "0-9", "one")
    assert not ledger.claims.claim("job", "0-9", "two")
    assert ledger.claims.claim("job", "0-9", "one")
    ledger.claims.release("job", "0-9", "two")
    assert ledger.claims.count("job") == 1
    ledger.claims.release("job", "0-9", "one")
    assert ledger.claims.claim("job", "0-9", "two")


def test_a_line_is_suspected_only_if_its_owner_died(ledger: Ledger) -> None:
    ledger.claims.claim("job", "0-9", "one")
    ledger.claims.record_begun("job", "0-9", 5)
    ledger.claims.release("job", "0-9", "one")
    assert ledger.claims.suspect("job", "0-9") is None
    ledger.claims.claim("job", "0-9", "one")
    ledger.claims.record_begun("job", "0-9", 5)
    assert ledger.claims.owner("job", "0-9") == "one"
    assert ledger.claims.suspect("job", "0-9") == (5, 1)


def test_the_tries_of_a_part_are_recorded_with_the_pause_after_them(ledger: Ledger) -> None:
    assert ledger.claims.tries("job", "0-9") == (0, 0.0)
    ledger.claims.record_try("job", "0-9", 2, 60.0)
    tries, left = ledger.claims.tries("job", "0-9")
    assert tries == 2
    assert 0 < left <= 60


def test_a_planner_whose_parts_are_published_is_told_once(ledger: Ledger) -> None:
    ledger.record_fan_out("job")
    assert [ledger.is_fanned_out("job") for _ in range(2)] == [True, False]


def test_the_owner_of_a_whole_scope_is_alone_there(ledger: Ledger) -> None:
    """As for a study and its series. The owner's other claims do not conflict."""
    assert ledger.claims.claim("study", "series 1", "one")
    assert not ledger.claims.claim("study", "", "two")
    assert ledger.claims.claim("study", "", "one")
    assert not ledger.claims.claim("study", "series 2", "two")
    assert ledger.claims.claim("another", "series 2", "two")
    for name in ("", "series 1"):
        ledger.claims.release("study", name, "one")
    assert ledger.claims.claim("study", "", "two")
    assert not ledger.claims.claim("study", "series 1", "one")
    ledger.claims.release("study", "", "two")
    assert ledger.claims.claim("study", "series 1", "one")


def test_an_unknown_job_is_an_error(ledger: Ledger) -> None:
    """Celery would report it as pending for ever."""
    for look in (ledger.progress, ledger.request, ledger.cancel, ledger.reopen, ledger.outcome):
        with pytest.raises(JobNotFoundError, match="no job 'nothing'"):
            look("nothing")


@pytest.mark.parametrize("name", ["", "../x", "job:manifest", "job:claims", "a\nb", "\udcff", "x" * 100_000])
def test_an_id_of_strange_form_is_an_unknown_job(ledger: Ledger, name: str) -> None:
    """Whatever a user types, the message is short, and no id reads a key that is not a job."""
    ledger.claims.claim(planned(ledger, 2), "0-1", "worker")
    for look in (ledger.progress, ledger.request, ledger.cancel, ledger.reopen, ledger.outcome):
        with pytest.raises(JobNotFoundError, match="There is no job") as raised:
            look(name)
        assert len(str(raised.value)) < 200


def test_an_outcome_for_an_expired_job_leaves_nothing_behind(ledger: Ledger) -> None:
    """The reply stops its part."""
    assert ledger.record("gone", 0, SENT).cancelled
    assert not list(ledger.client.scan_iter("*gone*"))


def test_a_running_job_does_not_expire(ledger: Ledger) -> None:
    """Its time to live counts from its end, however long it runs."""
    job = planned(ledger, 2)
    ledger.client.expire(f"pacs_tasks:job:{job}", 5)
    ledger.standstills.check(job, 100)
    assert int(str(ledger.client.ttl(f"pacs_tasks:job:{job}"))) > 5


def test_a_failed_job_raises_its_error_again(ledger: Ledger) -> None:
    """With its class, message and subject."""
    ledger.open("job", REQUEST.task, REQUEST)
    with pytest.raises(JobNotReadyError):
        ledger.outcome("job")
    ledger.fail("job", PeerUnavailableError("cannot connect", "/private"))
    with pytest.raises(PeerUnavailableError, match="/private: cannot connect"):
        ledger.outcome("job")


def test_a_single_outcome_is_kept_whole(ledger: Ledger) -> None:
    """It is read as it was recorded, and the first one counts."""
    outcome = EchoOutcome(status=Status(code=0, category=StatusCategory.SUCCESS, meaning="success"), seconds=0.1)
    ledger.open("job", EchoRequest.task, EchoRequest())
    ledger.finish("job", outcome)
    ledger.fail("job", PeerUnavailableError("too late"))
    assert ledger.outcome("job") == outcome


def test_jobs_are_listed_newest_first_and_forgotten_when_they_expire(redis_url: str) -> None:
    """The index lists no expired job."""
    client = connect(redis_url, 5)
    ledger = Ledger(client, keep_jobs=60)
    for job_id in ("first", "second", "third"):
        ledger.open(job_id, FindRequest.task, FindRequest())
    assert ledger.standstills.unfinished_jobs() == ["first", "second", "third"]
    client.delete("pacs_tasks:job:second")
    assert [each.job_id for each in ledger.jobs(10)] == ["third", "first"]
    assert ledger.standstills.unfinished_jobs() == ["first", "third"]


def test_every_key_of_a_job_expires(ledger: Ledger) -> None:
    """Nothing is kept for ever."""
    job = planned(ledger, 1)
    ledger.record(job, 0, SENT)
    keys = [key for key in ledger.client.scan_iter("pacs_tasks:job:*") if "claims" not in key]
    assert len(keys) == EVERY_KEY
    assert all(0 < int(str(ledger.client.ttl(key))) <= 60 for key in keys)


def test_an_outcome_is_read_as_it_was_recorded(ledger: Ledger) -> None:
    """Whether it was written short or whole."""
    plain = store_status(0x0000)
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


@pytest.fixture
def three(ledger: Ledger) -> Ledger:
    """A ledger with three jobs: an echo is the newest."""
    for job_id in ("1f38aa", "1f38bb", "2*7"):
        planned(ledger, 1, job_id)
    ledger.open("1f39", EchoRequest.task, EchoRequest())
    return ledger


@pytest.mark.parametrize(
    ("named", "tasks", "found"),
    [
        ("1f38aa", (), "1f38aa"),
        ("1f38b", (), "1f38bb"),
        ("2", (), "2*7"),
        ("2*", (), "2*7"),
        ("last", (), "1f39"),
        ("last", {REQUEST.task}, "2*7"),
    ],
)
def test_a_job_is_found_by_a_unique_beginning_or_as_the_last(
    three: Ledger, named: str, tasks: set[str], found: str
) -> None:
    assert find(three.client, named, tasks) == found


@pytest.mark.parametrize("named", ["", "*", "1f38*", "1F", "[12]", "lastly", "?f38aa", "2*7:manifest", "a\nb"])
def test_no_pattern_is_the_beginning_of_an_id(three: Ledger, named: str) -> None:
    with pytest.raises(JobNotFoundError):
        find(three.client, named)


def test_a_beginning_that_several_ids_have_is_no_job(three: Ledger) -> None:
    """Nothing may be cancelled by chance. A job that has expired does not count, and an exact id always does."""
    with pytest.raises(InvalidRequestError, match="2 jobs have an id that begins with '1f38'"):
        find(three.client, "1f38")
    planned(three, 1, "1f38")
    assert find(three.client, "1f38") == "1f38"
    three.client.delete("pacs_tasks:job:1f38", "pacs_tasks:job:1f38bb")
    assert find(three.client, "1f38") == "1f38aa"


def test_the_last_of_no_jobs_is_not_found(ledger: Ledger) -> None:
    with pytest.raises(JobNotFoundError, match=r"There is no job yet\."):
        find(ledger.client, "last")
    ledger.open("1f39", EchoRequest.task, EchoRequest())
    with pytest.raises(JobNotFoundError, match=r"There is no job of these commands: send-dir\."):
        find(ledger.client, "last", {REQUEST.task})


def test_a_retry_counts_what_it_does_beside_what_was_done_before(ledger: Ledger) -> None:
    """Its speed is not that of all bytes in its own time."""
    job = planned(ledger, 4)
    for index, each in enumerate((SENT, FAILED, FAILED, SENT)):
        ledger.record(job, index, each)
    ledger.reopen(job)
    ledger.start(job, "worker")
    for index in (1, 2):
        ledger.record(job, index, SENT)
    outcome = ledger.outcome(job)
    assert isinstance(outcome, TransferOutcome)
    now = outcome.counters.since(outcome.earlier)
    assert (outcome.counters.success, outcome.counters.total, outcome.counters.bytes) == (4, 4, 40)
    assert (now.success, now.total, now.failed, now.bytes) == (2, 2, 0, 20)
    assert ledger.progress(job).earlier == outcome.earlier
