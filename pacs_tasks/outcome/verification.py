"""Verification: whether the remote lists the instances that it was sent, and commits to them."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pacs_tasks.ae import Value
from pacs_tasks.outcome.instance import Category, InstanceOutcome


@dataclass(frozen=True)
class CommitmentReport:
    """The report of a remote about one transaction.

    ``committed`` are the SOP Instance UIDs that it commits to. ``failed`` maps others to its Failure Reason,
    (0008,1197).
    """

    transaction_uid: str
    committed: frozenset[str]
    failed: Mapping[str, int]


class CommitmentState(StrEnum):
    """The state of the storage commitment of one instance (PS3.4 annex J)."""

    #: The remote has committed to it.
    COMMITTED = "committed"
    #: The remote has refused, with a reason.
    FAILED = "failed"
    #: The remote has not reported yet.
    PENDING = "pending"


class Commitment(Value):
    """The last report about one instance. ``time``, of the report or the request, is in Unix seconds."""

    state: CommitmentState
    time: float
    #: The remote.
    peer: str
    reason: str = ""


class VerifyOutcome(Value):
    """The outcome of a :class:`~pacs_tasks.request.VerifyRequest`, in numbers of instances.

    The remote lists those that are ``held`` and not those that are ``missing``; about ``unknown`` ones it gave no
    answer. ``problems`` names the missing and unknown ones by path and SOP Instance UID.
    """

    held: int = 0
    missing: int = 0
    unknown: int = 0
    problems: tuple[InstanceOutcome, ...] = ()
    #: The number of C-FIND requests.
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
        """Return what Celery's results, Flower and logs may show: counts, no path."""
        return {"category": self.category, **self.model_dump(exclude={"problems"})}


class CommitOutcome(Value):
    """The outcome of a :class:`~pacs_tasks.request.CommitRequest` at the end of the wait.

    ``problems`` names the failed instances by path and SOP Instance UID. ``receiver`` is the AE that the remote can
    report to.
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
        """Whether nothing has failed and reports are pending."""
        return bool(self.pending) and not self.failed

    def summary(self) -> dict[str, Any]:
        """Return what Celery's results, Flower and logs may show: counts, no path."""
        return {"category": self.category, **self.model_dump(exclude={"problems"})}
