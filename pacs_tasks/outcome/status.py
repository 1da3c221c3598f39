"""DIMSE statuses and counts, and how a whole job went."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field


class StatusCategory(StrEnum):
    """What a DIMSE status means for the one who waits (PS3.7 annex C, PS3.4 sections B.2.3, C.4.1.1.4, C.4.2.1.5)."""

    SUCCESS = "success"
    PENDING = "pending"
    CANCEL = "cancel"
    #: Done, with a remark: counted apart, never as a failure.
    WARNING = "warning"
    #: Out of resources: wait, then ask again.
    TRANSIENT = "transient"
    #: It will not be different next time.
    PERMANENT = "permanent"


class Category(StrEnum):
    """How a whole job went."""

    SUCCESS = "success"
    #: Everything was done, and the peer remarked on something.
    WARNING = "warning"
    #: Some instances made it, some did not.
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Value(BaseModel):
    """Frozen, and nothing that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Status(Value):
    """A DIMSE status, (0000,0900), with what it means and what to do next."""

    code: int = Field(ge=0, le=0xFFFF)
    category: StatusCategory
    #: One sentence for people, with the next step.
    meaning: str
    #: The peer's own words: Error Comment, (0000,0902). It may hold anything, so it never goes to logs.
    comment: str = ""

    def __str__(self) -> str:
        return f"{self.code:04X}: {self.meaning}" + (f" (the peer says: {self.comment})" if self.comment else "")


class Suboperations(Value):
    """Counts of C-STORE sub-operations of a C-MOVE or C-GET (PS3.7 section C.5.15 to C.5.18)."""

    remaining: int = 0
    completed: int = 0
    failed: int = 0
    warning: int = 0

    @property
    def total(self) -> int:
        return self.remaining + self.completed + self.failed + self.warning


def category_of(status: Status) -> Category:
    return {
        StatusCategory.SUCCESS: Category.SUCCESS,
        StatusCategory.WARNING: Category.WARNING,
        StatusCategory.CANCEL: Category.CANCELLED,
    }.get(status.category, Category.FAILED)


def category_of_suboperations(status: Status, suboperations: Suboperations) -> Category:
    """GE, Synapse and Orthanc answer Success although every sub-operation failed (pynetdicom issue 552)."""
    done = suboperations.completed + suboperations.warning
    missed = suboperations.failed + suboperations.remaining
    if status.category is StatusCategory.CANCEL:
        return Category.CANCELLED
    if missed and done:
        return Category.PARTIAL
    if missed or status.category in {StatusCategory.TRANSIENT, StatusCategory.PERMANENT}:
        return Category.FAILED
    return Category.WARNING if suboperations.warning else Category.SUCCESS
