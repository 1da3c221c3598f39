"""The answer to a query, and how far it can be believed to be the whole answer."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pacs_tasks.outcome.status import Category, Status, StatusCategory, Value, category_of

#: From so many matches on, a round number of them is more likely a limit of the peer than chance.
FEWEST_SUSPICIOUS = 100
_STEP = 50
_SMALLEST_POWER = 128


class Doubt(StrEnum):
    """Why a peer may hold more than an answer has."""

    #: The limit of the request.
    LIMIT = "limit"
    #: The peer ended the query with a failure, after some matches.
    STATUS = "status"
    #: So many matches as limits are made of: PACS cut answers off and call them complete.
    ROUND = "round"
    #: A moment, or a range without an end, has more than the peer gives at once.
    UNSPLIT = "unsplit"
    #: The peer lists studies without a date or a time, or lists them under none.
    UNDATED = "undated"
    #: It would have taken more queries than one job may ask.
    QUERIES = "queries"


#: The doubts that are known gaps: what was asked for is not all there.
_GAPS = frozenset({Doubt.STATUS, Doubt.UNSPLIT, Doubt.UNDATED, Doubt.QUERIES})


def is_round(count: int) -> bool:
    """Whether this many matches look like a limit: from 100 on multiples of 50, from 128 on powers of two."""
    if count < FEWEST_SUSPICIOUS:
        return False
    return count % _STEP == 0 or (count >= _SMALLEST_POWER and count & (count - 1) == 0)


class SplitRange(Value):
    """A range of dates, or of times on one day, that was asked for in two halves since its answer was cut off."""

    date: str
    time: str = ""
    #: Matches in the answer that was cut off.
    matches: int


class FindOutcome(Value):
    """The answer to a :class:`~pacs_tasks.request.FindRequest`.

    ``matches`` are DICOM JSON objects (PS3.18 annex F). ``limit_hit`` says that there were more than the limit.
    ``doubts`` says why there may be more matches than these; ``remarks`` says it in sentences.
    """

    status: Status
    matches: tuple[dict[str, Any], ...] = ()
    limit_hit: bool = False
    seconds: float = 0.0
    doubts: tuple[Doubt, ...] = ()
    remarks: tuple[str, ...] = ()
    #: How many C-FIND requests it took.
    queries: int = 1
    #: The ranges whose answers were cut off, in the order in which they were asked for.
    split: tuple[SplitRange, ...] = ()
    #: Keys that the peer refused, and that were therefore left out.
    keys_left_out: tuple[str, ...] = ()

    @property
    def category(self) -> Category:
        if self.limit_hit:
            return Category.SUCCESS
        if self.status.category is StatusCategory.CANCEL:
            return Category.CANCELLED
        return Category.PARTIAL if _GAPS.intersection(self.doubts) else category_of(self.status)

    def summary(self) -> dict[str, Any]:
        """What may be seen in Celery's results, Flower and logs: no match, since matches are patient data."""
        return {
            "category": self.category,
            "status": f"{self.status.code:04X}",
            "matches": len(self.matches),
            "limit_hit": self.limit_hit,
            "doubts": [str(doubt) for doubt in self.doubts],
            "queries": self.queries,
            "seconds": self.seconds,
        }
