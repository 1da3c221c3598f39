"""The outcomes of operations with one answer: C-ECHO, C-MOVE, C-GET and C-FIND, with the reasons to doubt a query."""

from enum import StrEnum
from typing import Any

from pydantic import Field

from pacs_tasks.ae import Value
from pacs_tasks.outcome.instance import (
    Category,
    InstanceOutcome,
    Status,
    StatusCategory,
    Suboperations,
    category_of,
    category_of_suboperations,
)


class OfferedService(Value):
    """A service that pacs-tasks uses, and whether a remote accepts a presentation context for it."""

    name: str
    accepted: bool


class EchoOutcome(Value):
    """The outcome of an :class:`~pacs_tasks.request.EchoRequest`; ``seconds`` from A-ASSOCIATE-RQ to C-ECHO-RSP.

    ``services`` and ``max_pdu``, the bytes that the remote accepts in one PDU (0: no limit), are there on request.
    """

    status: Status
    seconds: float
    services: tuple[OfferedService, ...] = ()
    max_pdu: int | None = None

    @property
    def category(self) -> Category:
        return category_of(self.status)

    def summary(self) -> dict[str, Any]:
        """Return what Celery's results, Flower and logs may show."""
        return {"category": self.category, "status": f"{self.status.code:04X}", "seconds": self.seconds}


class MoveOutcome(Value):
    """The outcome of a C-MOVE as the remote reports it. Only arrived instances count as received."""

    status: Status
    suboperations: Suboperations = Field(default_factory=Suboperations)
    failed_sop_instance_uids: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def category(self) -> Category:
        return category_of_suboperations(self.status, self.suboperations)

    def summary(self) -> dict[str, Any]:
        """Return what Celery's results, Flower and logs may show."""
        return {
            "category": self.category,
            "status": f"{self.status.code:04X}",
            **self.suboperations.model_dump(),
            "seconds": self.seconds,
        }


class GetOutcome(MoveOutcome):
    """The outcome of a C-GET, with the instances that are complete on disk.

    ``refused`` counts instances that the remote sent although they were not requested.
    """

    instances: tuple[InstanceOutcome, ...] = ()
    refused: int = 0

    def summary(self) -> dict[str, Any]:
        return {**super().summary(), "received": len(self.instances), "refused": self.refused}


#: From so many matches on, a round number is more likely a limit of the remote than chance.
FEWEST_SUSPICIOUS = 100
_STEP = 50
_SMALLEST_POWER = 128


class Doubt(StrEnum):
    """Why the remote may hold more matches than it returned."""

    #: The limit of the request.
    LIMIT = "limit"
    #: The remote ended the query with a failure after some matches, or early without a failure.
    STATUS = "status"
    #: A round number of matches: many PACS truncate their answers and report success.
    ROUND = "round"
    #: A moment, or a range without an end, has more matches than the remote returns.
    UNSPLIT = "unsplit"
    #: The remote has studies without a date or a time.
    UNDATED = "undated"
    #: The job reached its limit of queries.
    QUERIES = "queries"
    #: The answer exceeded a limit of the settings, so the rest of it was not read.
    CUT_OFF = "cut"


#: The doubts that are known gaps.
_GAPS = frozenset({Doubt.STATUS, Doubt.UNSPLIT, Doubt.UNDATED, Doubt.QUERIES, Doubt.CUT_OFF})


def is_round(count: int) -> bool:
    """Report whether so many matches look like a limit: multiples of 50 from 100 on, powers of two from 128 on."""
    if count < FEWEST_SUSPICIOUS:
        return False
    return count % _STEP == 0 or (count >= _SMALLEST_POWER and count & (count - 1) == 0)


class SplitRange(Value):
    """A range of dates, or of times on one day, that was queried in two halves because its answer was truncated."""

    date: str
    time: str = ""
    #: Matches in the truncated answer.
    matches: int


class FindOutcome(Value):
    """The outcome of a :class:`~pacs_tasks.request.FindRequest`.

    ``matches`` are DICOM JSON objects (PS3.18 annex F). ``limit_hit``: the remote had more matches than the limit.
    ``kept`` is how many matches were put elsewhere instead of into ``matches``.
    ``doubts`` are the reasons why there may be more matches, and ``remarks`` say in sentences
    why, and which keys the remote ignored.
    """

    status: Status
    matches: tuple[dict[str, Any], ...] = ()
    kept: int = 0
    limit_hit: bool = False
    seconds: float = 0.0
    doubts: tuple[Doubt, ...] = ()
    remarks: tuple[str, ...] = ()
    #: The number of C-FIND requests.
    queries: int = 1
    #: The ranges with truncated answers, in the order of the queries.
    split: tuple[SplitRange, ...] = ()
    #: Keys that the remote rejected and that were left out then.
    keys_left_out: tuple[str, ...] = ()
    #: Keys by which the remote did not match, or perhaps not: their value is absent from matches, or another one.
    keys_unmatched: tuple[str, ...] = ()

    @property
    def number(self) -> int:
        """How many matches there are."""
        return len(self.matches) + self.kept

    @property
    def category(self) -> Category:
        if self.limit_hit:
            return Category.SUCCESS
        if self.status.category is StatusCategory.CANCEL:
            return Category.CANCELLED
        return Category.PARTIAL if _GAPS.intersection(self.doubts) else category_of(self.status)

    def summary(self) -> dict[str, Any]:
        """Return what Celery's results, Flower and logs may show: no match, since matches are patient data."""
        return {
            "category": self.category,
            "status": f"{self.status.code:04X}",
            "matches": self.number,
            "limit_hit": self.limit_hit,
            "doubts": [str(doubt) for doubt in self.doubts],
            "queries": self.queries,
            "seconds": self.seconds,
        }
