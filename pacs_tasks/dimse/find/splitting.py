"""Divide a query by date where the remote truncates its answer.

The Standard gives a remote no means to say that it returned only some of its matches. Some end with A700, with matches
or without (dcm4chee refuses the whole query: https://github.com/dcm4che/dcm4chee-arc-light/issues/828); most end with
success. So a range is queried again in halves when its answer ends with A7xx, and when the number of matches looks
like a limit. The first answer is always checked in this way unless it is small: its halves show whether it was whole.

A range without a first or last day keeps its open end when it is divided, so that no date lies outside it, and so that
a remote that sorts empty dates before all others (Orthanc) returns those too. DCMTK's dcmqrscp returns studies without
a date in no range.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

from pacs_tasks.dimse.find.identifier import Path, name_of
from pacs_tasks.dimse.find.match import Identity, Matches
from pacs_tasks.dimse.status import find_status, is_cut_off, is_failure
from pacs_tasks.errors import InvalidRequestError, PeerUnavailableError
from pacs_tasks.outcome import Doubt, SplitRange, Status, StatusCategory
from pacs_tasks.outcome.single import FEWEST_SUSPICIOUS, is_round

#: The first day of a range without one, for halving only; the first half stays open, so nothing older is lost.
EARLIEST = datetime.date(1900, 1, 1)
_LAST_SECOND = 86_399
_DAY = datetime.timedelta(days=1)

#: C-FIND requests of one query. Half a million studies of a remote that returns 500 at once take some 3,000.
MOST_QUERIES = 5_000
#: Fewer halves lead from all days to one second: a remote that refuses so many in a row refuses all.
_MOST_REFUSALS = 80
#: Ranges that a remark names.
_NAMED = 3
#: Matches empty values, if the remote supports it (Empty Value Matching, PS3.4 section C.2.2.2).
_EMPTY = '""'

_T = TypeVar("_T", datetime.date, int)


# Ranges (PS3.4 section C.2.2.2.5)


@dataclass(frozen=True)
class Span:
    """The days ``first`` to ``last``; on a single day also the seconds ``start`` to ``end``. All are inclusive.

    None leaves an end open. ``whole`` includes the fractions of the last second.
    """

    first: datetime.date | None = None
    last: datetime.date | None = None
    start: int | None = None
    end: int | None = None
    whole: bool = False

    @property
    def date(self) -> str:
        """The value of the date key."""
        if self.first is not None and self.first == self.last:
            return _day(self.first)
        return f"{_day(self.first)}-{_day(self.last)}" if self.first or self.last else ""

    @property
    def time(self) -> str:
        """The value of the time key.

        Some remotes compare times as text: the later half starts with as few digits as possible, so that it includes
        "12", and the earlier half ends with the fractions of its last second.
        """
        if self.start is None and self.end is None:
            return ""
        fractions = ".999999" if self.whole else ""
        return f"{_short(self.start)}-{'' if self.end is None else _clock(self.end) + fractions}"

    def halves(self, today: datetime.date) -> tuple[Span, Span] | None:
        """Return the two halves, or None if the range cannot be divided further."""
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
        """Whether the two ranges have no moment in common."""
        if _before(self.last, other.first) or _before(other.last, self.first):
            return True
        return self.first == other.first and (_before(self.end, other.start) or _before(other.end, self.start))


def _before(one: _T | None, other: _T | None) -> bool:
    return one is not None and other is not None and one < other


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
    """Return the range of a query.

    Raises
    ------
    InvalidRequestError
        If the date and time are not a range that can be divided.
    """
    first, dash, last = date.strip().partition("-")
    try:
        begin, finish = (_parsed_day(text.strip()) for text in (first, last))
    except ValueError:
        raise InvalidRequestError(
            "Only a day or a range of days can be split. Write the date as 20230131, 20230101-20231231, 20230101- or "
            "-20231231."
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
            "A range of days can be split together with a time only if the time is a range of whole seconds. Write it "
            "as 080000-115959, or leave it out."
        )
    start, end = (
        None if text is None else int(text[:2]) * 3600 + int(text[2:4]) * 60 + int(text[4:]) for text in found.groups()
    )
    return start, end


# Queries


class Answer(NamedTuple):
    """The final status of one request and the identities of all its matches, known ones included."""

    status: Status
    identities: list[Identity]


#: Sends one C-FIND request in which some keys have other values.
SendQuery = Callable[[Mapping[Path, str]], Answer]


class Splitting:
    """The requests of one query. :meth:`run` can be called again after the association was lost, and continues.

    Attributes
    ----------
    doubts, remarks, split
        As in :class:`~pacs_tasks.outcome.FindOutcome`.

    Raises
    ------
    InvalidRequestError
        If the dates of the query are not a range.
    """

    def __init__(self, keys: Mapping[Path, str], dates: tuple[Path, Path]) -> None:
        self._date, self._time = dates
        self._time_key = keys.get(self._time, "")
        self._whole = span_of(keys.get(self._date, ""), self._time_key)
        #: Ranges to query, the next one last, and ranges whose answers were truncated. Both halves are queried before
        #: either is split: this exposes a remote that ignores dates.
        self._waiting, self._truncated = [self._whole], list[Span]()
        self._tries_for_undated = 0
        #: By match, the ranges that returned it.
        self._spans: dict[Identity, list[Span]] = {}
        #: The matches of answers that were complete or could not be split.
        self._settled: set[Identity] = set()
        self._largest = self._answered = self._refusals = self._first_count = 0
        self._unsplit: list[tuple[Span, int]] = []
        self._failed: list[tuple[Span, Status]] = []
        self._final = find_status(0xFF00)
        self.doubts: tuple[Doubt, ...] = ()
        self.remarks: tuple[str, ...] = ()
        self.split: tuple[SplitRange, ...] = ()

    def run(self, send: SendQuery, found: Matches) -> Status:
        """Query the whole range, then halves as often as needed, and return the final status."""
        while self._may_continue:
            span = self._next_span()
            answer = send(self._keys(span))
            self._waiting.pop()
            self._answered += 1
            self._final = answer.status
            if found.limit_hit or found.cut_off or answer.status.category is StatusCategory.CANCEL:
                return answer.status
            self._judge(span, answer)
        if self.split and not self._whole.date and not self._failed:
            self._query_undated(send)
        self._conclude(found)
        return self._failed[0][1] if self._failed else self._final

    @property
    def _may_continue(self) -> bool:
        """Whether ranges are left, and no limit on requests is reached."""
        return self._left() > 0 and self._answered < MOST_QUERIES and self._refusals < _MOST_REFUSALS

    def _next_span(self) -> Span:
        """Give the next range to query, which stays among the waiting ones until it is answered."""
        if not self._waiting:
            self._waiting += reversed(self._truncated.pop().halves(_today()) or ())
        return self._waiting[-1]

    def _query_undated(self, send: SendQuery) -> None:
        """Query matches without a date. A remote that ends the association twice at this is not queried again."""
        self._tries_for_undated += 1
        try:
            answer = send({self._date: _EMPTY})
        except PeerUnavailableError:
            if self._tries_for_undated > 1:
                return
            raise
        if answer.status.category is StatusCategory.CANCEL:
            self._final = answer.status
        elif not is_failure(answer.status) and len(answer.identities) < max(self._largest, FEWEST_SUSPICIOUS):
            self._settled.update(answer.identities)

    def _keys(self, span: Span) -> dict[Path, str]:
        """The keys that differ for this range; the whole range keeps the values of the request."""
        if span is self._whole:
            return {}
        return {self._date: span.date, self._time: span.time or self._time_key}

    def _judge(self, span: Span, answer: Answer) -> None:
        """Decide whether a range has to be split, and record its matches."""
        count, refused = len(answer.identities), is_failure(answer.status)
        if span is self._whole:
            self._first_count = count
        self._refusals = self._refusals + 1 if refused and not count else 0
        truncated = self._looks_truncated(span, answer)
        heeded = self._heeded_dates(span, answer)
        for identity in answer.identities:
            self._spans.setdefault(identity, []).append(span)
        self._largest = max(self._largest, count)
        if truncated and heeded and span.halves(_today()):
            self._truncated.append(span)
            self.split = (*self.split, SplitRange(date=span.date, time=span.time, matches=count))
            return
        self._settled.update(answer.identities)
        if refused:
            self._failed.append((span, answer.status))
        elif truncated:
            self._unsplit.append((span, count))

    def _heeded_dates(self, span: Span, answer: Answer) -> bool:
        """Whether the remote heeded the dates of this range."""
        # It ignored them if a match also came for a range that has nothing in common with this one.
        return not any(
            other.apart_from(span) for identity in answer.identities for other in self._spans.get(identity, ())
        )

    def _looks_truncated(self, span: Span, answer: Answer) -> bool:
        count = len(answer.identities)
        if is_failure(answer.status):
            transient = answer.status.category is StatusCategory.TRANSIENT
            return count > 0 or transient or is_cut_off(answer.status)
        if count < FEWEST_SUSPICIOUS:
            return False
        # A remote that has returned more at once does not stop at less.
        return span is self._whole or (count >= self._largest and (is_round(count) or count == self._largest))

    def _conclude(self, found: Matches) -> None:
        """Set doubts and remarks: which matches may be missing."""
        remarks = [*self._gaps(found.number), *self._undated(found)]
        # The final status is enough where there is no match, unless it says that there are some.
        ended_early = any(is_cut_off(final) for _, final in self._failed)
        self.doubts = tuple(doubt for doubt, _ in remarks if doubt) if found.number or ended_early else ()
        self.remarks = tuple(remark for _, remark in remarks)

    def _left(self) -> int:
        return len(self._waiting) + len(self._truncated)

    def _gaps(self, total: int) -> list[tuple[Doubt, str]]:
        """The ranges that were refused, not queried, or not split far enough."""
        remarks = []
        if self._failed:
            spans = _named([span for span, _ in self._failed])
            remarks.append((Doubt.STATUS, f"the PACS did not return all matches for {spans}"))
        if self._left():
            remarks.append((Doubt.QUERIES, f"{self._answered} queries were sent, and {self._left()} ranges are left"))
        # A first answer that was not whole shows the limit of the remote.
        limits = {self._first_count} if total > self._first_count else set()
        unsplit = [span for span, count in self._unsplit if is_round(count) or count in limits]
        if unsplit:
            remarks.append(
                (Doubt.UNSPLIT, f"the PACS may have more for {_named(unsplit)}, which cannot be split further")
            )
        return remarks

    def _undated(self, found: Matches) -> list[tuple[Doubt | None, str]]:
        """Whether matches without a date or time may be missing."""
        date, time = name_of(self._date[-1:]), name_of(self._time[-1:])
        lost = self._spans.keys() - self._settled
        if lost and not self._failed and not self._left():
            remark = (
                f"the PACS returned {len(lost)} of the matches for no range of dates or times, only without one, and "
                f"may have more without {date} or {time}"
            )
            return [(Doubt.UNDATED, remark)]
        if self.split and not self._whole.date and not found.undated:
            return [(None, f"the PACS may hold matches without {date}, which belong to no range and are not listed")]
        return []


def _today() -> datetime.date:
    return datetime.datetime.now().astimezone().date()


def _named(spans: list[Span]) -> str:
    named = ", ".join(f"{span.date or 'all days'}{' ' if span.time else ''}{span.time}" for span in spans[:_NAMED])
    more = len(spans) - _NAMED
    return f"{named} and {more} more ranges" if more > 0 else named
