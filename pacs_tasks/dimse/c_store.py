"""C-STORE: send one instance as it is (PS3.4 annex B, PS3.7 section 9.1.1)."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from pydicom.config import IGNORE
from pydicom.uid import UID

from pacs_tasks.dimse import command, status
from pacs_tasks.dimse.association import Association
from pacs_tasks.dimse.elements import DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN
from pacs_tasks.dimse.part10 import StoredInstance
from pacs_tasks.dimse.wire import Buffer
from pacs_tasks.errors import UnreadableInputError
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome, Status, StatusCategory

#: Up to this size a read is cheaper than a memory map, and what was read cannot shrink under us.
_MAP_FROM = 1 << 18


def store(assoc: Association, instance: StoredInstance) -> InstanceOutcome:
    """Send one instance: the bytes of its data set, never decoded.

    Returns
    -------
    What the peer answered; FAILED with the reason where this one instance cannot go over this association.

    Raises
    ------
    PeerUnavailableError
        If there is no answer: the association is lost, and whether the peer has the instance is not known.
    JobCancelledError
        If ``assoc.stop`` said so while it waited; the association is aborted.
    """
    context_id = assoc.accepted.get((instance.sop_class_uid, instance.transfer_syntax_uid))
    if context_id is None:
        return _failed(instance, "ContextRejectedError", _refusal(assoc, instance))
    try:
        data_set, tail = _data_set(instance)
        with assoc.exchange() as message_id:
            assoc.send(context_id, _request(instance, message_id), data_set, tail)
            answer, code = assoc.read_response(context_id, message_id, command.C_STORE_RQ)
    except UnreadableInputError as error:
        return _failed(instance, "UnreadableInputError", error.message)
    return _outcome(assoc, instance, answer, code)


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


def _data_set(instance: StoredInstance) -> tuple[Buffer, bytes]:
    """Give the bytes of the data set and what makes them even."""
    try:
        with Path(instance.path).open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size != instance.size:
                raise UnreadableInputError(f"the file had {instance.size} bytes and now has {size}; send it again")
            length = size - instance.data_offset
            if length <= 0:
                raise UnreadableInputError("the file holds no data set")
            tail = _tail(instance, length)
            if size >= _MAP_FROM:
                # It outlives the file, and ends with its last view: closing it before that would be an error.
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                return memoryview(mapped)[instance.data_offset :], tail
            file.seek(instance.data_offset)
            content = file.read(length)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise UnreadableInputError(f"the file can no longer be read ({why}); check it, then send it again") from None
    if len(content) != length:
        raise UnreadableInputError("the file became shorter while it was read; send it again")
    return content, tail


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
    others = [_named(accepted) for uid, accepted in assoc.accepted if uid == sop_class]
    if others:
        return f"{assoc.remote} does not accept {what}; it accepts this class in {', '.join(others)}"
    return f"{assoc.remote} does not accept {what}; ask its administrator to allow this class and transfer syntax"


def _named(uid: str) -> str:
    name = UID(uid, IGNORE).name
    return uid if name == uid else f"{name} ({uid})"


def _outcome(assoc: Association, instance: StoredInstance, answer: command.Command, code: int) -> InstanceOutcome:
    said = status.store_status(code, answer.text(command.ERROR_COMMENT))
    answered = answer.text(command.AFFECTED_SOP_INSTANCE_UID)
    category, reason = _category(said), ""
    if answered and answered != instance.sop_instance_uid:
        category = InstanceCategory.FAILED
        reason = f"{assoc.remote} answered for another instance, so this one does not count as sent; its log tells more"
    elif category is not InstanceCategory.SUCCESS:
        reason = str(said)
    return _instance_outcome(instance, category, reason, said)


def _category(said: Status) -> InstanceCategory:
    return {
        StatusCategory.SUCCESS: InstanceCategory.SUCCESS,
        StatusCategory.WARNING: InstanceCategory.WARNING,
    }.get(said.category, InstanceCategory.FAILED)


def _failed(instance: StoredInstance, error: str, reason: str) -> InstanceOutcome:
    return _instance_outcome(instance, InstanceCategory.FAILED, reason, None, error)


def _instance_outcome(
    instance: StoredInstance, category: InstanceCategory, reason: str, said: Status | None, error: str = ""
) -> InstanceOutcome:
    return InstanceOutcome(
        subject=instance.path,
        category=category,
        sop_class_uid=instance.sop_class_uid,
        sop_instance_uid=instance.sop_instance_uid,
        transfer_syntax_uid=instance.transfer_syntax_uid,
        status=said,
        error=error,
        reason=reason,
        size=instance.size,
    )
