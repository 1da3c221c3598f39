"""Leases of associations on a real Redis: never more than allowed, and none outlives its holder."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import pytest
import redis

from pacs_tasks.ae import RemoteAE
from pacs_tasks.connection import connect
from pacs_tasks.fleet import leases as budget_module
from pacs_tasks.fleet.leases import (
    START,
    AssociationLeases,
    Associations,
    LeaseClass,
    lease_name,
    name_of,
    tuning_key,
)
from tests.support.waiting import wait_until

REMOTE = "PACS at 127.0.0.1:104"


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    found = connect(redis_url, 5)
    yield found
    found.close()


@pytest.fixture
def budget(client: redis.Redis) -> AssociationLeases:
    return AssociationLeases(client)


def granted(budget: AssociationLeases, lease: str, limit: int = 2, remote: str = REMOTE) -> bool:
    return budget.request(remote, lease, limit, wait=False).granted


def keys(client: redis.Redis) -> list[str]:
    """Every key in Redis."""
    return cast("list[str]", client.keys("*"))


def run_out(client: redis.Redis, kind: str, lease: str, remote: str = REMOTE) -> None:
    """Let a lease, or a place in the queue, expire."""
    key = f"pacs_tasks:associations:{kind}:{remote}"
    if kind == "held":
        assert client.zadd(key, {lease: 1.0}, xx=True, ch=True) == 1
    else:
        _, since, limit = str(client.hget(key, lease)).split()
        client.hset(key, lease, f"1.0 {since} {limit}")


def test_no_more_leases_than_allowed(budget: AssociationLeases, client: redis.Redis) -> None:
    """Each remote has its own. A lease requested twice is granted once. Nothing stays once all are released."""
    assert [granted(budget, lease) for lease in ("a", "b", "a", "c")] == [True, True, True, False]
    assert granted(budget, "c", remote="OTHER at 127.0.0.1:104")
    assert budget.in_use() == [
        Associations(remote="OTHER at 127.0.0.1:104", in_use=1, limit=2, waiting=0, ceiling=2),
        Associations(remote=REMOTE, in_use=2, limit=2, waiting=0, ceiling=2),
    ]
    budget.release(REMOTE, "a", 2)
    assert granted(budget, "c")
    for lease in ("b", "c"):
        budget.release(REMOTE, lease, 2)
    budget.release("OTHER at 127.0.0.1:104", "c", 2)
    assert budget.in_use() == []
    wait_until(lambda: not keys(client), 5, "Redis to be empty")


def test_whoever_waits_longest_is_woken_first(budget: AssociationLeases) -> None:
    """It is woken at once, before anybody who came later."""
    assert granted(budget, "a", 1)
    with ThreadPoolExecutor(3) as pool:
        turns: list[str] = []

        def wait(lease: str) -> float:
            assert budget.wait(lease, 30)
            turns.append(lease)
            return time.monotonic()

        waiting = []
        for lease in ("b", "c", "d"):
            assert not budget.request(REMOTE, lease, 1, wait=True).granted
            waiting.append(pool.submit(wait, lease))
        assert budget.in_use() == [Associations(remote=REMOTE, in_use=1, limit=1, waiting=3, ceiling=1)]
        for holder, next_one in (("a", "b"), ("b", "c"), ("c", "d")):
            freed = time.monotonic()
            budget.release(REMOTE, holder, 1)
            assert not granted(budget, "late", 1)
            # Without a wake-up call the wait takes half a minute.
            assert waiting[ord(next_one) - ord("b")].result(30) - freed < 10
            assert budget.request(REMOTE, next_one, 1, wait=True).granted
        assert turns == ["b", "c", "d"]


def test_whoever_leaves_the_queue_holds_up_nobody(budget: AssociationLeases) -> None:
    """The lease goes to the next in the queue."""
    assert granted(budget, "a", 1)
    for lease in ("left", "b"):
        assert not budget.request(REMOTE, lease, 1, wait=True).granted
    budget.release(REMOTE, "left", 1)
    budget.release(REMOTE, "a", 1)
    assert budget.request(REMOTE, "b", 1, wait=True).granted


def test_a_dead_waiter_is_forgotten(
    budget: AssociationLeases, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A waiting task requests its lease twice a second."""
    assert granted(budget, "a", 1)
    assert not budget.request(REMOTE, "dead", 1, wait=True).granted
    assert budget.wanted(REMOTE)
    run_out(client, "waiting", "dead")
    budget.release(REMOTE, "a", 1)
    assert granted(budget, "b", 1)
    monkeypatch.setattr(budget_module, "_WAITER_LIFETIME", 0.3)
    assert not budget.request(REMOTE, "dead too", 1, wait=True).granted
    wait_until(lambda: not budget.wanted(REMOTE), 5, "the dead waiter to be forgotten")


def test_a_lease_expires_unless_it_is_renewed(
    budget: AssociationLeases, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease of a dead worker goes to the next. One still in use is renewed, above the limit if need be."""
    assert granted(budget, "kept", 2)
    assert granted(budget, "dead", 2)
    answer = budget.request(REMOTE, "c", 2, wait=True)
    assert (answer.granted, 0 < answer.patience <= budget_module.LIFETIME) == (False, True)
    for lease in ("kept", "dead"):
        run_out(client, "held", lease)
    budget.renew(REMOTE, ["kept"], 2)
    assert budget.request(REMOTE, "c", 2, wait=True).granted
    assert not granted(budget, "d", 2)
    assert granted(budget, "d", 3)
    budget.renew(REMOTE, ["kept", "dead", "c", "d"], 2)
    assert budget.in_use()[0].in_use == 4
    assert not granted(budget, "e", 4)
    monkeypatch.setattr(budget_module, "LIFETIME", 0.5)
    budget.renew(REMOTE, ["kept", "dead", "c", "d"], 2)
    wait_until(lambda: not keys(client), 10, "every lease to expire")


def test_many_at_once_never_have_more_than_allowed(redis_url: str, budget: AssociationLeases) -> None:
    """Sixteen threads have connections of their own; the test counts the leases outside Redis."""
    lock, now, most = threading.Lock(), 0, 0

    def work(number: int) -> None:
        nonlocal now, most
        client = connect(redis_url, 5)
        own = AssociationLeases(client)
        for turn in range(20):
            lease = f"{number} {turn}"
            while not own.request(REMOTE, lease, 3, wait=True).granted:
                own.wait(lease, 0.5)
            with lock:
                now += 1
                most = max(most, now)
            with lock:
                now -= 1
            own.release(REMOTE, lease, 3)
        client.close()

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    assert most <= 3
    assert budget.in_use() == []


def test_a_lease_rests_after_a_refusal(budget: AssociationLeases) -> None:
    """A fleet must not storm a busy remote. A waiting task gets the lease once the rest is over."""
    assert granted(budget, "a", 1)
    begun = time.monotonic()
    budget.record_refusal(REMOTE, "a", 1, 5)
    assert not granted(budget, "b", 1)
    budget.record_refusal(REMOTE, "a", 1, 0.3)
    wait_until(lambda: granted(budget, "b", 1), 5, "the end of the rest")
    answer = budget.request(REMOTE, "b", 1, wait=False)
    assert answer.refusing
    assert 0.2 < budget.refused_for(REMOTE, 0) < time.monotonic() - begun + 0.1
    assert budget.refused_for(REMOTE, time.time() + 60) == 0
    budget.record_acceptance(REMOTE)
    assert budget.refused_for(REMOTE, 0) == 0
    assert not budget.request(REMOTE, "b", 1, wait=False).refusing


def test_an_unmet_request_is_remembered_for_a_moment(budget: AssociationLeases) -> None:
    """So an idle association is released for it."""
    assert granted(budget, "a", 1)
    assert not budget.wanted(REMOTE)
    wait_until(lambda: not granted(budget, "b", 1) and budget.wanted(REMOTE), 5, "the request to be remembered")
    wait_until(lambda: not budget.wanted(REMOTE), 5, "the request to be forgotten")


def test_parts_return_one_after_the_other(budget: AssociationLeases) -> None:
    """A few return soon, many do not return at once, and none stays away for long."""
    assert granted(budget, "a", 1)
    begun = time.monotonic()
    seconds = [budget.schedule_return(REMOTE, str(number), 25.0, one_of_many=True) for number in range(1_000)]
    took = time.monotonic() - begun
    assert seconds[0] == pytest.approx(25.0, abs=0.01)
    # Each returns a twentieth of a second after the one before.
    assert 25.15 - took < seconds[4] < 25.25
    assert 29 < seconds[-1] <= 30
    assert budget.in_use()[0].waiting == 1_000
    assert budget.schedule_return("OTHER at 127.0.0.1:104", "a", 2.0, one_of_many=True) == pytest.approx(2.0, abs=0.1)


def test_many_parts_do_not_delay_a_single_job(budget: AssociationLeases, client: redis.Redis) -> None:
    """It returns when it wants to, and a part that has returned does not count as waiting."""
    assert granted(budget, "a", 1)
    for number in range(100):
        budget.schedule_return(REMOTE, str(number), 0.1, one_of_many=True)
    assert budget.schedule_return(REMOTE, "echo", 0.2) == pytest.approx(0.2, abs=0.01)

    def all_returned() -> bool:
        budget.renew(REMOTE, ["a"], 1)
        return not budget.in_use()[0].waiting

    wait_until(all_returned, 20, "every part to return")
    budget.release(REMOTE, "a", 1)
    wait_until(lambda: not keys(client), 5, "Redis to be empty")


def test_a_single_answer_gets_an_association_beyond_the_tuned_number(
    budget: AssociationLeases, client: redis.Redis
) -> None:
    """A silent remote keeps its holders from giving one back. The ceiling, and a number that it refused, still hold."""

    def lease(lease_class: LeaseClass, job: str) -> str:
        return lease_name(lease_class, job, f"machine 1 {uuid.uuid4().hex}")

    bulk = [lease(LeaseClass.NORMAL, "bulk") for _ in range(START + 1)]
    assert [granted(budget, each, 64) for each in bulk] == [True] * START + [False]
    echoes = [lease(LeaseClass.STAT, f"echo{number}") for number in range(5)]
    assert [granted(budget, each, 64) for each in echoes] == [True] * 4 + [False]
    budget.release(REMOTE, echoes[0], 64)
    assert not granted(budget, lease(LeaseClass.STAT, "echo1"), 64)  # The job has one.
    assert not granted(budget, echoes[0], START + 3)
    client.hset(tuning_key(REMOTE), mapping={"limit": START, "refused": START + 1, "until": time.time() + 60})
    assert not granted(budget, echoes[0], 64)
    client.delete(tuning_key(REMOTE))
    assert granted(budget, echoes[0], 64)


def test_a_remote_is_an_ae_title_at_an_address() -> None:
    """Host names ignore case. Another AE title at the same address is another remote."""
    one = RemoteAE(ae_title="ONE", host="PACS.example")
    assert name_of(one) == name_of(RemoteAE(ae_title="ONE", host="pacs.EXAMPLE", max_associations=1))
    assert name_of(one) != name_of(RemoteAE(ae_title="TWO", host="PACS.example"))
