"""What became of every file of a send, or every instance of a retrieve."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pacs_tasks.outcome.instance import InstanceOutcome
from pacs_tasks.outcome.status import Category, Value


class Counters(Value):
    """How many files or instances of a job have which category. ``bytes`` counts those that were sent or received.

    ``present`` are those that were where they were wanted already.
    """

    total: int = 0
    success: int = 0
    warning: int = 0
    failed: int = 0
    missing: int = 0
    present: int = 0
    skipped: int = 0
    unreachable: int = 0
    bytes: int = 0

    @property
    def recorded(self) -> int:
        return self.done + self.failed + self.missing + self.skipped

    @property
    def done(self) -> int:
        """Instances that are where they were wanted: sent or received, or there already."""
        return self.success + self.warning + self.present


class Proof(StrEnum):
    """By what a study was promised, before it was asked for."""

    #: The peer listed its instances, by SOP Instance UID.
    INSTANCES = "instances"
    #: The peer said how many there are, of the study or of each series of it.
    COUNTS = "counts"
    NONE = "none"


class StudyOutcome(Value):
    """What became of one study of a retrieve.

    ``promised`` instances are ``received``, were ``present`` already, are ``missing`` or ``failed``; what was asked
    for and is not listed by the peer counts as failed and is no part of the promise.
    """

    #: Empty where no study was found.
    study_uid: str = ""
    category: Category
    promised: int = 0
    received: int = 0
    present: int = 0
    missing: int = 0
    failed: int = 0
    proof: Proof = Proof.NONE
    #: By which services it came: ``C-MOVE``, ``C-GET``.
    ways: tuple[str, ...] = ()
    #: Why something is missing, why a list of instances was no proof, why it came another way than the first.
    reason: str = ""
    #: Rows of the batch file that asked for it; the first line of the file is row 1.
    rows: tuple[int, ...] = ()


class TransferOutcome(Value):
    """What became of every file of a send or every instance of a retrieve; true only when all of it is done.

    ``problems`` holds each file or instance that did not simply succeed, in the order of the manifest. ``studies`` are
    those of a retrieve.
    """

    counters: Counters
    seconds: float = 0.0
    cancelled: bool = False
    problems: tuple[InstanceOutcome, ...] = ()
    studies: tuple[StudyOutcome, ...] = ()

    @property
    def category(self) -> Category:
        counters = self.counters
        if self.cancelled:
            return Category.CANCELLED
        if counters.done == 0:
            return Category.FAILED
        if counters.failed or counters.missing or counters.recorded < counters.total:
            return Category.PARTIAL
        remarked = counters.warning or any(study.category is Category.WARNING for study in self.studies)
        return Category.WARNING if remarked else Category.SUCCESS

    @property
    def unreachable(self) -> bool:
        """Whether nothing was done because no association could be had."""
        counters = self.counters
        return bool(counters.unreachable) and not counters.done and counters.unreachable == counters.failed

    @property
    def nothing_found(self) -> bool:
        """Whether there was no DICOM instance at all."""
        return self.counters.skipped == self.counters.total

    def __bool__(self) -> bool:
        return self.category in {Category.SUCCESS, Category.WARNING}

    def summary(self) -> dict[str, Any]:
        """What may be seen in Celery's results, Flower and logs: counts, no path."""
        return {"category": self.category, **self.counters.model_dump(), "seconds": self.seconds}


class ProposedPair(Value):
    """A SOP class in a transfer syntax, as files of a directory have it. ``accepted`` is the peer's answer."""

    sop_class_uid: str
    sop_class_name: str
    transfer_syntax_uid: str
    transfer_syntax_name: str
    count: int
    bytes: int
    accepted: bool


class PreflightOutcome(Value):
    """What a send of a directory would meet. ``contexts`` and ``associations`` are how many it needs at least."""

    total: int
    bytes: int
    pairs: tuple[ProposedPair, ...] = ()
    skipped: tuple[InstanceOutcome, ...] = ()
    unreadable: tuple[InstanceOutcome, ...] = ()
    contexts: int = 0
    associations: int = 0
    seconds: float = 0.0

    @property
    def category(self) -> Category:
        accepted = [pair.accepted for pair in self.pairs]
        if not any(accepted):
            return Category.FAILED
        return Category.SUCCESS if all(accepted) and not self.unreadable else Category.PARTIAL

    def summary(self) -> dict[str, Any]:
        """What may be seen in Celery's results, Flower and logs."""
        return {
            "category": self.category,
            "total": self.total,
            "bytes": self.bytes,
            "contexts": self.contexts,
            "associations": self.associations,
            "skipped": len(self.skipped),
            "unreadable": len(self.unreadable),
        }
