"""DIMSE statuses, counts of sub-operations, and the category of a job."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field


class StatusCategory(StrEnum):
    """The category of a DIMSE status (PS3.7 annex C, PS3.4 sections B.2.3, C.4.1.1.4, C.4.2.1.5)."""

    SUCCESS = "success"
    PENDING = "pending"
    CANCEL = "cancel"
    #: Done with a remark: counted apart, never as a failure.
    WARNING = "warning"
    #: Out of resources: try again later.
    TRANSIENT = "transient"
    #: Another attempt will not change it.
    PERMANENT = "permanent"


class Category(StrEnum):
    """The category of a whole job."""

    SUCCESS = "success"
    #: Everything was done, with a remark of the remote.
    WARNING = "warning"
    #: Some instances succeeded and some did not.
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Value(BaseModel):
    """Base of outcomes: frozen, without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Status(Value):
    """A DIMSE status, (0000,0900), with its meaning."""

    code: int = Field(ge=0, le=0xFFFF)
    category: StatusCategory
    #: For people: what it means and what to do.
    meaning: str
    #: Error Comment, (0000,0902), of the remote. It may hold patient data, so no log has it.
    comment: str = ""

    def __str__(self) -> str:
        return f"{self.code:04X}: {self.meaning}" + (
            f" (comment of the remote: {self.comment})" if self.comment else ""
        )


class Suboperations(Value):
    """Counts of the C-STORE sub-operations of a C-MOVE or C-GET (PS3.7 sections C.5.15 to C.5.18)."""

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
    """Read the counts too: GE, Synapse and Orthanc report success if all sub-operations fail (pynetdicom #552)."""
    done = suboperations.completed + suboperations.warning
    missed = suboperations.failed + suboperations.remaining
    if status.category is StatusCategory.CANCEL:
        return Category.CANCELLED
    if missed and done:
        return Category.PARTIAL
    if missed or status.category in {StatusCategory.TRANSIENT, StatusCategory.PERMANENT}:
        return Category.FAILED
    return Category.WARNING if suboperations.warning else Category.SUCCESS
