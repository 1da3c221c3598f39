"""Asking for halves of a range of dates where a peer cuts its answer off.

There is no standard way for a peer to say that it gave only some of its matches. Some say A700 with them or instead of
them (dcm4chee refuses the whole query: https://github.com/dcm4che/dcm4chee-arc-light/issues/828), most say success. So
an answer is asked for again in halves when it ends with A7xx, and when its size looks like a limit. The first answer is
always looked at in this way once it is not small: its halves together show whether it was whole.

A range that is open stays open at its ends, so that no date is too old for it, and that peers which sort an empty date
before all others (Orthanc) give those too. DCMTK's dcmqrscp lists studies without a date in no range.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from typing import NamedTuple

from pacs_tasks.dimse.find.found import Found, Identity, text_at
from pacs_tasks.dimse.find.query_keys import Path, name_of
from pacs_tasks.dimse.find.spans import Span, span_of
from pacs_tasks.dimse.status import is_failure
from pacs_tasks.errors import PeerUnavailableError
from pacs_tasks.outcome import Doubt, SplitRange, Status, StatusCategory
from pacs_tasks.outcome.find import FEWEST_SUSPICIOUS, is_round

#: C-FIND requests of one query. Half a million studies of a peer that gives 500 at once take some 3,000.
MOST_QUERIES = 5_000
#: The halves that lead from all days to one second are fewer: a peer that refuses so many in a row refuses all.
_MOST_REFUSALS = 80
#: Ranges that a sentence names.
_NAMED = 3
#: Matches a value of zero length, where a peer knows that (Empty Value Matching, PS3.4 section C.2.2.2).
_EMPTY = '""'


class Answer(NamedTuple):
    """The final status of one request, and what its matches were, those included that had come before."""

    status: Status
    identities: list[Identity]


Ask = Callable[[Mapping[Path, str]], Answer]


class Splitting:
    """The requests that one query takes; :meth:`run` goes on where it was when the association was lost.

    Attributes
    ----------
    doubts, remarks, split
        As in :class:`~pacs_tasks.outcome.FindOutcome`.

    Raises
    ------
    InvalidRequestError
        If the query asks for dates that are no range.
    """

    def __init__(self, keys: Mapping[Path, str], dates: tuple[Path, Path]) -> None:
        self._date, self._time = dates
        self._asked_time = keys.get(self._time, "")
        self._whole = span_of(keys.get(self._date, ""), self._asked_time)
        #: Ranges to ask for, the next one last; and those whose answers were cut off. Both halves are asked for before
        #: either is split: a peer that does not look at dates is known by that.
        self._waiting, self._cut_off = [self._whole], list[Span]()
        self._tries_for_undated = 0
        #: By match, the ranges that it came for.
        self._spans: dict[Identity, list[Span]] = {}
        #: The matches of answers that were complete, or that could not be split.
        self._settled: set[Identity] = set()
        self._largest = self._answered = self._refusals = self._first_count = 0
        self._unsplit: list[tuple[Span, int]] = []
        self._failed: list[tuple[Span, Status]] = []
        self._final: Status | None = None
        self.doubts: tuple[Doubt, ...] = ()
        self.remarks: tuple[str, ...] = ()
        self.split: tuple[SplitRange, ...] = ()

    def run(self, ask: Ask, found: Found) -> Status:
        """Ask for the whole range, and for halves as often as it takes; give the final status."""
        while (self._waiting or self._cut_off) and self._answered < MOST_QUERIES and self._refusals < _MOST_REFUSALS:
            if not self._waiting:
                self._waiting += reversed(self._cut_off.pop().halves(_today()) or ())
            span = self._waiting[-1]
            answer = ask(self._keys(span))
            self._waiting.pop()
            self._answered += 1
            self._final = answer.status
            if found.limit_hit or answer.status.category is StatusCategory.CANCEL:
                return answer.status
            self._judge(span, answer)
        if self.split and not self._whole.date and not self._failed:
            self._ask_for_undated(ask)
        self._conclude(found)
        assert self._final is not None  # noqa: S101 - the whole range has been asked for
        return self._failed[0][1] if self._failed else self._final

    def _ask_for_undated(self, ask: Ask) -> None:
        """Ask for what has no date, which not every peer expects: one that hangs up at it twice is not asked again."""
        self._tries_for_undated += 1
        try:
            answer = ask({self._date: _EMPTY})
        except PeerUnavailableError:
            if self._tries_for_undated > 1:
                return
            raise
        if answer.status.category is StatusCategory.CANCEL:
            self._final = answer.status
        elif not is_failure(answer.status) and len(answer.identities) < max(self._largest, FEWEST_SUSPICIOUS):
            self._settled.update(answer.identities)

    def _keys(self, span: Span) -> dict[Path, str]:
        """What the query for this range has instead; for the whole of it, the request's own words stand."""
        if span is self._whole:
            return {}
        return {self._date: span.date, self._time: span.time or self._asked_time}

    def _judge(self, span: Span, answer: Answer) -> None:
        count, refused = len(answer.identities), is_failure(answer.status)
        if span is self._whole:
            self._first_count = count
        self._refusals = self._refusals + 1 if refused and not count else 0
        cut_off = self._looks_cut_off(span, answer)
        # What comes for two ranges that have nothing in common was not looked for by date at all.
        narrowed = not any(
            other.apart_from(span) for identity in answer.identities for other in self._spans.get(identity, ())
        )
        for identity in answer.identities:
            self._spans.setdefault(identity, []).append(span)
        self._largest = max(self._largest, count)
        if cut_off and narrowed and span.halves(_today()):
            self._cut_off.append(span)
            self.split = (*self.split, SplitRange(date=span.date, time=span.time, matches=count))
            return
        self._settled.update(answer.identities)
        if refused:
            self._failed.append((span, answer.status))
        elif cut_off:
            self._unsplit.append((span, count))

    def _looks_cut_off(self, span: Span, answer: Answer) -> bool:
        count = len(answer.identities)
        if is_failure(answer.status):
            return count > 0 or answer.status.category is StatusCategory.TRANSIENT
        if count < FEWEST_SUSPICIOUS:
            return False
        # A peer that has given more at once does not end at less.
        return span is self._whole or (count >= self._largest and (is_round(count) or count == self._largest))

    def _conclude(self, found: Found) -> None:
        """Say what may be missing."""
        said: list[tuple[Doubt | None, str]] = []
        total = len(found.matches)
        if self._failed:
            spans = _named([span for span, _ in self._failed])
            said.append((Doubt.STATUS, f"the PACS did not answer for {spans}"))
        left = len(self._waiting) + len(self._cut_off)
        if left:
            said.append((Doubt.QUERIES, f"{self._answered} queries were asked, and {left} ranges are left"))
        # As many as the first answer had, which was not all: that is the peer's limit.
        limits = {self._first_count} if total > self._first_count else set()
        unsplit = [span for span, count in self._unsplit if is_round(count) or count in limits]
        if unsplit:
            said.append((Doubt.UNSPLIT, f"the PACS may have more for {_named(unsplit)}, which cannot be split further"))
        lost = self._spans.keys() - self._settled
        if lost and not self._failed and not left:
            said.append((
                Doubt.UNDATED,
                f"{len(lost)} of the matches came for no range of dates or times, only without: the PACS may have more "
                f"without {name_of(self._date[-1:])} or {name_of(self._time[-1:])}",
            ))  # fmt: skip
        elif self.split and not self._whole.date and not self._any_undated(found):
            said.append((None, f"what has no {name_of(self._date[-1:])} may be in no range and would not be listed"))
        # Without any match there is nothing to be doubted: the final status says it all.
        self.doubts = tuple(doubt for doubt, _ in said if doubt) if total else ()
        self.remarks = tuple(sentence for _, sentence in said)

    def _any_undated(self, found: Found) -> bool:
        """Whether what has no date came all the same, and in a complete answer."""
        return any(not text_at(match, self._date) for match in found.matches)


def _today() -> datetime.date:
    return datetime.datetime.now().astimezone().date()


def _named(spans: list[Span]) -> str:
    named = ", ".join(f"{span.date or 'all days'}{' ' if span.time else ''}{span.time}" for span in spans[:_NAMED])
    more = len(spans) - _NAMED
    return f"{named} and {more} more ranges" if more > 0 else named
