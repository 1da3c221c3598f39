"""The outcome of one instance or file."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator

from pacs_tasks.errors import AssociationError, ContextRejectedError, PacsTasksError, PeerStalledError, from_record
from pacs_tasks.outcome.status import Status, Value


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
    ) -> InstanceOutcome:
        """Return the outcome of an instance about which the remote gave no answer."""
        return cls(subject=subject, category=category, error=type(error).__name__, reason=error.message)

    @property
    def unreachable(self) -> bool:
        """Whether there was no association.

        A rejected context is an answer on one, and a remote that responds "pending" for ever is reached too.
        """
        error = from_record(self.error, "") if self.error else None
        return isinstance(error, AssociationError) and not isinstance(error, ContextRejectedError | PeerStalledError)
