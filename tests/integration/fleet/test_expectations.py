"""What jobs expect at a receiver: known to it, by study or series, until they no longer expect it."""

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
    """Not its study, not another series, nor one whose UID begins in the same way, and not elsewhere."""
    expected.expect("READING ROOM_1", STUDY, SERIES, "me", 60)
    assert expected.is_expected("READING ROOM_1", STUDY, SERIES)
    for study, series in ((STUDY, ""), (STUDY, f"{SERIES}.5"), (STUDY, SERIES[:-1]), ("1.2", SERIES), ("", "")):
        assert not expected.is_expected("READING ROOM_1", study, series), (study, series)
    assert not expected.is_expected("READING ROOM", STUDY, SERIES)


def test_a_study_is_expected_with_all_its_series(expected: ExpectedSeries) -> None:
    """Also with what names no series; another study is not."""
    expected.expect("R", STUDY, "", "me", 60)
    assert expected.is_expected("R", STUDY, SERIES)
    assert expected.is_expected("R", STUDY, "")
    assert not expected.is_expected("R", f"{STUDY}.4", SERIES)


def test_who_forgets_forgets_for_himself(expected: ExpectedSeries) -> None:
    """Others expect the same series, or its whole study, until they forget it themselves."""
    expected.expect("R", STUDY, SERIES, "me", 60)
    expected.expect("R", STUDY, SERIES, "you", 60)
    expected.expect("R", STUDY, "", "they", 60)
    for owner, series in (("me", SERIES), ("you", SERIES)):
        expected.withdraw("R", STUDY, series, owner)
        assert expected.is_expected("R", STUDY, SERIES)
    expected.withdraw("R", STUDY, "", "they")
    assert not expected.is_expected("R", STUDY, SERIES)


def test_it_runs_out(expected: ExpectedSeries, client: redis.Redis) -> None:
    """Each by itself: what is expected for longer stays, and in the end nothing is left in Redis."""
    expected.expect("R", STUDY, SERIES, "dead", 0.2)
    expected.expect("R", STUDY, f"{SERIES}.5", "alive", 60)
    wait_until(lambda: not expected.is_expected("R", STUDY, SERIES), 5, "the first to run out")
    assert expected.is_expected("R", STUDY, f"{SERIES}.5")
    expected.expect("R", STUDY, f"{SERIES}.5", "alive", 0.2)
    wait_until(lambda: not cast("list[str]", client.keys("*")), 10, "Redis to be empty")


def test_it_is_prolonged(expected: ExpectedSeries, client: redis.Redis) -> None:
    """Who expects it once more expects it for longer, and leaves no second trace; what has run out leaves none."""
    expected.expect("R", STUDY, SERIES, "me", 0.1)
    expected.expect("R", STUDY, f"{SERIES}.5", "dead", 0.1)
    wait_until(lambda: not expected.is_expected("R", STUDY, f"{SERIES}.5"), 5, "both to run out")
    expected.expect("R", STUDY, SERIES, "me", 60)
    assert expected.is_expected("R", STUDY, SERIES)
    (name,) = cast("list[str]", client.keys("*"))
    assert client.zcard(name) == 1
    assert 50 < client.ttl(name) <= 62
