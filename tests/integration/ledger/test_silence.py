"""Claims outlive a silence of Redis, in which nobody could renew them, and those of dead workers do not."""

from __future__ import annotations

from typing import cast

import pytest

from pacs_tasks.ledger.claims import CLAIM_LIFETIME, Presence
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.ledger.keys import SILENT_SINCE, WORKERS, job_key
from tests.support.recording import planned

NAME = "0-9"


@pytest.fixture
def job(ledger: Ledger) -> str:
    """A job with a claim of one worker, while another runs too."""
    job = planned(ledger, 9)
    Presence(ledger.client).renew("one")
    Presence(ledger.client).renew("other")
    assert ledger.claims.claim(job, NAME, "one")
    return job


def passes(ledger: Ledger, job: str, seconds: float, *others: str) -> None:
    """Pretend that so many seconds have passed without a renewal, but for the presence of ``others``."""
    for key in (WORKERS, job_key(job, "claims")):
        for member, text in cast("dict[str, str]", ledger.client.hgetall(key)).items():
            expiry, _, value = text.partition(" ")
            ledger.client.hset(key, member, f"{float(expiry) - seconds:.3f} {value}")
    for other in others:
        Presence(ledger.client).renew(other)


def ends(ledger: Ledger) -> None:
    """Pretend that the lifetime of a claim has passed since the silence ended."""
    assert 0 < ledger.client.pttl(SILENT_SINCE) <= 1000 * CLAIM_LIFETIME
    ledger.client.delete(SILENT_SINCE)


def test_a_claim_holds_for_a_lifetime_after_redis_was_silent(ledger: Ledger, job: str) -> None:
    """Its owner had no way to renew it, and may be at work."""
    passes(ledger, job, 30)
    assert not ledger.claims.claim(job, NAME, "two"), "no worker has been seen yet"
    Presence(ledger.client).renew("other")
    assert not ledger.claims.claim(job, NAME, "two")
    assert not ledger.claims.claim(job, "", "two"), "nor the whole job"
    assert ledger.claims.count(job) == 1
    ledger.cancel(job)
    assert not ledger.settle(job), "an owner may have outcomes to record"
    ends(ledger)
    assert ledger.claims.claim(job, NAME, "two") == 2
    assert not ledger.claims.claim(job, NAME, "one")


def test_an_owner_goes_on_after_redis_was_silent(ledger: Ledger, job: str) -> None:
    passes(ledger, job, 30)
    Presence(ledger.client).renew("other")
    assert ledger.claims.claim(job, NAME, "one") == 1
    ends(ledger)
    assert not ledger.claims.claim(job, NAME, "two")


def test_a_claim_of_a_dead_worker_is_taken_over_as_soon_as_it_expires(ledger: Ledger, job: str) -> None:
    """The other worker was there all the time."""
    passes(ledger, job, 7.7, "other")
    passes(ledger, job, 7.7, "other")
    assert not ledger.client.exists(SILENT_SINCE)
    assert ledger.claims.claim(job, NAME, "two") == 2


def test_a_claim_that_had_expired_before_redis_was_silent_is_taken_over(ledger: Ledger, job: str) -> None:
    passes(ledger, job, 7.7, "other")
    passes(ledger, job, 7.7, "other")
    passes(ledger, job, 30, "other")
    assert ledger.client.exists(SILENT_SINCE)
    assert ledger.claims.claim(job, NAME, "two") == 2


def test_after_the_death_of_all_workers_a_new_one_takes_over_at_once(ledger: Ledger, job: str) -> None:
    passes(ledger, job, 30, "new")
    assert ledger.claims.claim(job, NAME, "two") == 2


def test_workers_that_died_are_forgotten(ledger: Ledger, job: str) -> None:
    """They count as running for some seconds, and are remembered for minutes."""
    passes(ledger, job, 30)
    assert not Presence(ledger.client).any()
    passes(ledger, job, 0, "new")
    assert ledger.client.hlen(WORKERS) == 3
    passes(ledger, job, 600, "new")
    assert ledger.client.hkeys(WORKERS) == ["new"]
    assert Presence(ledger.client).any()
