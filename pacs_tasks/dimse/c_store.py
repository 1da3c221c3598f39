"""C-STORE: send instances as they are (PS3.4 annex B, PS3.7 section 9.1.1)."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydicom.config import IGNORE
from pydicom.uid import UID

from pacs_tasks.dimse import status
from pacs_tasks.dimse.files.elements import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    SERIES_INSTANCE_UID,
    STUDY_INSTANCE_UID,
    MalformedError,
    read_uids,
)
from pacs_tasks.dimse.files.part10 import StoredInstance
from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer.association import Association
from pacs_tasks.dimse.upper_layer.file_slice import FileSlice
from pacs_tasks.dimse.upper_layer.stream import DataSet
from pacs_tasks.errors import UnreadableInputError
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome, Status, StatusCategory

#: Up to this size a read is cheaper than a memory map, and what was read cannot shrink under us.
_MAP_FROM = 1 << 18
#: Study and series stand in front of the pixel data, nearly always in the first few kilobytes.
_HEAD = 1 << 16


def store(assoc: Association, instance: StoredInstance) -> InstanceOutcome:
    """Send one instance; see :func:`store_all`."""
    ((_, outcome),) = store_all(assoc, [instance])
    return outcome


def store_all(
    assoc: Association, instances: Iterable[StoredInstance], *, digest: bool = False
) -> Generator[tuple[StoredInstance, InstanceOutcome]]:
    """Send instances, each as the bytes of its data set, never decoded.

    Up to ``assoc.window`` requests are under way at once (PS3.7 section D.3.3.3); the next instance is taken from
    ``instances`` when it is about to be sent, so that who gives them may stop at any time.

    Parameters
    ----------
    digest
        Put the SHA-256 of each data set into its outcome. It takes about a second for a gigabyte, part of which the
        peer needs anyway.

    Yields
    ------
    Each instance with what the peer answered, in the order of the answers; FAILED with the reason where this one
    instance cannot go over this association.

    Raises
    ------
    PeerUnavailableError
        If there is no answer: the association is lost, and whether the peer has what was not answered is not known.
    JobCancelledError
        If ``assoc.stop`` said so while it waited; the association is aborted.
    """
    with assoc.busy():
        sending = _Sending(assoc, digest=digest)
        for instance in instances:
            failed = sending.send(instance)
            if failed is not None:
                yield instance, failed
            # Before the next one is taken: what these answers say may be a reason to stop.
            while sending.full() or sending.answered():
                yield sending.answer()
        while sending.waiting:
            yield sending.answer()


@dataclass(frozen=True)
class _Sent:
    """A request that is not answered yet."""

    instance: StoredInstance
    context_id: int
    begun: float
    #: What is known of the data set.
    known: dict[str, str]


class _Sending:
    """The requests that are under way on one association."""

    def __init__(self, assoc: Association, *, digest: bool) -> None:
        self._assoc, self._digest = assoc, digest
        #: Message id to request, the oldest first.
        self.waiting: dict[int, _Sent] = {}

    def full(self) -> bool:
        return len(self.waiting) >= self._assoc.window

    def answered(self) -> bool:
        """Whether an answer has come already."""
        return bool(self.waiting) and self._assoc.stream.has_input(0)

    def send(self, instance: StoredInstance) -> InstanceOutcome | None:
        """Send a request; the outcome if this instance cannot be sent."""
        assoc, begun = self._assoc, time.time()
        context_id = assoc.accepted_contexts.get((instance.sop_class_uid, instance.transfer_syntax_uid))
        if context_id is None:
            return _failed(instance, "ContextRejectedError", _refusal(assoc, instance))
        message_id = assoc.next_message_id()
        try:
            with closing(_DataSet(instance, mapped=not assoc.wire.copies)) as data_set:
                assoc.send(context_id, _request(instance, message_id), data_set.content, data_set.tail)
                # The peer is busy with it now.
                known = data_set.series(instance.transfer_syntax_uid)
                if self._digest:
                    known["sha256"] = data_set.sha256()
                self.waiting[message_id] = _Sent(instance, context_id, begun, known)
        except UnreadableInputError as error:
            return _failed(instance, "UnreadableInputError", error.message)
        return None

    def answer(self) -> tuple[StoredInstance, InstanceOutcome]:
        """Read the next answer, to whichever request."""
        found_id, answer = self._assoc.receive_command("the C-STORE response")
        oldest = next(iter(self.waiting))
        message_id = answer.number(command.MESSAGE_ID_RESPONDED_TO)
        message_id = message_id if message_id in self.waiting else oldest
        sent = self.waiting[message_id]
        code = self._assoc.check_response(found_id == sent.context_id, answer, message_id, command.C_STORE_RQ)
        del self.waiting[message_id]
        return sent.instance, _outcome(self._assoc, sent, answer, code)


def _request(instance: StoredInstance, message_id: int) -> bytes:
    return command.encode(
        {
            command.AFFECTED_SOP_CLASS_UID: instance.sop_class_uid,
            command.COMMAND_FIELD: command.C_STORE_RQ,
            command.MESSAGE_ID: message_id,
            command.PRIORITY: command.MEDIUM,
            command.AFFECTED_SOP_INSTANCE_UID: instance.sop_instance_uid,
        },
        data_set=True,
    )


class _DataSet:
    """The encoded data set of a file: ``content`` and, where that is odd, what makes it even, ``tail``."""

    def __init__(self, instance: StoredInstance, *, mapped: bool) -> None:
        self._offset = instance.data_offset
        try:
            self._file = Path(instance.path).open("rb", buffering=0)  # noqa: SIM115 - `close` closes it
            try:
                length = self._length(instance)
                self.tail = _tail(instance, length)
                self.content: DataSet = self._content(instance, length, mapped=mapped)
            except BaseException:
                self._file.close()
                raise
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or type(error).__name__
            raise UnreadableInputError(
                f"the file can no longer be read ({why}); check it, then send it again"
            ) from None

    def _length(self, instance: StoredInstance) -> int:
        size = os.fstat(self._file.fileno()).st_size
        if size != instance.size:
            raise UnreadableInputError(f"the file had {instance.size} bytes and now has {size}; send it again")
        if size <= self._offset:
            raise UnreadableInputError("the file holds no data set")
        return size - self._offset

    def _content(self, instance: StoredInstance, length: int, *, mapped: bool) -> DataSet:
        if instance.size >= _MAP_FROM and not mapped:
            return FileSlice(self._file, self._offset, length)
        if instance.size >= _MAP_FROM:
            # It outlives the file, and ends with its last view: closing it before that would be an error.
            whole = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
            return memoryview(whole)[self._offset :]
        self._file.seek(self._offset)
        content = self._file.read(length)
        if len(content) != length:
            raise UnreadableInputError("the file became shorter while it was read; send it again")
        return content

    def sha256(self) -> str:
        """The digest of content and tail, hexadecimal.

        A large file is read for it: to touch a memory map of a file that became shorter would end the process.
        """
        if isinstance(self.content, bytes):
            return sha256(self.content + self.tail).hexdigest()
        digest, buffer = sha256(), memoryview(bytearray(_MAP_FROM))
        try:
            self._file.seek(self._offset)
            while got := self._file.readinto(buffer):
                digest.update(buffer[:got])
        except OSError:
            return ""
        digest.update(self.tail)
        return digest.hexdigest()

    def series(self, transfer_syntax_uid: str) -> dict[str, str]:
        """The study and the series that it belongs to, by which a PACS is asked for it later; nothing if unreadable."""
        try:
            if isinstance(self.content, bytes):
                head = self.content
            else:
                self._file.seek(self._offset)
                head = self._file.read(_HEAD)
            found = read_uids(head, transfer_syntax_uid, (STUDY_INSTANCE_UID, SERIES_INSTANCE_UID))
        except (OSError, MalformedError):
            return {}
        return {"study_uid": found.get(STUDY_INSTANCE_UID, ""), "series_uid": found.get(SERIES_INSTANCE_UID, "")}

    def close(self) -> None:
        self._file.close()


def _tail(instance: StoredInstance, length: int) -> bytes:
    """Every value is of even length (PS3.5 section 7.1.1), so every data set is, and so is every fragment of it.

    DCMTK, and with it Orthanc, aborts the association at an odd fragment: the other instances would suffer.
    """
    if length % 2 == 0:
        return b""
    if instance.transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        # The stream behind which the Standard itself puts this byte (PS3.5 section A.5).
        return b"\0"
    raise UnreadableInputError(
        "its data set has an odd number of bytes, which no complete DICOM data set has (PS3.5 section 7.1.1); "
        "it is cut off or damaged: fetch or export it again"
    )


def _refusal(assoc: Association, instance: StoredInstance) -> str:
    sop_class, syntax = instance.sop_class_uid, instance.transfer_syntax_uid
    what = f"{_named(sop_class)} in {_named(syntax)}"
    if not assoc.covers([(sop_class, syntax)]):
        return f"{what} was not proposed on this association; open one that proposes it"
    others = [_named(accepted) for uid, accepted in assoc.accepted_contexts if uid == sop_class]
    if others:
        return f"{assoc.remote} does not accept {what}; it accepts this class in {', '.join(others)}"
    return f"{assoc.remote} does not accept {what}; ask its administrator to allow this class and transfer syntax"


def _named(uid: str) -> str:
    name = UID(uid, IGNORE).name
    return uid if name == uid else f"{name} ({uid})"


def _outcome(assoc: Association, sent: _Sent, answer: command.Command, code: int) -> InstanceOutcome:
    said = status.store_status(code, answer.text(command.ERROR_COMMENT))
    answered = answer.text(command.AFFECTED_SOP_INSTANCE_UID)
    category, reason = _category(said), ""
    if answered and answered != sent.instance.sop_instance_uid:
        category = InstanceCategory.FAILED
        reason = f"{assoc.remote} answered for another instance, so this one does not count as sent; its log tells more"
    elif category is not InstanceCategory.SUCCESS:
        reason = str(said)
    return _instance_outcome(
        sent.instance, category, reason, status=said, begun=sent.begun, ended=time.time(), **sent.known
    )


def _category(said: Status) -> InstanceCategory:
    return {
        StatusCategory.SUCCESS: InstanceCategory.SUCCESS,
        StatusCategory.WARNING: InstanceCategory.WARNING,
    }.get(said.category, InstanceCategory.FAILED)


def _failed(instance: StoredInstance, error: str, reason: str) -> InstanceOutcome:
    return _instance_outcome(instance, InstanceCategory.FAILED, reason, error=error)


def _instance_outcome(
    instance: StoredInstance, category: InstanceCategory, reason: str, **known: Any
) -> InstanceOutcome:
    return InstanceOutcome(
        subject=instance.path,
        category=category,
        sop_class_uid=instance.sop_class_uid,
        sop_instance_uid=instance.sop_instance_uid,
        transfer_syntax_uid=instance.transfer_syntax_uid,
        reason=reason,
        size=instance.size,
        **known,
    )
