"""The number of associations that the tuning finds for PACS that differ, by a clock of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from pacs_tasks.connection import connect
from pacs_tasks.fleet.tuning import Moved, Tuning
from tests.support.model_pacs import ModelPACS, Service

#: Seconds of the model in which the number is found, and in which the rate counts.
FINDING, COUNTING = 10, 5


@pytest.fixture
def model(redis_url: str) -> Iterator[Callable[..., ModelPACS]]:
    client: redis.Redis = connect(redis_url, 5)

    def create(service: Service, first: int | None = None, **changes: Any) -> ModelPACS:
        """With ``first`` associations to begin with."""
        if first is not None:
            Tuning(client).begin_with("MODEL", first, 0.1)
        return ModelPACS(client, service, **changes)

    yield create
    client.close()


@pytest.mark.parametrize(
    "service",
    [
        lambda n: 0.001 + 0.005 * max(1, n / 8),
        lambda n: 0.02 + 0.001 * max(1, n / 32),
        lambda n: 0.1 + 0.0005 * n,
        lambda n: 0.05 * max(1, n / 12),
        lambda n: 0.01 * n,
        lambda n: 0.02 * (1 + 0.05 * (n - 1)),
        lambda n: 0.02 * (1 + 0.05 * (n - 1) ** 2),
        lambda n: 0.1 * (1 + (n / 6) ** 2),
        lambda n: 0.01 * n * n,
    ],
    ids=["8-at-once", "20-ms-line", "100-ms-line", "12-at-once", "one-at-once", "slower", "much-slower", "six", "one"],
)
def test_the_number_comes_near_the_best(model: Callable[..., ModelPACS], service: Service) -> None:
    """Within ten seconds, at least 90 % of what the best fixed number gives."""
    best = max(number / service(number) for number in range(1, 65))
    pacs = model(service)
    pacs.run(FINDING)
    assert pacs.run(COUNTING) >= 0.9 * best, pacs.history


def test_a_pacs_that_serves_one_at_a_time_gets_one(model: Callable[..., ModelPACS]) -> None:
    """More bring nothing, so there are no more."""
    pacs = model(lambda n: 0.01 * n)
    pacs.run(FINDING)
    assert pacs.number == 1


def test_workers_that_open_associations_slowly_find_the_best_number(model: Callable[..., ModelPACS]) -> None:
    """A number is judged once it is in use, however long that takes."""
    pacs = model(lambda n: 0.1, pause=0.1)
    pacs.run(FINDING)
    assert pacs.run(COUNTING) >= 0.9 * 60 / 0.1, pacs.history


def test_a_number_is_not_judged_while_what_it_adds_is_being_opened(model: Callable[..., ModelPACS]) -> None:
    """60 are not worse than 48 because only 50 are open yet, each a little slower meanwhile."""
    pacs = model(lambda n: 0.1, first=48)
    pacs.report(seconds=0.6, in_use=48, cycle=0.1)
    assert pacs.number == 60
    for opened in (50, 53):
        pacs.report(seconds=0.6, in_use=opened, cycle=0.105)
        assert pacs.number == 60, pacs.history
    pacs.report(seconds=0.6, in_use=58, cycle=0.1)
    pacs.report(seconds=0.6, in_use=58, cycle=0.1)
    assert [number for _, number in pacs.history] == [48, 60]


def test_a_pacs_that_slows_down_has_half_the_load(model: Callable[..., ModelPACS]) -> None:
    pacs = model(lambda n: 0.05 * max(1, n / 12))
    pacs.run(FINDING)
    before = pacs.number
    pacs.service = lambda n: 0.5 * max(1, n / 2)
    pacs.run(5)
    assert pacs.number <= before / 2, pacs.history


def test_a_pacs_that_is_fast_again_has_its_load_back(model: Callable[..., ModelPACS]) -> None:
    pacs = model(lambda n: 0.05 * max(1, n / 12))
    pacs.run(FINDING)
    pacs.service = lambda n: 0.5 * max(1, n / 2)
    pacs.run(20)
    pacs.service = lambda n: 0.05 * max(1, n / 12)
    pacs.run(70)
    assert pacs.run(COUNTING) >= 0.9 * 12 / 0.05, pacs.history


def test_a_remote_of_which_nothing_is_known_begins_with_what_opening_tells(redis_url: str) -> None:
    """All processes learn from it how far the remote is; what was measured stays."""
    with connect(redis_url, 5) as client:
        tuning = Tuning(client)
        tuning.begin_with("FAR", 32, 0.1)
        assert tuning.report("FAR", 64, "process", Moved(elapsed=0.1)).limit == 32
        assert tuning.response_time("FAR") == pytest.approx(0.1)
        tuning.begin_with("FAR", 16, 0.5)
        assert tuning.response_time("FAR") == pytest.approx(0.1)


def test_a_number_that_makes_the_remote_slow_is_given_up_before_it_is_in_use(model: Callable[..., ModelPACS]) -> None:
    pacs = model(lambda n: 0.1, first=48)
    pacs.report(seconds=0.6, in_use=48, cycle=0.1)
    pacs.report(seconds=0.8, in_use=50, cycle=0.15)
    assert [number for _, number in pacs.history] == [48, 60, 48]


def test_one_association_that_each_task_opens_anew_is_not_all_that_the_remote_accepts(
    model: Callable[..., ModelPACS],
) -> None:
    """It is in use for less than half of the time, and being opened for the rest: nobody waits for another to end."""
    pacs = model(lambda n: 0.1, first=1)
    pacs.report(seconds=10, in_use=0.4, opening=0.4, cycle=0.1)
    assert max(number for _, number in pacs.history) > 1, pacs.history


def test_a_large_ceiling_leaves_a_few_to_whoever_waits_for_a_single_answer(model: Callable[..., ModelPACS]) -> None:
    """An echo would wait until a file has ended and its association is released, over a far line 0.3 s."""
    pacs = model(lambda n: 0.1)
    pacs.run(30)
    assert max(number for _, number in pacs.history) == 60


def test_a_ceiling_holds(model: Callable[..., ModelPACS]) -> None:
    pacs = model(lambda n: 0.1, limit=10)
    pacs.run(30)
    assert max(number for _, number in pacs.history) == 10


def test_a_pacs_that_rejects_associations_gets_as_many_as_it_accepts(model: Callable[..., ModelPACS]) -> None:
    pacs = model(lambda n: 0.05, refuses=6)
    pacs.run(20)
    assert pacs.number == 6
    assert pacs.run(COUNTING) >= 0.9 * 6 / 0.05


@pytest.mark.parametrize("accepted", [1, 2])
def test_a_pacs_that_lets_associations_wait_gets_as_many_as_it_accepts(
    model: Callable[..., ModelPACS], accepted: int
) -> None:
    """Soon, and more are tried a minute later."""
    pacs = model(lambda n: 0.05, accepts=accepted)
    pacs.run(2)
    assert pacs.number == accepted, pacs.history
    pacs.run(50)
    assert pacs.number == accepted, pacs.history
    pacs.accepts = 10_000
    pacs.run(120)
    assert pacs.number >= 16, pacs.history


def test_the_number_stays_where_there_is_not_more_to_do(model: Callable[..., ModelPACS]) -> None:
    """Two processes that are busy themselves learn nothing about more associations."""
    pacs = model(lambda n: 0.02, most=2)
    pacs.run(30)
    assert {number for _, number in pacs.history} == {4}
