"""What C-MOVE and C-GET share: the identifier that says what, the counts and the failures that come back."""

from __future__ import annotations

import struct

from pacs_tasks.dimse.files.elements import IMPLICIT_VR_LITTLE_ENDIAN, MalformedError, read_uids
from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer.command import Command
from pacs_tasks.outcome import Suboperations
from pacs_tasks.request import GetRequest, Level, MoveRequest

_QUERY_RETRIEVE_LEVEL = 0x0008_0052
_SOP_INSTANCE_UID = 0x0008_0018
_FAILED_SOP_INSTANCE_UID_LIST = 0x0008_0058
_STUDY_INSTANCE_UID = 0x0020_000D
_SERIES_INSTANCE_UID = 0x0020_000E


def encode_identifier(request: MoveRequest | GetRequest) -> bytes:
    """Write the identifier in Implicit VR Little Endian: the level and the unique keys down to it (PS3.4 C.4.2.1.4)."""
    values: dict[int, str] = {_STUDY_INSTANCE_UID: request.study_uid}
    level = Level.STUDY
    if request.series_uid:
        values[_SERIES_INSTANCE_UID] = request.series_uid
        level = Level.SERIES
    if request.sop_instance_uids:
        values[_SOP_INSTANCE_UID] = "\\".join(request.sop_instance_uids)
        level = Level.IMAGE
    values[_QUERY_RETRIEVE_LEVEL] = level
    parts = []
    for tag, value in sorted(values.items()):
        text = value.encode("ascii")
        if len(text) % 2:
            text += b" " if tag == _QUERY_RETRIEVE_LEVEL else b"\0"
        parts.append(struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(text)) + text)
    return b"".join(parts)


def suboperations(answer: Command) -> Suboperations:
    """The counts of a response; absent ones are none (PS3.7 section 9.1.4.1)."""
    return Suboperations(
        remaining=answer.number(command.REMAINING) or 0,
        completed=answer.number(command.COMPLETED) or 0,
        failed=answer.number(command.FAILED) or 0,
        warning=answer.number(command.WARNING) or 0,
    )


def failed_uids(content: bytes) -> tuple[str, ...]:
    """Failed SOP Instance UID List (PS3.4 section C.4.2.1.4.2); a malformed one reads as empty."""
    try:
        found = read_uids(content, IMPLICIT_VR_LITTLE_ENDIAN, (_FAILED_SOP_INSTANCE_UID_LIST,))
    except MalformedError:
        return ()
    listed = found.get(_FAILED_SOP_INSTANCE_UID_LIST, "").split("\\")
    return tuple(uid.strip("\0 ") for uid in listed if uid.strip("\0 "))
