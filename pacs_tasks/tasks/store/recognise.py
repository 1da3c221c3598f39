"""Read a file's header: an instance to send, or the outcome of a file that is none."""

from __future__ import annotations

from pacs_tasks.dimse.files.part10 import StoredInstance, read_instance
from pacs_tasks.errors import NotDicomError, UnreadableInputError
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome


def recognise(path: str) -> StoredInstance | InstanceOutcome:
    """Give the instance in a file; SKIPPED for what is no DICOM instance, FAILED for what cannot be read."""
    try:
        return read_instance(path)
    except NotDicomError as error:
        return InstanceOutcome.unanswered(path, error, InstanceCategory.SKIPPED)
    except UnreadableInputError as error:
        return InstanceOutcome.unanswered(path, error)
