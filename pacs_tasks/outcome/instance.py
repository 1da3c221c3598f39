"""What became of one instance, or of one file."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator

from pacs_tasks.errors import AssociationError, ContextRejectedError, PacsTasksError, PeerStalledError, from_record
from pacs_tasks.outcome.status import Status, Value


class InstanceCategory(StrEnum):
    """How one instance, or one file of a directory, went."""

    SUCCESS = "success"
    WARNING = "warning"
    FAILED = "failed"
    #: The peer listed it and it did not arrive.
    MISSING = "missing"
    #: It lay whole in the output directory, or at the destination, before anything was asked for: it was not fetched.
    PRESENT = "present"
    #: No DICOM instance, or a DICOMDIR: reported, not sent.
    SKIPPED = "skipped"


def _shown(path: Any) -> Any:
    """A path that is no Unicode cannot be JSON; a question mark stands where its odd bytes are."""
    return path.encode("utf-8", "replace").decode("utf-8") if isinstance(path, str) else path


ShownPath = Annotated[str, BeforeValidator(_shown)]


class InstanceOutcome(Value):
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
        """Whether no answer came because there was no association.

        A refused context is an answer on one, and a peer that says "pending" for ever is reached, too.
        """
        error = from_record(self.error, "") if self.error else None
        return isinstance(error, AssociationError) and not isinstance(error, ContextRejectedError | PeerStalledError)
