"""The studies and series that jobs expect at a receiver."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest
import redis

from pacs_tasks.connection import connect
from pacs_tasks.fleet.receivers import ExpectedSeries
from pacs_tasks.fleet.senders import Expectation, Stranger
from tests.support.waiting import wait_until

STUDY, SERIES = "1.2.3", "1.2.3.4"


def by(owner: str) -> Expectation:
    """What an owner expects from one PACS."""
    return Expectation(owner=owner, addresses=("10.0.0.1",), ae_titles=("PACS",), originator="ME", message_id=1)


def owners(expected: ExpectedSeries, receiver: str, study: str, series: str) -> list[str]:
    """Who expects a series."""
    return sorted(each.owner for each in expected.expectations(receiver, study, series))


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with connect(redis_url, 5) as running:
        yield running


@pytest.fixture
def expected(client: redis.Redis) -> ExpectedSeries:
    return ExpectedSeries(client)


def test_a_series_is_expected_at_one_receiver(expected: ExpectedSeries) -> None:
    """Not its study, not a series with a similar UID, and not at another receiver."""
    expected.expect("READING ROOM_1", STUDY, SERIES, by("me"), 60)
    assert owners(expected, "READING ROOM_1", STUDY, SERIES)
    for study, series in ((STUDY, ""), (STUDY, f"{SERIES}.5"), (STUDY, SERIES[:-1]), ("1.2", SERIES), ("", "")):
        assert not owners(expected, "READING ROOM_1", study, series), (study, series)
    assert not owners(expected, "READING ROOM", STUDY, SERIES)


def test_a_study_is_expected_with_all_its_series(expected: ExpectedSeries) -> None:
    """Instances without a series belong to it; another study does not."""
    expected.expect("R", STUDY, "", by("me"), 60)
    assert owners(expected, "R", STUDY, SERIES)
    assert owners(expected, "R", STUDY, "")
    assert not owners(expected, "R", f"{STUDY}.4", SERIES)


def test_an_owner_withdraws_only_its_own_expectation(expected: ExpectedSeries) -> None:
    """Others still expect the same series, or its whole study."""
    expected.expect("R", STUDY, SERIES, by("me"), 60)
    expected.expect("R", STUDY, SERIES, by("you"), 60)
    expected.expect("R", STUDY, "", by("they"), 60)
    for owner, series in (("me", SERIES), ("you", SERIES)):
        expected.withdraw("R", STUDY, series, by(owner))
        assert owners(expected, "R", STUDY, SERIES)
    expected.withdraw("R", STUDY, "", by("they"))
    assert not owners(expected, "R", STUDY, SERIES)


def test_an_expectation_expires(expected: ExpectedSeries, client: redis.Redis) -> None:
    """Each expires by itself, and in the end Redis is empty."""
    expected.expect("R", STUDY, SERIES, by("dead"), 0.2)
    expected.expect("R", STUDY, f"{SERIES}.5", by("alive"), 60)
    wait_until(lambda: not owners(expected, "R", STUDY, SERIES), 5, "the first to expire")
    assert owners(expected, "R", STUDY, f"{SERIES}.5")
    expected.expect("R", STUDY, f"{SERIES}.5", by("alive"), 0.2)
    wait_until(lambda: not cast("list[str]", client.keys("*")), 10, "Redis to be empty")


def test_an_expectation_is_renewed(expected: ExpectedSeries, client: redis.Redis) -> None:
    """A renewed expectation is kept once and for longer; an expired one leaves no trace."""
    expected.expect("R", STUDY, SERIES, by("me"), 0.1)
    expected.expect("R", STUDY, f"{SERIES}.5", by("dead"), 0.1)
    wait_until(lambda: not owners(expected, "R", STUDY, f"{SERIES}.5"), 5, "both to expire")
    expected.expect("R", STUDY, SERIES, by("me"), 60)
    assert owners(expected, "R", STUDY, SERIES)
    (name,) = cast("list[str]", client.keys("*"))
    assert client.zcard(name) == 1
    assert 50 < client.ttl(name) <= 62


def test_an_expectation_without_a_sender_accepts_nobody(expected: ExpectedSeries, client: redis.Redis) -> None:
    """A worker of an older version records only its owner."""
    client.zadd("pacs_tasks:expected:R", {f"{STUDY} {SERIES} celery@old 1 2 3": 9e12})
    assert not expected.expectations("R", STUDY, SERIES)
    expected.expect("R", STUDY, SERIES, by("me"), 60)
    assert expected.expectations("R", STUDY, SERIES) == (by("me"),)


def test_strangers_are_told_to_the_owner(expected: ExpectedSeries, client: redis.Redis) -> None:
    """Each once, and not for ever."""
    stranger = Stranger(ae_title="NODE2", address="10.0.0.2", settings=('receive_from = ["10.0.0.2"]',))
    for _ in range(2):
        expected.record_stranger("me", stranger)
    assert expected.strangers("me") == (stranger,)
    assert not expected.strangers("you")
    (key,) = cast("list[str]", client.keys("*"))
    assert 0 < client.ttl(key) <= 3600
