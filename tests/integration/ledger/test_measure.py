"""What jobs have done, for those who watch the fleet: each outcome counts once, and no number decreases."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pacs_tasks.ae import LocalAE
from pacs_tasks.client.broker import Broker
from pacs_tasks.connection import connect
from pacs_tasks.errors import PeerBusyError
from pacs_tasks.fleet.leases import name_of
from pacs_tasks.fleet.outages import MOST_FAILURES, Outages
from pacs_tasks.fleet.pace import HoursWait, HoursWaits
from pacs_tasks.fleet.receivers import Receiver, announce
from pacs_tasks.fleet.response_times import ResponseTimes
from pacs_tasks.fleet.webhooks import Webhooks
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.ledger.keys import job_key
from pacs_tasks.ledger.manifest import FileLine
from pacs_tasks.metrics import exposition
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome
from pacs_tasks.outcome.instance import Status, StatusCategory, Suboperations
from pacs_tasks.outcome.single import MoveOutcome
from pacs_tasks.request import StoreDirectoryRequest
from pacs_tasks.settings import Settings

ABOUT = "send-dir\tsent\tPACS at 10.0.0.1:104"
REQUEST = StoreDirectoryRequest(directory="/data")


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    with connect(redis_url, 5) as client:
        yield Ledger(client, keep_jobs=60)


def begun(ledger: Ledger, lines: int, job_id: str = "job") -> None:
    ledger.open(job_id, REQUEST.task, REQUEST)
    ledger.start(job_id, "worker", ABOUT)
    ledger.manifest.plan(job_id, (FileLine(f"/data/{index}", 10) for index in range(lines)), "worker")


def outcome(category: InstanceCategory) -> InstanceOutcome:
    return InstanceOutcome(subject="/data/0", category=category, size=10)


def of(ledger: Ledger, name: str) -> int:
    return ledger.measure().get(f"{ABOUT}\t{name}", 0)


SENT, FAILED = outcome(InstanceCategory.SUCCESS), outcome(InstanceCategory.FAILED)


def test_an_outcome_counts_once_while_its_job_runs_and_after(ledger: Ledger) -> None:
    begun(ledger, 3)
    for _ in range(2):
        ledger.record("job", 0, SENT)
    assert (of(ledger, "success"), of(ledger, "bytes"), of(ledger, "ended success")) == (1, 10, 0)
    ledger.record("job", 1, SENT)
    ledger.record("job", 2, FAILED)
    assert (of(ledger, "success"), of(ledger, "failed"), of(ledger, "ended partial")) == (2, 1, 1)
    assert sum(of(ledger, f"within {place}") for place in range(1, 13)) == 1


def test_a_retry_adds_what_it_does(ledger: Ledger) -> None:
    """What failed before has failed, although the job's own counters forget it."""
    begun(ledger, 2)
    ledger.record("job", 0, SENT)
    ledger.record("job", 1, FAILED)
    ledger.reopen("job")
    assert (of(ledger, "success"), of(ledger, "failed")) == (1, 1)
    ledger.start("job", "worker", ABOUT)
    ledger.claims.count_attempt("job", 1)
    assert (of(ledger, "success"), of(ledger, "failed"), of(ledger, "retries")) == (1, 1, 1)
    ledger.record("job", 1, SENT)
    assert (of(ledger, "success"), of(ledger, "failed"), of(ledger, "retries")) == (2, 1, 1)
    assert (of(ledger, "ended partial"), of(ledger, "ended success")) == (1, 1)


def test_what_is_recorded_after_the_end_counts(ledger: Ledger) -> None:
    """A job may give up while its parts are at work."""
    begun(ledger, 2)
    ledger.record("job", 0, SENT)
    ledger.fail("job", PeerBusyError("no association"))
    ledger.record("job", 1, SENT)
    assert (of(ledger, "success"), of(ledger, "bytes"), of(ledger, "ended failed")) == (2, 20, 1)


def test_bytes_have_the_category_of_their_instance(ledger: Ledger) -> None:
    """Also those of a retry, and of what is recorded after the end."""
    warned = outcome(InstanceCategory.WARNING)
    begun(ledger, 3)
    ledger.record("job", 0, SENT)
    ledger.record("job", 1, warned)
    assert shown(ledger, "pacs_tasks_bytes_total", "category") == {"success": 10, "warning": 10}
    ledger.record("job", 2, FAILED)
    ledger.reopen("job")
    assert shown(ledger, "pacs_tasks_bytes_total", "category") == {"success": 10, "warning": 10}
    ledger.start("job", "worker", ABOUT)
    ledger.fail("job", PeerBusyError("no association"))
    ledger.record("job", 2, warned)
    assert shown(ledger, "pacs_tasks_bytes_total", "category") == {"success": 10, "warning": 20}


def test_response_times_of_all_processes_are_added(ledger: Ledger) -> None:
    one, other = ResponseTimes(lambda: ledger.client), ResponseTimes(lambda: ledger.client)
    for seconds in (0.001, 0.003, 0.02, 400.0):
        one.note(REQUEST.remote, "C-STORE", seconds)
    other.note(REQUEST.remote, "C-STORE", 0.02)
    for each in (one, one, other):
        each.add(name_of(REQUEST.remote))
    buckets = shown(ledger, "pacs_tasks_dimse_seconds_bucket", "le")
    assert (buckets["0.003"], buckets["0.01"], buckets["0.03"], buckets["300"], buckets["+Inf"]) == (2, 2, 4, 4, 5)
    assert shown(ledger, "pacs_tasks_dimse_seconds_sum", "service") == {"C-STORE": pytest.approx(400.044)}
    assert shown(ledger, "pacs_tasks_jobs_ended_total", "category") == {}, "they are no jobs"


def test_a_remote_that_is_down_is_shown_with_the_jobs_that_wait_for_it(ledger: Ledger) -> None:
    outages = Outages(ledger.client)
    for _ in range(MOST_FAILURES):
        outages.record_failure("PACS", LocalAE(), REQUEST.remote, "no answer")
    for job in ("one", "two"):
        begun(ledger, 1, job)
        assert outages.park("PACS", job, 60)
    assert shown(ledger, "pacs_tasks_parked_jobs", "remote") == {"PACS": 2}
    assert 0 <= shown(ledger, "pacs_tasks_remote_down_seconds", "remote")["PACS"] < 60


def test_webhooks_that_were_given_up_are_counted(ledger: Ledger) -> None:
    webhooks = Webhooks(ledger.client)
    webhooks.want()
    begun(ledger, 1)
    ledger.record("job", 0, SENT)
    webhooks.plan(1, "job", {"one": "{}", "other": "{}"})
    assert webhooks.count_given_up() == 0
    webhooks.note_failure(webhooks.find(webhooks.all()[0].id), "HTTP status 410.", None)
    assert "pacs_tasks_webhooks_given_up 1.0" in exposition(ledger.client).decode()
    webhooks.retry(next(each for each in webhooks.all() if each.given_up))
    assert webhooks.count_given_up() == 0


def test_a_job_with_one_answer_counts_its_suboperations(ledger: Ledger) -> None:
    begun(ledger, 0)
    status = Status(code=0xB000, category=StatusCategory.WARNING, meaning="")
    ledger.finish("job", MoveOutcome(status=status, suboperations=Suboperations(completed=4, failed=1)))
    assert (of(ledger, "success"), of(ledger, "failed"), of(ledger, "ended partial")) == (4, 1, 1)


def test_strangers_do_not_fill_redis_with_remotes(ledger: Ledger) -> None:
    """Beyond some number, all that are new count as one."""
    pipe = ledger.client.pipeline()
    for number in range(20_000):
        pipe.hset("pacs_tasks:metrics", f"echo\t\tX at {number}\tended success", 1)
    pipe.execute()
    begun(ledger, 1)
    ledger.record("job", 0, SENT)
    assert of(ledger, "success") == 0
    assert ledger.measure()["send-dir\tsent\t(others)\tsuccess"] == 1


def shown(ledger: Ledger, name: str, label: str) -> dict[str, float]:
    """The largest values of a metric by one of its labels."""
    families = text_string_to_metric_families(exposition(ledger.client).decode())
    samples = [each for family in families for each in family.samples if each.name == name]
    return {each.labels[label]: each.value for each in sorted(samples, key=lambda each: each.value)}


def test_failures_are_counted_from_0_on(ledger: Ledger) -> None:
    """Otherwise nobody would see an increase when the first job to a remote fails."""
    begun(ledger, 1)
    receiver = Receiver(ae_title="US", host="10.0.0.2", port=104, directory="/data", token="t", tls=False)
    announce(ledger.client, receiver)
    endings = ("success", "warning", "partial", "failed", "cancelled")
    assert shown(ledger, "pacs_tasks_jobs_ended_total", "category") == dict.fromkeys(endings, 0)
    received = ("expected", "unsolicited", "refused")
    assert shown(ledger, "pacs_tasks_receiver_instances_total", "category") == dict.fromkeys(received, 0)


def _retried(ledger: Ledger) -> None:
    ledger.fail("job", PeerBusyError("busy"))
    ledger.reopen("job")


def _back(ledger: Ledger) -> None:
    outages = Outages(ledger.client)
    for _ in range(MOST_FAILURES):
        outages.record_failure("PACS", LocalAE(), REQUEST.remote, "no answer")
    assert outages.park("PACS", "job", 60)
    assert outages.end("PACS") == ["job"]


def _in_hours(ledger: Ledger) -> None:
    waits = HoursWaits(ledger.client)
    waits.add(HoursWait("job", "PACS", 0.0), "until 22:00")
    assert waits.end("job")


@pytest.mark.parametrize("enqueue", [_retried, _back, _in_hours])
def test_a_job_that_goes_back_to_its_queue_has_waited_from_then_on(
    ledger: Ledger, enqueue: Callable[[Ledger], None]
) -> None:
    """The age of its message is not that of the job, which may have been enqueued days ago."""
    begun(ledger, 1)
    created = ledger.progress("job").created
    ledger.client.hset(job_key("job"), mapping={"created": created - 1000, "started": created - 900})
    broker = Broker(ledger.client, Settings())
    # Another service has written the first one, whose age is not known.
    broker.publish(REQUEST.task, "unknown")
    broker.publish(REQUEST.task, "job")
    assert max(shown(ledger, "pacs_tasks_oldest_message_seconds", "queue").values()) >= 1000
    enqueue(ledger)
    assert max(shown(ledger, "pacs_tasks_oldest_message_seconds", "queue").values()) < 900
