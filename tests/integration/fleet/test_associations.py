"""The association budget, on a real Redis: never more leases than allowed, and none that outlives its holder."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import pytest
import redis

from pacs_tasks.ae import RemoteAE
from pacs_tasks.connection import connect
from pacs_tasks.fleet import associations as budget_module
from pacs_tasks.fleet.associations import AssociationLeases, Associations, name_of
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
    """What is left in Redis."""
    return cast("list[str]", client.keys("*"))


def run_out(client: redis.Redis, kind: str, lease: str, remote: str = REMOTE) -> None:
    """Have the time go by that somebody has who gives no more sign of life: a lease, or a place in the line."""
    key = f"pacs_tasks:associations:{kind}:{remote}"
    if kind == "held":
        assert client.zadd(key, {lease: 1.0}, xx=True, ch=True) == 1
    else:
        _, since, limit = str(client.hget(key, lease)).split()
        client.hset(key, lease, f"1.0 {since} {limit}")


def test_no_more_leases_than_allowed(budget: AssociationLeases, client: redis.Redis) -> None:
    """Each remote for itself; asked twice, a lease is granted once; nothing stays when all are given back."""
    assert [granted(budget, lease) for lease in ("a", "b", "a", "c")] == [True, True, True, False]
    assert granted(budget, "c", remote="OTHER at 127.0.0.1:104")
    assert budget.in_use() == [
        Associations(remote="OTHER at 127.0.0.1:104", in_use=1, limit=2, waiting=0),
        Associations(remote=REMOTE, in_use=2, limit=2, waiting=0),
    ]
    budget.release(REMOTE, "a", 2)
    assert granted(budget, "c")
    for lease in ("b", "c"):
        budget.release(REMOTE, lease, 2)
    budget.release("OTHER at 127.0.0.1:104", "c", 2)
    assert budget.in_use() == []
    wait_until(lambda: not keys(client), 5, "nothing is left")


def test_whoever_waits_longest_is_woken_first(budget: AssociationLeases) -> None:
    """At once, and nobody who comes later is served before."""
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
        assert budget.in_use() == [Associations(remote=REMOTE, in_use=1, limit=1, waiting=3)]
        for holder, next_one in (("a", "b"), ("b", "c"), ("c", "d")):
            freed = time.monotonic()
            budget.release(REMOTE, holder, 1)
            assert not granted(budget, "late", 1)
            # Who is not woken waits for half a minute.
            assert waiting[ord(next_one) - ord("b")].result(30) - freed < 10
            assert budget.request(REMOTE, next_one, 1, wait=True).granted
        assert turns == ["b", "c", "d"]


def test_whoever_leaves_the_line_holds_up_nobody(budget: AssociationLeases) -> None:
    """It may leave in good order, or die."""
    assert granted(budget, "a", 1)
    for lease in ("left", "b"):
        assert not budget.request(REMOTE, lease, 1, wait=True).granted
    budget.release(REMOTE, "left", 1)
    budget.release(REMOTE, "a", 1)
    assert budget.request(REMOTE, "b", 1, wait=True).granted


def test_a_dead_one_in_the_line_is_forgotten(
    budget: AssociationLeases, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One who waits asks again twice a second."""
    assert granted(budget, "a", 1)
    assert not budget.request(REMOTE, "dead", 1, wait=True).granted
    assert budget.wanted(REMOTE)
    run_out(client, "waiting", "dead")
    budget.release(REMOTE, "a", 1)
    assert granted(budget, "b", 1)
    monkeypatch.setattr(budget_module, "_WAITER_LIFETIME", 0.3)
    assert not budget.request(REMOTE, "dead too", 1, wait=True).granted
    wait_until(lambda: not budget.wanted(REMOTE), 5, "the dead one is forgotten")


def test_a_lease_runs_out_unless_it_is_renewed(
    budget: AssociationLeases, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of a dead worker goes to the next; one that is in use all the same is taken again, above the limit."""
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
    wait_until(lambda: not keys(client), 10, "all have run out, and nothing is left")


def test_many_at_once_never_have_more_than_allowed(redis_url: str, budget: AssociationLeases) -> None:
    """Sixteen threads with connections of their own; what is granted is counted outside Redis."""
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


def test_a_place_at_which_the_remote_refused_rests(budget: AssociationLeases) -> None:
    """So a fleet does not storm a busy remote; who waits comes in when the rest is over."""
    assert granted(budget, "a", 1)
    begun = time.monotonic()
    budget.record_refusal(REMOTE, "a", 1, 5)
    assert not granted(budget, "b", 1)
    budget.record_refusal(REMOTE, "a", 1, 0.3)
    wait_until(lambda: granted(budget, "b", 1), 5, "the rest is over")
    answer = budget.request(REMOTE, "b", 1, wait=False)
    assert answer.refusing
    assert 0.2 < budget.refused_for(REMOTE, 0) < time.monotonic() - begun + 0.1
    assert budget.refused_for(REMOTE, time.time() + 60) == 0
    budget.record_acceptance(REMOTE)
    assert budget.refused_for(REMOTE, 0) == 0
    assert not budget.request(REMOTE, "b", 1, wait=False).refusing


def test_somebody_who_came_in_vain_is_remembered_for_a_moment(budget: AssociationLeases) -> None:
    """An idle association should not stand in the way of the next who comes."""
    assert granted(budget, "a", 1)
    assert not budget.wanted(REMOTE)
    wait_until(lambda: not granted(budget, "b", 1) and budget.wanted(REMOTE), 5, "it is remembered")
    wait_until(lambda: not budget.wanted(REMOTE), 5, "it is forgotten")


def test_parts_come_back_one_after_the_other(budget: AssociationLeases) -> None:
    """Few are soon back; many do not all come at once, and none stays away for long."""
    assert granted(budget, "a", 1)
    begun = time.monotonic()
    seconds = [budget.schedule_return(REMOTE, str(number), 25.0, one_of_many=True) for number in range(1_000)]
    took = time.monotonic() - begun
    assert seconds[0] == pytest.approx(25.0, abs=0.01)
    # Each a twentieth of a second after the one before, which is less from now by what has gone by since.
    assert 25.15 - took < seconds[4] < 25.25
    assert 29 < seconds[-1] <= 30
    assert budget.in_use()[0].waiting == 1_000
    assert budget.schedule_return("OTHER at 127.0.0.1:104", "a", 2.0, one_of_many=True) == pytest.approx(2.0, abs=0.1)


def test_a_single_answer_is_not_held_up_by_the_crowd(budget: AssociationLeases, client: redis.Redis) -> None:
    """It comes again when it wants to; who has come is not waited for any more."""
    assert granted(budget, "a", 1)
    for number in range(100):
        budget.schedule_return(REMOTE, str(number), 0.1, one_of_many=True)
    assert budget.schedule_return(REMOTE, "echo", 0.2) == pytest.approx(0.2, abs=0.01)

    def all_have_come() -> bool:
        budget.renew(REMOTE, ["a"], 1)
        return not budget.in_use()[0].waiting

    wait_until(all_have_come, 20, "all have come")
    budget.release(REMOTE, "a", 1)
    wait_until(lambda: not keys(client), 5, "nothing is left")


def test_a_remote_is_who_is_called_and_where() -> None:
    """A host name is the same in capitals; another AE title at the same address is another remote."""
    one = RemoteAE(ae_title="ONE", host="PACS.example")
    assert name_of(one) == name_of(RemoteAE(ae_title="ONE", host="pacs.EXAMPLE", max_associations=1))
    assert name_of(one) != name_of(RemoteAE(ae_title="TWO", host="PACS.example"))
