"""Ranges of dates and times, and their halves."""

from __future__ import annotations

import datetime

import pytest

from pacs_tasks.dimse.find.splitting import Span, span_of
from pacs_tasks.errors import InvalidRequestError

TODAY = datetime.date(2024, 6, 1)


@pytest.mark.parametrize(
    ("date", "first", "second"),
    [
        ("20240101-20240131", "20240101-20240116", "20240117-20240131"),
        ("20240101-20240102", "20240101", "20240102"),
        ("20240601-", "20240601", "20240602-"),
        ("-19000102", "-19000101", "19000102"),
        ("", "-19620318", "19620319-"),
        ("-", "-19620318", "19620319-"),
        ("20250101-", "20250101-60120701", "60120702-"),
    ],
)
def test_halves_meet_and_keep_open_ends(date: str, first: str, second: str) -> None:
    """The second starts on the day after the first; open ends stay open, so that no date is too old or too new."""
    halves = span_of(date, "").halves(TODAY)
    assert halves is not None
    assert tuple(half.date for half in halves) == (first, second)


def test_a_day_is_halved_by_its_time() -> None:
    """A day is halved down to one second; fractions of a second belong to the earlier half."""
    halves = span_of("20240115", "").halves(TODAY)
    assert halves is not None
    assert [(half.date, half.time) for half in halves] == [("20240115", "-115959.999999"), ("20240115", "12-")]
    span: Span | None = halves[1]
    depth = 0
    while span is not None and (further := span.halves(TODAY)):
        span, depth = further[0], depth + 1
    assert span is not None
    assert (span.time, depth) == ("12-120000.999999", 16)


def test_a_time_that_was_asked_for_is_kept() -> None:
    """Halves of a day stay within the time; halves of several days keep all of it."""
    days = span_of("20240101-20240102", "080000-100000").halves(TODAY)
    assert days is not None
    assert [half.time for half in days] == ["08-100000", "08-100000"]
    hours = days[0].halves(TODAY)
    assert hours is not None
    assert [half.time for half in hours] == ["08-090000.999999", "090001-100000"]


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        (Span(last=datetime.date(2024, 1, 1)), Span(first=datetime.date(2024, 1, 2)), True),
        (Span(), Span(first=datetime.date(2024, 1, 2)), False),
        (Span(TODAY, TODAY, end=5), Span(TODAY, TODAY, start=6), True),
        (Span(TODAY, TODAY), Span(TODAY, TODAY, start=6), False),
    ],
)
def test_ranges_are_apart_or_not(one: Span, other: Span, apart: bool) -> None:
    """The relation is symmetric."""
    assert one.apart_from(other) is other.apart_from(one) is apart


@pytest.mark.parametrize(("date", "time"), [("2024", ""), ("20240230", ""), ("20240101-", "08*"), ("20240101", "0800")])
def test_what_is_no_range_is_refused(date: str, time: str) -> None:
    """The message shows how to write the range."""
    with pytest.raises(InvalidRequestError, match="Write"):
        span_of(date, time)
