"""The studies and series that jobs expect at a receiver."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest
import redis

from pacs_tasks.connection import connect
from pacs_tasks.fleet.receivers import ExpectedSeries
from tests.support.waiting import wait_until

STUDY, SERIES = "1.2.3", "1.2.3.4"


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with connect(redis_url, 5) as running:
        yield running


@pytest.fixture
def expected(client: redis.Redis) -> ExpectedSeries:
    return ExpectedSeries(client)


def test_a_series_is_expected_at_one_receiver(expected: ExpectedSeries) -> None:
    """Not its study, not a series with a similar UID, and not at another receiver."""
    expected.expect("READING ROOM_1", STUDY, SERIES, "me", 60)
    assert expected.is_expected("READING ROOM_1", STUDY, SERIES)
    for study, series in ((STUDY, ""), (STUDY, f"{SERIES}.5"), (STUDY, SERIES[:-1]), ("1.2", SERIES), ("", "")):
        assert not expected.is_expected("READING ROOM_1", study, series), (study, series)
    assert not expected.is_expected("READING ROOM", STUDY, SERIES)


def test_a_study_is_expected_with_all_its_series(expected: ExpectedSeries) -> None:
    """Instances without a series belong to it; another study does not."""
    expected.expect("R", STUDY, "", "me", 60)
    assert expected.is_expected("R", STUDY, SERIES)
    assert expected.is_expected("R", STUDY, "")
    assert not expected.is_expected("R", f"{STUDY}.4", SERIES)


def test_an_owner_withdraws_only_its_own_expectation(expected: ExpectedSeries) -> None:
    """Others still expect the same series, or its whole study."""
    expected.expect("R", STUDY, SERIES, "me", 60)
    expected.expect("R", STUDY, SERIES, "you", 60)
    expected.expect("R", STUDY, "", "they", 60)
    for owner, series in (("me", SERIES), ("you", SERIES)):
        expected.withdraw("R", STUDY, series, owner)
        assert expected.is_expected("R", STUDY, SERIES)
    expected.withdraw("R", STUDY, "", "they")
    assert not expected.is_expected("R", STUDY, SERIES)


def test_an_expectation_expires(expected: ExpectedSeries, client: redis.Redis) -> None:
    """Each expires by itself, and in the end Redis is empty."""
    expected.expect("R", STUDY, SERIES, "dead", 0.2)
    expected.expect("R", STUDY, f"{SERIES}.5", "alive", 60)
    wait_until(lambda: not expected.is_expected("R", STUDY, SERIES), 5, "the first to expire")
    assert expected.is_expected("R", STUDY, f"{SERIES}.5")
    expected.expect("R", STUDY, f"{SERIES}.5", "alive", 0.2)
    wait_until(lambda: not cast("list[str]", client.keys("*")), 10, "Redis to be empty")


def test_an_expectation_is_renewed(expected: ExpectedSeries, client: redis.Redis) -> None:
    """A renewed expectation is kept once and for longer; an expired one leaves no trace."""
    expected.expect("R", STUDY, SERIES, "me", 0.1)
    expected.expect("R", STUDY, f"{SERIES}.5", "dead", 0.1)
    wait_until(lambda: not expected.is_expected("R", STUDY, f"{SERIES}.5"), 5, "both to expire")
    expected.expect("R", STUDY, SERIES, "me", 60)
    assert expected.is_expected("R", STUDY, SERIES)
    (name,) = cast("list[str]", client.keys("*"))
    assert client.zcard(name) == 1
    assert 50 < client.ttl(name) <= 62
