"""What the peer answered: one value per request, each with a category."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from pacs_tasks.errors import AssociationError, ContextRejectedError, PacsTasksError, from_record


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


class InstanceCategory(StrEnum):
    """How one instance, or one file of a directory, went."""

    SUCCESS = "success"
    WARNING = "warning"
    FAILED = "failed"
    #: The peer listed it and it did not arrive.
    MISSING = "missing"
    #: No DICOM instance, or a DICOMDIR: reported, not sent.
    SKIPPED = "skipped"


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Status(_Value):
    """A DIMSE status, (0000,0900), with what it means and what to do next."""

    code: int = Field(ge=0, le=0xFFFF)
    category: StatusCategory
    #: One sentence for people, with the next step.
    meaning: str
    #: The peer's own words: Error Comment, (0000,0902). It may hold anything, so it never goes to logs.
    comment: str = ""

    def __str__(self) -> str:
        return f"{self.code:04X}: {self.meaning}" + (f" (the peer says: {self.comment})" if self.comment else "")


class Suboperations(_Value):
    """Counts of C-STORE sub-operations of a C-MOVE or C-GET (PS3.7 section C.5.15 to C.5.18)."""

    remaining: int = 0
    completed: int = 0
    failed: int = 0
    warning: int = 0


def _shown(path: Any) -> Any:
    """A path that is no Unicode cannot be JSON; a question mark stands where its odd bytes are."""
    return path.encode("utf-8", "replace").decode("utf-8") if isinstance(path, str) else path


ShownPath = Annotated[str, BeforeValidator(_shown)]


class InstanceOutcome(_Value):
    """What became of one instance.

    ``subject`` is the file's path when sending and the SOP Instance UID when retrieving; ``path`` is where a received
    instance lies. ``error`` is the class of the error where the peer gave no answer. ``size`` is in bytes. ``begun``
    and ``ended`` are Unix seconds, 0 where nobody looked at a clock.
    """

    subject: ShownPath
    category: InstanceCategory
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    #: As its data set names them, in the head of it.
    study_uid: str = ""
    series_uid: str = ""
    transfer_syntax_uid: str = ""
    path: ShownPath = ""
    status: Status | None = None
    error: str = ""
    #: What happened and what to do next, where something did.
    reason: str = ""
    size: int = 0
    #: Hexadecimal, of the encoded data set as it was sent.
    sha256: str = ""
    #: How often it was put on the wire.
    attempts: int = 0
    begun: float = 0.0
    ended: float = 0.0
    #: The Celery worker that did it.
    worker: str = ""

    @classmethod
    def unanswered(
        cls, subject: str, error: PacsTasksError, category: InstanceCategory = InstanceCategory.FAILED
    ) -> InstanceOutcome:
        """The outcome of what the peer was not asked, or did not answer."""
        return cls(subject=subject, category=category, error=type(error).__name__, reason=error.message)

    @property
    def unreachable(self) -> bool:
        """Whether no answer came because there was no association; a refused context is an answer on one."""
        error = from_record(self.error, "") if self.error else None
        return isinstance(error, AssociationError) and not isinstance(error, ContextRejectedError)


class Counters(_Value):
    """How many files or instances of a job have which category. ``bytes`` counts those that were sent or received."""

    total: int = 0
    success: int = 0
    warning: int = 0
    failed: int = 0
    missing: int = 0
    skipped: int = 0
    unreachable: int = 0
    bytes: int = 0

    @property
    def recorded(self) -> int:
        return self.success + self.warning + self.failed + self.missing + self.skipped

    @property
    def done(self) -> int:
        """Instances that were sent or received."""
        return self.success + self.warning


class EchoOutcome(_Value):
    """The answer to an :class:`~pacs_tasks.request.EchoRequest`; ``seconds`` from association request to response."""

    status: Status
    seconds: float

    @property
    def category(self) -> Category:
        return _category_of(self.status)

    def summary(self) -> dict[str, Any]:
        """What may be seen in Celery's results, Flower and logs."""
        return {"category": self.category, "status": f"{self.status.code:04X}", "seconds": self.seconds}


class FindOutcome(_Value):
    """The answer to a :class:`~pacs_tasks.request.FindRequest`.

    ``matches`` are DICOM JSON objects (PS3.18 annex F). ``limit_hit`` says that there were more than the limit.
    """

    status: Status
    matches: tuple[dict[str, Any], ...] = ()
    limit_hit: bool = False
    seconds: float = 0.0

    @property
    def category(self) -> Category:
        return Category.SUCCESS if self.limit_hit else _category_of(self.status)

    def summary(self) -> dict[str, Any]:
        """What may be seen in Celery's results, Flower and logs: no match, since matches are patient data."""
        return {
            "category": self.category,
            "status": f"{self.status.code:04X}",
            "matches": len(self.matches),
            "limit_hit": self.limit_hit,
            "seconds": self.seconds,
        }


class MoveOutcome(_Value):
    """The final answer to a C-MOVE: what the peer *says* it did. Only what has arrived counts as received."""

    status: Status
    suboperations: Suboperations = Suboperations()
    failed_sop_instance_uids: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def category(self) -> Category:
        return _category_of_suboperations(self.status, self.suboperations)

    def summary(self) -> dict[str, Any]:
        """What may be seen in Celery's results, Flower and logs."""
        return {
            "category": self.category,
            "status": f"{self.status.code:04X}",
            **self.suboperations.model_dump(),
            "seconds": self.seconds,
        }


class GetOutcome(MoveOutcome):
    """The final answer to a C-GET, and the instances that came with it and are whole on disk."""

    instances: tuple[InstanceOutcome, ...] = ()

    def summary(self) -> dict[str, Any]:
        return {**super().summary(), "received": len(self.instances)}


class TransferOutcome(_Value):
    """What became of every file of a send or every instance of a retrieve; true only when all of it is done.

    ``problems`` holds each file or instance that did not simply succeed, in the order of the manifest.
    """

    counters: Counters
    seconds: float = 0.0
    cancelled: bool = False
    problems: tuple[InstanceOutcome, ...] = ()

    @property
    def category(self) -> Category:
        counters = self.counters
        if self.cancelled:
            return Category.CANCELLED
        if counters.done == 0:
            return Category.FAILED
        if counters.failed or counters.missing or counters.recorded < counters.total:
            return Category.PARTIAL
        return Category.WARNING if counters.warning else Category.SUCCESS

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


class ProposedPair(_Value):
    """A SOP class in a transfer syntax, as files of a directory have it. ``accepted`` is the peer's answer."""

    sop_class_uid: str
    sop_class_name: str
    transfer_syntax_uid: str
    transfer_syntax_name: str
    count: int
    bytes: int
    accepted: bool


class PreflightOutcome(_Value):
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


def _category_of(status: Status) -> Category:
    return {
        StatusCategory.SUCCESS: Category.SUCCESS,
        StatusCategory.WARNING: Category.WARNING,
        StatusCategory.CANCEL: Category.CANCELLED,
    }.get(status.category, Category.FAILED)


def _category_of_suboperations(status: Status, suboperations: Suboperations) -> Category:
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
