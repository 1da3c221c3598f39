"""What a peer says later about what it was sent: whether it lists it, and whether it answers for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pacs_tasks.outcome.instance import InstanceOutcome
from pacs_tasks.outcome.status import Category, Value


@dataclass(frozen=True)
class CommitmentReport:
    """What a peer reports about one transaction.

    ``committed`` are the SOP Instance UIDs that it answers for, ``failed`` maps others to its Failure Reason,
    (0008,1197).
    """

    transaction_uid: str
    committed: frozenset[str]
    failed: Mapping[str, int]


class CommitmentState(StrEnum):
    """What became of a request for storage commitment, for one instance (PS3.4 annex J)."""

    #: The peer answers for it from now on.
    COMMITTED = "committed"
    #: It does not, and says why.
    FAILED = "failed"
    #: It has been asked and has not reported yet.
    PENDING = "pending"


class Commitment(Value):
    """The last word about one instance. ``time`` is when it was reported, or asked for, in Unix seconds."""

    state: CommitmentState
    time: float
    #: Who said so, or was asked.
    peer: str
    reason: str = ""


class VerifyOutcome(Value):
    """The answer to a :class:`~pacs_tasks.request.VerifyRequest`: counts of instances.

    ``held``: the peer lists it. ``missing``: it does not. ``unknown``: it could not be asked, or gave no answer.
    ``problems`` names what is missing or unknown, by path and SOP Instance UID.
    """

    held: int = 0
    missing: int = 0
    unknown: int = 0
    problems: tuple[InstanceOutcome, ...] = ()
    #: C-FIND requests that it took.
    queries: int = 0
    seconds: float = 0.0

    @property
    def total(self) -> int:
        return self.held + self.missing + self.unknown

    @property
    def category(self) -> Category:
        if self.held == self.total:
            return Category.SUCCESS
        return Category.PARTIAL if self.held else Category.FAILED

    def summary(self) -> dict[str, Any]:
        """What may be seen in Celery's results, Flower and logs: counts, no path."""
        return {"category": self.category, **self.model_dump(exclude={"problems"})}


class CommitOutcome(Value):
    """The answer to a :class:`~pacs_tasks.request.CommitRequest`, as far as it had come when the waiting ended.

    ``problems`` names what has failed, by path and SOP Instance UID. ``receiver`` is where the peer could report.
    """

    committed: int = 0
    failed: int = 0
    pending: int = 0
    problems: tuple[InstanceOutcome, ...] = ()
    receiver: str = ""
    seconds: float = 0.0

    @property
    def total(self) -> int:
        return self.committed + self.failed + self.pending

    @property
    def category(self) -> Category:
        if self.committed == self.total:
            return Category.SUCCESS
        return Category.FAILED if self.failed == self.total else Category.PARTIAL

    @property
    def unfinished(self) -> bool:
        """Whether nothing has failed, and not everything is answered."""
        return bool(self.pending) and not self.failed

    def summary(self) -> dict[str, Any]:
        """What may be seen in Celery's results, Flower and logs: counts, no path."""
        return {"category": self.category, **self.model_dump(exclude={"problems"})}
