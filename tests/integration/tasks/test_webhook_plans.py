"""Which event each end of a job has, whatever becomes of the job before the event is made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from pacs_tasks.connection import connect
from pacs_tasks.errors import PeerUnreachableError
from pacs_tasks.fleet.webhooks import Webhooks
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.ledger.keys import Scripts, job_key
from pacs_tasks.request import EchoRequest
from pacs_tasks.schema import JobEnded, JobEvent
from pacs_tasks.settings.values import Webhook
from pacs_tasks.tasks.webhooks import PAUSES, deliver, plan_deliveries
from tests.support.interleaving import interrupt
from tests.support.recording import half_done

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
WEBHOOKS = {"ris": Webhook(url="https://ris.example/", secret=SECRET, patients=True)}
#: More commands than a worker sends until it has planned one end.
COMMANDS = 14


@pytest.fixture
def found(ledger: Ledger) -> Webhooks:
    """The deliveries of a Redis in which the ends of jobs are noted."""
    webhooks = Webhooks(ledger.client)
    webhooks.want()
    return webhooks


def events(found: Webhooks) -> Iterator[JobEnded]:
    """Give what the planned deliveries say."""
    for delivery in found.all():
        yield JobEvent.model_validate_json(found.body(delivery)).data


def kept(ledger: Ledger) -> list[Any]:
    return list(ledger.client.scan_iter("pacs_tasks:webhooks:end:*"))


@pytest.mark.parametrize("before", range(COMMANDS))
def test_a_retry_changes_no_event_of_an_end(ledger: Ledger, redis_url: str, found: Webhooks, before: int) -> None:
    """It may come before any command of the worker that makes the event."""
    job = half_done(ledger)
    with closing(connect(redis_url, 5)) as client:
        commands = interrupt(client, before, lambda: ledger.reopen(job))
        plan_deliveries(Ledger(client), Webhooks(client), WEBHOOKS, {})
        assert next(commands) <= COMMANDS
    (event,) = events(found)
    assert (event.state, event.category, event.attempt, event.error) == ("done", "partial", 1, "")
    assert (event.summary["success"], event.summary["failed"]) == (1, 1)
    assert event.request == ledger.request(job).model_dump(mode="json", exclude_none=True)
    assert kept(ledger) == []


def test_outcomes_that_a_retry_drops_are_in_the_event(ledger: Ledger, found: Webhooks) -> None:
    """Also if whoever retries dies before the job is queued again."""
    job = half_done(ledger)
    parts = ("", "recorded", "problems", "attempts", "matches")
    Scripts(ledger.client).run("jobs/drop", [job_key(job, part) for part in parts], [1])
    plan_deliveries(ledger, found, WEBHOOKS, {})
    (event,) = events(found)
    assert (event.category, event.summary["failed"]) == ("partial", 1)


def test_each_end_has_its_event(ledger: Ledger, found: Webhooks) -> None:
    """A job that failed, was retried and cancelled, retried again and is under way."""
    ledger.open("echo", EchoRequest.task, EchoRequest())
    ledger.start("echo", "worker")
    ledger.fail("echo", PeerUnreachableError("The remote is not there."))
    ledger.reopen("echo")
    ledger.cancel("echo")
    ledger.reopen("echo")
    assert len(kept(ledger)) == 2
    plan_deliveries(ledger, found, WEBHOOKS, {})
    first, second = sorted(events(found), key=lambda each: each.attempt)
    assert (first.state, first.category, first.error) == ("failed", "failed", "The remote is not there.")
    assert (second.state, second.category, second.error_type) == ("cancelled", "cancelled", "JobCancelledError")
    assert kept(ledger) == []


def test_a_purged_job_has_no_event(ledger: Ledger, found: Webhooks) -> None:
    """Nothing of it is left, and nothing of another job is deleted."""
    for job_id in ("purged", "other"):
        ledger.reopen(half_done(ledger, job_id))
        ledger.cancel(job_id)
    found.purge(["purged"])
    assert len(kept(ledger)) == 1
    plan_deliveries(ledger, found, WEBHOOKS, {})
    assert [each.job_id for each in events(found)] == ["other", "other"]


def test_ends_that_cannot_be_read_hold_up_no_other(ledger: Ledger, found: Webhooks) -> None:
    """The keys of a hundred older jobs are missing, and what is written at a key is no job."""
    for number in range(100):
        job = half_done(ledger, f"locked{number}")
        ledger.client.hset(job_key(job), "sealed_key", "0badc0de.x")
    odd = half_done(ledger, "odd")
    ledger.client.delete(job_key(odd))
    ledger.client.set(job_key(odd), "no job")
    half_done(ledger)
    unread: dict[tuple[int, str], float] = {}
    plan_deliveries(ledger, found, WEBHOOKS, unread)
    assert [each.job_id for each in events(found)] == ["job"]
    assert len(unread) == 101


def test_an_end_that_could_not_be_read_is_tried_again(ledger: Ledger, found: Webhooks) -> None:
    """Not with each look, and forgotten once it is planned."""
    job = half_done(ledger)
    ledger.client.hset(job_key(job), "sealed_key", "0badc0de.x")
    unread: dict[tuple[int, str], float] = {}
    plan_deliveries(ledger, found, WEBHOOKS, unread)
    ledger.client.hdel(job_key(job), "sealed_key")
    plan_deliveries(ledger, found, WEBHOOKS, unread)
    assert not list(events(found))
    unread[1, job] = 0.0
    plan_deliveries(ledger, found, WEBHOOKS, unread)
    assert [each.job_id for each in events(found)] == [job]
    plan_deliveries(ledger, found, WEBHOOKS, unread)
    assert unread == {}


def test_a_worker_that_does_not_know_a_webhook_gives_no_delivery_up(ledger: Ledger, found: Webhooks) -> None:
    """Another one may, as while the workers of a fleet restart one by one."""
    half_done(ledger)
    plan_deliveries(ledger, found, WEBHOOKS, {})
    for tries in range(len(PAUSES) + 1):
        (delivery,) = found.all()
        assert (delivery.tries, delivery.given_up) == (tries, False)
        deliver(found, delivery, {})
    (delivery,) = found.all()
    assert delivery.given_up
    assert delivery.error == "The settings of the worker have no webhook of this name."
