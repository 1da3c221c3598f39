"""Read the instance in a file of a manifest: its header, and whether it is damaged."""

from __future__ import annotations

from dataclasses import replace

from pacs_tasks.dimse.files import damage, part10
from pacs_tasks.dimse.files.part10 import StoredInstance
from pacs_tasks.dimse.sources import archive
from pacs_tasks.dimse.sources.archive import Unpacked
from pacs_tasks.dimse.sources.members import Member
from pacs_tasks.errors import DamagedFileError, NotDicomError, UnreadableInputError
from pacs_tasks.ledger.manifest import FileLine
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome
from pacs_tasks.request import FilesRequest
from pacs_tasks.tasks.engine.permissions import check_file, check_source


def instance_in(path: str, *, packed: bool = False) -> StoredInstance:
    """The instance in a file, which was ``packed`` in an archive or not."""
    try:
        return part10.read_instance(path)
    except NotDicomError:
        if not archive.is_archive(path):
            raise
        if packed:
            raise NotDicomError(
                "The file is an archive in an archive. Unpack the outer one, and name this one in `pacs-tasks send`.",
                path,
            ) from None
        raise NotDicomError(
            "The file is an archive. Name it in `pacs-tasks send` to send the files in it.", path
        ) from None


def read_header(line: FileLine, unpacked: Unpacked, request: FilesRequest) -> StoredInstance | InstanceOutcome:
    """The instance in a file; else SKIPPED for a file that is not one, FAILED for an unreadable or damaged one."""
    member = Member(line.path, line.size, line.place)
    try:
        if not line.archive:
            check_file(line.path)
            return _judged(instance_in(line.path), request)
        check_source(line.archive)
        path = unpacked.file(line.archive, member)
        try:
            return _judged(instance_in(path, packed=True), request)
        except (DamagedFileError, UnreadableInputError):
            unpacked.discard(line.archive, member)
            raise
    except NotDicomError as error:
        return InstanceOutcome.unanswered(line.path, error, InstanceCategory.SKIPPED)
    except (DamagedFileError, UnreadableInputError) as error:
        return InstanceOutcome.unanswered(line.path, error)


def _judged(instance: StoredInstance, request: FilesRequest) -> StoredInstance:
    try:
        return damage.judged(instance, repair=request.repair)
    except DamagedFileError:
        if not request.send_damaged:
            raise
        return replace(instance, padding=part10.AS_IT_IS)
