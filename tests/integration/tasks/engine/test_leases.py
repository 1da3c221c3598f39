"""The leases of one process: renewed while their holders live, and no hindrance while Redis is unavailable."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import pytest
import redis

from pacs_tasks.ae import RemoteAE
from pacs_tasks.connection import connect
from pacs_tasks.errors import BrokerUnavailableError, JobCancelledError, PeerBusyError
from pacs_tasks.fleet import leases as budget_module
from pacs_tasks.fleet.leases import AssociationLeases, name_of
from pacs_tasks.request import EchoRequest
from pacs_tasks.tasks.engine import background
from pacs_tasks.tasks.engine import claim as claim_module
from pacs_tasks.tasks.engine import leases as leases_module
from pacs_tasks.tasks.engine.leases import Lease, Leases
from tests.support.ports import free_port
from tests.support.waiting import wait_until

REMOTE = RemoteAE(max_associations=1)
REQUEST = EchoRequest(remote=REMOTE)
LIFETIME = 1.5
LIMIT = 20.0


@pytest.fixture
def budget(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[AssociationLeases]:
    """A budget whose clock runs ten times as fast, the heartbeat twenty times: a beat or two may come late."""
    monkeypatch.setattr(budget_module, "LIFETIME", LIFETIME)
    monkeypatch.setattr(claim_module, "_BEAT", 0.25)
    monkeypatch.setattr(claim_module, "_SILENCE", 2.0)
    monkeypatch.setattr(leases_module, "_PATIENCE", 0.3)
    client = connect(redis_url, 5)
    yield AssociationLeases(client)
    # A lease that a test has kept would be renewed by a client that is being closed.
    beating = claim_module.heartbeat()
    for held in set(beating._held):
        beating.forget(held)
    client.close()


def leases_over(budget: AssociationLeases) -> Leases:
    return Leases(lambda: budget._redis, lambda: budget._redis)


def never() -> bool:
    return False


def in_use(budget: AssociationLeases) -> int:
    return sum(each.in_use for each in budget.in_use())


def test_a_lease_lives_as_long_as_its_holder_shows_life(budget: AssociationLeases) -> None:
    """A holder that hangs loses its lease and has it again when it goes on."""
    leases = leases_over(budget)
    lease = leases.lease(REQUEST, "job", never, lambda _: None)
    look = lease.watched(never)
    until = time.monotonic() + 3 * LIFETIME
    wait_until(lambda: look() or in_use(budget) != 1 or time.monotonic() > until, 10, "three lifetimes", 0.05)
    assert in_use(budget) == 1
    wait_until(lambda: in_use(budget) == 0, 10, "the lease of one that hangs")
    assert look() is False
    wait_until(lambda: in_use(budget) == 1, 10, "it lives")
    leases.give_back(lease)
    assert in_use(budget) == 0


def test_an_idle_lease_needs_no_sign_of_life(budget: AssociationLeases, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keeper of an idle association ends it in time."""
    monkeypatch.setattr(claim_module, "_SILENCE", 0.1)
    leases = leases_over(budget)
    lease = leases.lease(REQUEST, "job", never, lambda _: None)
    lease.unwatched()
    until = time.monotonic() + 2 * LIFETIME
    wait_until(lambda: in_use(budget) != 1 or time.monotonic() > until, 10, "two lifetimes", 0.05)
    assert in_use(budget) == 1
    leases.give_back(lease)


def test_no_lease_in_time_is_told_and_leaves_nothing(budget: AssociationLeases) -> None:
    """The second part fails at once: work for other remotes comes first."""
    leases = leases_over(budget)
    held = leases.lease(REQUEST, "job", never, lambda _: None)
    asked: list[str] = []
    for _ in range(2):
        with pytest.raises(PeerBusyError, match=r"PACS at 127.0.0.1:11112 are in use: 1, of at most 1 "):
            leases.lease(REQUEST, "job", never, asked.append, one_of_many=True)
    assert asked == [name_of(REMOTE)] * 2
    with pytest.raises(JobCancelledError):
        leases.lease(REQUEST, "job", lambda: True, asked.append)
    assert [(each.in_use, each.waiting) for each in budget.in_use()] == [(1, 0)]
    leases.give_back(held)
    assert leases.lease(REQUEST, "job", never, asked.append).limit == 1


def test_no_more_parts_wait_than_can_be_of_use(budget: AssociationLeases, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others go back to the queue at once, so that the parts of other jobs come to their turn; a single task waits."""
    monkeypatch.setattr(leases_module, "_WAITING", 0)
    leases, asked = leases_over(budget), list[str]()
    with pytest.raises(PeerBusyError):
        leases.lease(REQUEST, "job", never, asked.append, one_of_many=True)
    assert (asked, in_use(budget)) == ([], 0)
    leases.give_back(leases.lease(REQUEST, "job", never, asked.append))


def test_a_part_that_is_not_next_gives_its_process_back_at_once(
    budget: AssociationLeases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits in the background: a silent PACS would keep each process from other work for a while, part by part."""
    monkeypatch.setattr(background, "_SOON", LIMIT)
    monkeypatch.setattr(leases_module, "_PATIENCE", LIMIT)
    leases = leases_over(budget)
    held = leases.lease(REQUEST, "job", never, lambda _: None)
    asked: list[str] = []

    def body() -> None:
        leases.give_back(cast(Lease, leases.lease(REQUEST, "job", never, asked.append, one_of_many=True)))

    def part() -> str | None:
        return cast("str | None", background.run(body, "job", lambda _: True, lambda: "ticket"))

    with ThreadPoolExecutor() as pool:
        first = pool.submit(part)
        wait_until(lambda: asked, LIMIT, "the first part waits for a lease")
        assert pool.submit(part).result(LIMIT / 2) == "ticket"
        assert not first.done()
        leases.give_back(held)
        assert first.result(LIMIT) is None
    assert background.end_all(LIMIT)
    assert in_use(budget) == 0


def test_what_the_process_lets_go_it_gets(budget: AssociationLeases) -> None:
    """An idle association with other contexts makes room for the one needed."""
    leases = leases_over(budget)
    idle = leases.lease(REQUEST, "job", never, lambda _: None)
    leases.lease(REQUEST, "job", never, lambda _: leases.give_back(idle))
    assert in_use(budget) == 1


def test_nobody_is_asked_for_more_than_was_needed(budget: AssociationLeases) -> None:
    """Idle associations are released for one that the remote does not accept at once, until it has accepted it."""
    leases = leases_over(budget)
    lease = leases.lease(REQUEST, "job", never, lambda _: None)
    leases.want(lease)
    assert leases.wanted(lease.remote)
    leases.accepted(lease)
    assert not leases.wanted(lease.remote)
    leases.give_back(lease)


def test_nothing_waits_for_a_redis_that_is_away(budget: AssociationLeases) -> None:
    """The association in use goes on, and its lease expires by itself."""

    def away() -> redis.Redis:
        return connect(f"redis://127.0.0.1:{free_port()}/0", 0.5)

    with pytest.raises(BrokerUnavailableError):
        away()
    leases = Leases(lambda: budget._redis, away)
    lease = leases.lease(REQUEST, "job", never, lambda _: None)
    assert not leases.wanted(lease.remote)
    leases.accepted(lease)
    leases.give_back(lease)
    wait_until(lambda: in_use(budget) == 0, 10, "it runs out by itself")
