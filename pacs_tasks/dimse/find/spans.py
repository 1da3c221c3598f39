"""Ranges of dates and times that can be halved (PS3.4 section C.2.2.2.5)."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass, replace

from pacs_tasks.errors import InvalidRequestError

#: Where halving begins in a range without a beginning; its first half stays open, so nothing older is lost.
EARLIEST = datetime.date(1900, 1, 1)
_LAST_SECOND = 86_399
_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Span:
    """Days from ``first`` to ``last``, and on a single day seconds from ``start`` to ``end``, all inclusive.

    None leaves an end open. ``whole`` says that the fractions of the last second are in it.
    """

    first: datetime.date | None = None
    last: datetime.date | None = None
    start: int | None = None
    end: int | None = None
    whole: bool = False

    @property
    def date(self) -> str:
        """The value of the date's key."""
        if self.first is not None and self.first == self.last:
            return _day(self.first)
        return f"{_day(self.first)}-{_day(self.last)}" if self.first or self.last else ""

    @property
    def time(self) -> str:
        """The value of the time's key.

        Some peers compare times as texts: the later half begins with as few digits as it can, so that "12" is in it,
        and the earlier one ends with fractions of its last second.
        """
        if self.start is None and self.end is None:
            return ""
        fractions = ".999999" if self.whole else ""
        return f"{_short(self.start)}-{'' if self.end is None else _clock(self.end) + fractions}"

    def halves(self, today: datetime.date) -> tuple[Span, Span] | None:
        """The two halves of this; None where it cannot be halved."""
        if self.first is not None and self.first == self.last:
            return self._halves_of_the_day()
        tomorrow = today + _DAY
        late = self.last or (datetime.date.max if self.first and self.first > today else tomorrow)
        early = self.first or (EARLIEST if late > EARLIEST else datetime.date.min)
        if early >= late:
            return None
        middle = early + (late - early) // 2
        return replace(self, last=middle), replace(self, first=middle + _DAY)

    def _halves_of_the_day(self) -> tuple[Span, Span] | None:
        start, end = self.start or 0, _LAST_SECOND if self.end is None else self.end
        if start >= end:
            return None
        middle = (start + end) // 2
        return replace(self, end=middle, whole=True), replace(self, start=middle + 1)

    def apart_from(self, other: Span) -> bool:
        """Whether nothing can be in both."""
        return _before(self.last, other.first) or _before(other.last, self.first) or (
            self.first == other.first and (_before(self.end, other.start) or _before(other.end, self.start))
        )  # fmt: skip


def _before(one: datetime.date | int | None, other: datetime.date | int | None) -> bool:
    return one is not None and other is not None and one < other  # type: ignore[operator]


def _day(day: datetime.date | None) -> str:
    return "" if day is None else day.isoformat().replace("-", "")


def _clock(second: int) -> str:
    return f"{second // 3600:02}{second // 60 % 60:02}{second % 60:02}"


def _short(second: int | None) -> str:
    if second is None:
        return ""
    text = _clock(second)
    while len(text) > 2 and text.endswith("00"):
        text = text[:-2]
    return text


def span_of(date: str, time: str) -> Span:
    """The range that a query asks for.

    Raises
    ------
    InvalidRequestError
        If it is none that can be halved.
    """
    first, dash, last = date.strip().partition("-")
    try:
        begin, finish = (_parsed_day(text.strip()) for text in (first, last))
    except ValueError:
        raise InvalidRequestError(
            "only a day or a range of days can be split; write the date as 20230131, 20230101-20231231, 20230101- or "
            "-20231231"
        ) from None
    span = Span(begin, finish if dash else begin)
    if not time.strip():
        return span
    start, end = _seconds_of(time.strip())
    return replace(span, start=start, end=end)


def _parsed_day(text: str) -> datetime.date | None:
    if text and not re.fullmatch(r"[0-9]{8}", text):
        raise ValueError(text)
    return datetime.date(int(text[:4]), int(text[4:6]), int(text[6:])) if text else None


def _seconds_of(time: str) -> tuple[int | None, int | None]:
    """The time of the request, which the halves of a day keep within."""
    found = re.fullmatch(r"([0-9]{6})?-([0-9]{6})?", time)
    if found is None:
        raise InvalidRequestError(
            "a range of days and a time can be split together only where the time is a range of whole seconds, such as "
            "080000-115959; write it so, or leave it out"
        )
    start, end = (
        None if text is None else int(text[:2]) * 3600 + int(text[2:4]) * 60 + int(text[4:]) for text in found.groups()
    )
    return start, end
