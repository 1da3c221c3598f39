"""The pace of a remote: the hours in which it takes bulk jobs, and what it takes a second."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from functools import cache
from typing import NamedTuple

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_HOURS = re.compile(r"(?:(?P<days>.*\S)\s+)?(?P<begin>\d\d?:\d\d)\s*-\s*(?P<end>\d\d?:\d\d)")
_DAY = 24 * 60
#: Days in which the next opening is searched: an hour that a change of the clock leaves out comes a week later.
_SEARCHED_DAYS = 15
_UNITS = {"": 1, "B": 1, "KB": 1000, "MB": 1000**2, "GB": 1000**3}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMG]?B)?", re.IGNORECASE)


class Window(NamedTuple):
    """Hours of some days of the week. One that ends when it begins, or earlier, ends the next day."""

    #: The days on which it begins; Monday is 0.
    days: frozenset[int]
    #: Minutes of the day.
    begin: int
    end: int

    def holds(self, day: int, minute: int) -> bool:
        if self.begin < self.end:
            return day in self.days and self.begin <= minute < self.end
        return (day in self.days and minute >= self.begin) or ((day - 1) % 7 in self.days and minute < self.end)


@dataclass(frozen=True)
class Hours:
    """Hours of the week, by the clock on the wall of the remote.

    An hour that the clock shows twice in autumn counts twice, and one that it leaves out in spring does not come.
    """

    #: As :func:`parse_window` reads them.
    windows: tuple[Window, ...]
    #: The name of a time zone; None is that of this machine.
    time_zone: str | None = None

    def hold(self, at: float) -> bool:
        """Return whether a time, in Unix seconds, is within the hours."""
        now = self._local(at)
        return any(window.holds(now.weekday(), now.hour * 60 + now.minute) for window in self.windows)

    def begin(self, at: float) -> float:
        """Return when the next of these hours begin, in Unix seconds, at a time outside of them."""
        first = int(at) // 60 * 60
        last = first + _SEARCHED_DAYS * _DAY * 60
        return next((minute for minute in range(first, last, 60) if self.hold(minute)), last)

    def written(self, at: float, seen_at: float) -> str:
        """Write a time for people, with its day if that is another one, and its time zone if that is named."""
        then, now = self._local(at), self._local(seen_at)
        day = "" if then.date() == now.date() else f"{_DAYS[then.weekday()].capitalize()} "
        return f"{day}{then:%H:%M}" + (f" ({self.time_zone})" if self.time_zone else "")

    def _local(self, at: float) -> datetime:
        return datetime.fromtimestamp(at, zone_of(self.time_zone) if self.time_zone else None)


@dataclass(frozen=True)
class Pace:
    """How fast, and when, a remote takes work; None is not limited."""

    #: How many a second.
    instances: float | None = None
    bytes: float | None = None
    #: The hours of bulk jobs.
    hours: Hours | None = None

    @property
    def limited(self) -> bool:
        """Whether instances or bytes are limited."""
        return self.instances is not None or self.bytes is not None

    def __str__(self) -> str:
        each = []
        if self.instances is not None:
            each.append(f"{self.instances:g} instance{'' if self.instances == 1 else 's'} a second")
        if self.bytes is not None:
            each.append(f"{_short(self.bytes)} a second")
        return ", ".join(each)


def _short(size: float) -> str:
    unit = next(unit for unit in ("GB", "MB", "KB", "B") if size >= _UNITS[unit] or unit == "B")
    return f"{size / _UNITS[unit]:g} {unit.replace('K', 'k')}"


def parse_window(text: str) -> Window:
    """Read hours such as ``22:00-06:00``, after the days on which they begin: ``sat,sun 00:00-24:00``.

    Raises
    ------
    ValueError
        With what is wrong in it.
    """
    found = _HOURS.fullmatch(text.strip().lower())
    if found is None:
        raise ValueError(f"{text!r} names no hours; write them as 22:00-06:00, or as sat,sun 00:00-24:00")
    begin, end = _minute(found["begin"], _DAY - 1), _minute(found["end"], _DAY)
    if begin == end:
        raise ValueError(f"{text!r} ends when it begins; write 00:00-24:00 for a whole day")
    return Window(_days(found["days"] or "mon-sun"), begin, end)


def _minute(text: str, most: int) -> int:
    hour, minute = map(int, text.split(":"))
    if minute > 59 or hour * 60 + minute > most:
        raise ValueError(f"{text} is not a time of the day; write 00:00 to 23:59, or 24:00 where hours end")
    return hour * 60 + minute


def _days(text: str) -> frozenset[int]:
    found = set[int]()
    for each in re.split(r"\s*,\s*", text):
        first, _, last = each.partition("-")
        begin, end = _day(first.strip()), _day((last or first).strip())
        found |= {day % 7 for day in range(begin, (end if end >= begin else end + 7) + 1)}
    return frozenset(found)


def _day(text: str) -> int:
    if text not in _DAYS:
        raise ValueError(f"{text!r} is not a day; write mon, tue, wed, thu, fri, sat or sun, with commas or as mon-fri")
    return _DAYS.index(text)


def check_hours(value: Sequence[str]) -> Sequence[str]:
    """Check the hours of bulk jobs."""
    if not value:
        raise ValueError("this names no hours; leave it out if bulk jobs may run at any time")
    for each in value:
        parse_window(each)
    return value


@cache
def zone_of(name: str) -> tzinfo:
    """Return the time zone of a name.

    Raises
    ------
    ValueError
        If there is none.
    """
    # It would add to the start of each command.
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError):
        raise ValueError(f"{name!r} is not a time zone; write one such as Europe/Berlin") from None


def check_time_zone(value: str) -> str:
    """Check the name of a time zone."""
    zone_of(value)
    return value


def parse_size(value: object) -> object:
    """Read a number of bytes such as ``20MB``; a megabyte has a million bytes."""
    if not isinstance(value, str):
        return value
    found = _SIZE.fullmatch(value.strip())
    if found is None:
        raise ValueError(f"{value!r} is not a number of bytes; write one such as 20MB, 500kB or 1000000")
    return float(found[1]) * _UNITS[(found[2] or "").upper()]
