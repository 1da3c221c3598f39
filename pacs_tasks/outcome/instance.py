"""DIMSE statuses and the categories that follow from them, and the outcome of one instance or file."""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from pacs_tasks.ae import Value
from pacs_tasks.errors import AssociationError, ContextRejectedError, PacsTasksError, PeerStalledError, from_record


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


class Status(Value):
    """A DIMSE status, (0000,0900), with its meaning."""

    code: int = Field(ge=0, le=0xFFFF)
    category: StatusCategory
    #: For people: what it means and what to do.
    meaning: str
    #: Error Comment, (0000,0902), of the remote. It may hold patient data, so no log has it.
    comment: str = ""

    def __str__(self) -> str:
        # Without parentheses of its own, a comment can be left out again.
        comment = self.comment.replace("(", "[").replace(")", "]")
        return f"{self.code:04X}: {self.meaning}" + (f" (comment of the remote: {comment})" if comment else "")


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
    warned = suboperations.warning or status.category is StatusCategory.WARNING
    return Category.WARNING if warned else Category.SUCCESS


class InstanceCategory(StrEnum):
    """The category of one instance or file."""

    SUCCESS = "success"
    WARNING = "warning"
    FAILED = "failed"
    #: The remote listed it, but it did not arrive.
    MISSING = "missing"
    #: It was already complete in the output directory or at the destination, and was not fetched.
    PRESENT = "present"
    #: Not a DICOM instance, or a DICOMDIR: reported, not sent.
    SKIPPED = "skipped"


def _shown(path: Any) -> Any:
    """Replace the bytes of a path that are not Unicode, which JSON cannot hold, by question marks."""
    return path.encode("utf-8", "replace").decode("utf-8") if isinstance(path, str) else path


ShownPath = Annotated[str, BeforeValidator(_shown)]


class InstanceOutcome(Value):
    """The outcome of one instance or file.

    ``subject`` is the path of a sent file or the SOP Instance UID of a retrieved instance; ``path`` is the file of a
    received instance. ``error`` is the class of the error if the remote gave no answer. ``size`` is in bytes. ``begun``
    and ``ended`` are in Unix seconds, 0 if unknown.
    """

    subject: ShownPath
    category: InstanceCategory
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    #: The UIDs in its data set.
    study_uid: str = ""
    series_uid: str = ""
    transfer_syntax_uid: str = ""
    #: The transfer syntax in which it was sent, if that is another one than that of the file.
    sent_as: str = ""
    path: ShownPath = ""
    status: Status | None = None
    error: str = ""
    #: What happened and what to do, unless it simply succeeded.
    reason: str = ""
    size: int = 0
    #: Hexadecimal SHA-256 of the encoded data set as it was sent.
    sha256: str = ""
    #: How often it was sent.
    attempts: int = 0
    begun: float = 0.0
    ended: float = 0.0
    #: The name of the Celery worker.
    worker: str = ""

    @classmethod
    def unanswered(
        cls, subject: str, error: PacsTasksError, category: InstanceCategory = InstanceCategory.FAILED
    ) -> "InstanceOutcome":
        """Return the outcome of an instance about which the remote gave no answer."""
        return cls(subject=subject, category=category, error=type(error).__name__, reason=error.message)

    @property
    def unreachable(self) -> bool:
        """Whether there was no association.

        A rejected context is an answer on one, and a remote that responds "pending" for ever is reached too.
        """
        error = from_record(self.error, "") if self.error else None
        return isinstance(error, AssociationError) and not isinstance(error, ContextRejectedError | PeerStalledError)
