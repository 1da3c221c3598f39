"""Who gets an association on a real Redis: by class, evenly by job, and the lowest class now and then."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from pacs_tasks.connection import connect
from pacs_tasks.fleet.leases import AssociationLeases, LeaseClass, lease_name, tuning_key
from pacs_tasks.fleet.tuning import Moved, Trouble, Tuning
from tests.support.waiting import wait_until

REMOTE = "PACS at 127.0.0.1:104"
STAT, NORMAL, BULK = LeaseClass


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    found = connect(redis_url, 5)
    yield found
    found.close()


@pytest.fixture
def budget(client: redis.Redis) -> AssociationLeases:
    return AssociationLeases(client)


def leases(lease_class: LeaseClass, job: str, count: int) -> list[str]:
    return [lease_name(lease_class, job, f"node 1 {number:032x}") for number in range(count)]


def granted(budget: AssociationLeases, lease: str, limit: int) -> bool:
    """Whether a lease is granted; if not, its task waits."""
    return budget.request(REMOTE, lease, limit, wait=True).granted


def asked(budget: AssociationLeases, held: list[str], limit: int, age: float) -> list[str]:
    """Which holders are asked to give their lease back after so many seconds."""
    return [lease for lease in held if budget.must_yield(REMOTE, lease, limit, age)]


def test_a_higher_class_gets_an_association_at_once(budget: AssociationLeases) -> None:
    """One holder of the lowest class is asked for it, whatever job it belongs to, and only one."""
    held = [*leases(NORMAL, "normal", 1), *leases(BULK, "bulk job", 2)]
    assert all(granted(budget, lease, 3) for lease in held)
    assert asked(budget, held, 3, 9.0) == []
    (urgent,) = leases(STAT, "stat", 1)
    assert not granted(budget, urgent, 3)
    assert asked(budget, held, 3, 0.0) == [held[1]]
    budget.release(REMOTE, held[1], 3)
    assert granted(budget, urgent, 3)
    assert asked(budget, [*held, urgent], 3, 9.0) == []


def test_jobs_share_evenly(budget: AssociationLeases) -> None:
    """The job with more gives one up after a second, and no more once they have the same."""
    first, second = leases(NORMAL, "first", 4), leases(NORMAL, "second", 3)
    assert all(granted(budget, lease, 4) for lease in first)
    assert not any(granted(budget, lease, 4) for lease in second)
    assert asked(budget, first, 4, 0.9) == []
    assert asked(budget, first, 4, 1.0) == first[:2]
    for place in (0, 1):
        budget.release(REMOTE, first[place], 4)
        assert granted(budget, second[place], 4)
    assert not granted(budget, second[2], 4)
    assert asked(budget, [*first[2:], *second[:2]], 4, 9.0) == []


def test_a_free_lease_goes_to_the_highest_class_then_to_the_job_with_fewest(budget: AssociationLeases) -> None:
    """Then to the longest wait."""
    kept, first, more = leases(NORMAL, "one", 3)
    (held,), (other,) = leases(NORMAL, "holder", 1), leases(NORMAL, "other", 1)
    (bulk,), (urgent,) = leases(BULK, "bulk", 1), leases(STAT, "stat", 1)
    assert granted(budget, kept, 2)
    assert granted(budget, held, 2)
    waiting = [bulk, first, more, other, urgent]
    assert not any(granted(budget, lease, 2) for lease in waiting)
    for now in (urgent, other, first, more, bulk):
        budget.release(REMOTE, held, 2)
        assert [lease for lease in waiting if budget.wait(lease, 0.01)] == [now]
        held = now


def test_a_lower_class_has_its_turn(budget: AssociationLeases, client: redis.Redis) -> None:
    """It gets an association for a second in every fourteen of one association, however many of a higher class wait."""
    Tuning(client).begin_with(REMOTE, 64, 0.1)
    held, (waiting,), (bulk,) = leases(STAT, "stat", 64), leases(STAT, "other", 1), leases(BULK, "bulk", 1)
    assert all(granted(budget, lease, 64) for lease in held)
    assert not granted(budget, bulk, 64)
    wait_until(lambda: asked(budget, held[:1], 64, 1.0), 10, "a holder to be asked")
    assert asked(budget, held[1:], 64, 1.0) == []
    assert not granted(budget, waiting, 64)
    budget.release(REMOTE, held[0], 64)
    assert granted(budget, bulk, 64)
    assert not granted(budget, waiting, 64)
    assert asked(budget, [bulk], 64, 0.0) == []
    wait_until(lambda: granted(budget, waiting, 64) or asked(budget, [bulk], 64, 1.0), 10, "the end of the turn")


def test_holders_give_up_what_the_remote_does_not_bear(budget: AssociationLeases, client: redis.Redis) -> None:
    """When a remote shows trouble, as many holders are asked as there are too many."""
    tuning, held = Tuning(client), leases(NORMAL, "job", 4)
    assert all(granted(budget, lease, 64) for lease in held)
    tuned = tuning.report(REMOTE, 64, "one", Moved(elapsed=0.1), Trouble.BUSY)
    assert (tuned.limit, {group: list(ages) for group, ages in tuned.claims.items()}) == (2, {"1 job": [0, 0]})
    assert asked(budget, held, 64, 0.0) == held[:2]
    # Trouble within a second is the same trouble.
    assert tuning.report(REMOTE, 64, "one", Moved(elapsed=0.1), Trouble.BUSY).limit == 2
    for lease in held:
        budget.release(REMOTE, lease, 64)
    wait_until(lambda: client.keys("*") == [tuning_key(REMOTE)], 10, "nothing but the tuning to be left")
    assert int(client.memory_usage(tuning_key(REMOTE)) or 0) < 1000
