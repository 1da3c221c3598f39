"""Tokens and waits for hours, on a real Redis."""

from __future__ import annotations

import time

import pytest

from pacs_tasks.ae import RemoteAE
from pacs_tasks.fleet.pace import LATENESS, LONGEST_AWAY, NOTHING, Amount, HoursWait, HoursWaits, TokenBuckets
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.ledger.keys import server_time
from pacs_tasks.request import StoreDirectoryRequest
from pacs_tasks.settings.pace import Pace

NAME = "ARCHIVE at storage.example:104"
REQUEST = StoreDirectoryRequest(remote=RemoteAE(), directory="/data")
FIVE = Pace(instances=5)
#: What rounding to microseconds loses.
ROUNDING = 0.001


@pytest.fixture
def buckets(ledger: Ledger) -> TokenBuckets:
    return TokenBuckets(ledger.client)


def begins(buckets: TokenBuckets, pace: Pace, wanted: Amount, owed: Amount = NOTHING) -> float:
    """Take tokens with all patience; the latest time at which the work may begin."""
    reply = buckets.take(NAME, pace, wanted, owed, float("inf"))
    assert reply.granted
    return time.monotonic() + reply.seconds


@pytest.mark.parametrize(
    ("pace", "wanted", "spacing"),
    [
        (FIVE, Amount(1), 0.2),
        (Pace(instances=1000), Amount(50), 0.05),
        (Pace(bytes=1000), Amount(3, 400), 0.4),
        # The slower one of both counts.
        (Pace(instances=10, bytes=1000), Amount(1, 500), 0.5),
        (Pace(instances=10, bytes=1000), Amount(10, 500), 1.0),
    ],
)
def test_tokens_are_never_due_too_early(buckets: TokenBuckets, pace: Pace, wanted: Amount, spacing: float) -> None:
    """Whoever asks how fast: the work of each begins after that of all before it."""
    first = time.monotonic()
    for number in range(20):
        assert begins(buckets, pace, wanted) >= first + number * spacing - ROUNDING


def test_both_limits_count_in_turn(buckets: TokenBuckets) -> None:
    """Many small instances keep to the one, large ones to the other."""
    pace, first = Pace(instances=10, bytes=1000), time.monotonic()
    for _ in range(10):
        begins(buckets, pace, Amount(1, 1))
        begins(buckets, pace, Amount(1, 1000))
    # 20 instances take 2 s, 10,010 bytes take 10.01 s.
    assert begins(buckets, pace, Amount(1, 1)) >= first + 10.01 - ROUNDING


def test_without_patience_nothing_is_taken(buckets: TokenBuckets) -> None:
    """Those that are refused return one after the other, and nobody is sent away for long."""
    begins(buckets, FIVE, Amount(10))
    returns = []
    for _ in range(3):
        reply = buckets.take(NAME, FIVE, Amount(1), NOTHING, 0.1)
        assert not reply.granted
        returns.append(time.monotonic() + reply.seconds)
    assert returns[1] - returns[0] == pytest.approx(0.2, abs=0.15)
    assert returns[2] - returns[1] == pytest.approx(0.2, abs=0.15)
    assert begins(buckets, FIVE, Amount(1)) <= time.monotonic() + 2
    for _ in range(100):
        assert buckets.take(NAME, FIVE, Amount(1), NOTHING, 0).seconds <= LONGEST_AWAY


def test_what_was_not_used_is_given_back(buckets: TokenBuckets) -> None:
    """And what was done without tokens is paid afterwards."""
    first = time.monotonic()
    begins(buckets, FIVE, Amount(10))
    begins(buckets, FIVE, NOTHING, NOTHING - Amount(9))
    now = time.monotonic()
    assert begins(buckets, FIVE, Amount(1)) <= now + 0.2 + ROUNDING + (time.monotonic() - now)
    assert begins(buckets, FIVE, Amount(1), Amount(5)) >= first + 1.4 - ROUNDING


def test_lateness_is_caught_up(buckets: TokenBuckets, ledger: Ledger) -> None:
    """But only that of a moment: a long pause gives no more."""
    ledger.client.hset(f"pacs_tasks:pace:tokens:{NAME}", "instances", server_time(ledger.client) - 60)
    first = time.monotonic()
    assert [buckets.take(NAME, FIVE, Amount(1), NOTHING, 0) for _ in range(2)] == [(True, 0)] * 2
    for number in range(2, 20):
        assert begins(buckets, FIVE, Amount(1)) >= first + number * 0.2 - LATENESS - ROUNDING


def test_a_bucket_is_forgotten_when_it_is_full(buckets: TokenBuckets, ledger: Ledger) -> None:
    """So nothing of a remote that nobody works with stays in Redis."""
    begins(buckets, FIVE, Amount(10))
    (key,) = ledger.client.scan_iter("pacs_tasks:pace:tokens:*")
    assert 1 <= ledger.client.ttl(key) <= 4


def test_a_job_waits_for_hours_until_one_worker_ends_that(ledger: Ledger) -> None:
    """Its progress has the time; a job that was cancelled does not go on."""
    waits = HoursWaits(ledger.client)
    for job_id in ("one", "two"):
        ledger.open(job_id, REQUEST.task, REQUEST)
        ledger.start(job_id, "worker")
        waits.add(HoursWait(job_id, NAME, 1_800_000_000.0), "until 22:00 (Europe/Berlin)")
    seen = ledger.progress("one")
    assert (seen.waiting_for, seen.waiting_until) == (NAME, 1_800_000_000.0)
    assert seen.waiting_reason == "until 22:00 (Europe/Berlin)"
    assert sorted(each.job_id for each in waits.all()) == ["one", "two"]
    assert {each.remote for each in waits.all()} == {NAME}
    assert not ledger.standstills.check("one", 0.0)
    assert waits.end("one")
    assert not waits.end("one")
    assert (ledger.progress("one").waiting_for, ledger.progress("one").waiting_until) == ("", None)
    ledger.cancel("two")
    assert ledger.progress("two").waiting_until is None
    assert not waits.end("two")
    assert not waits.all()
