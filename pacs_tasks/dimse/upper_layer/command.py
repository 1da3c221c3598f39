"""DIMSE command sets (PS3.7 section 6.3.1 and annex E): group 0000, always Implicit VR Little Endian."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from pacs_tasks.dimse.files.elements import plain

# Command Field, (0000,0100), PS3.7 section E.1.
C_STORE_RQ = 0x0001
C_GET_RQ = 0x0010
C_FIND_RQ = 0x0020
C_MOVE_RQ = 0x0021
C_ECHO_RQ = 0x0030
N_EVENT_REPORT_RQ = 0x0100
N_ACTION_RQ = 0x0130
C_CANCEL_RQ = 0x0FFF
RESPONSE = 0x8000

# Elements of group 0000 (PS3.7 section E.1).
AFFECTED_SOP_CLASS_UID = 0x0002
REQUESTED_SOP_CLASS_UID = 0x0003
COMMAND_FIELD = 0x0100
MESSAGE_ID = 0x0110
MESSAGE_ID_RESPONDED_TO = 0x0120
MOVE_DESTINATION = 0x0600
PRIORITY = 0x0700
DATA_SET_TYPE = 0x0800
STATUS = 0x0900
ERROR_COMMENT = 0x0902
AFFECTED_SOP_INSTANCE_UID = 0x1000
REQUESTED_SOP_INSTANCE_UID = 0x1001
EVENT_TYPE_ID = 0x1002
ACTION_TYPE_ID = 0x1008
REMAINING = 0x1020
COMPLETED = 0x1021
FAILED = 0x1022
WARNING = 0x1023
MOVE_ORIGINATOR_AE_TITLE = 0x1030

NO_DATA_SET = 0x0101
_DATA_SET = 0x0001
MEDIUM = 0

_ELEMENT = struct.Struct("<HHL")
_US = struct.Struct("<HHLH")
_UIDS = frozenset(
    {AFFECTED_SOP_CLASS_UID, REQUESTED_SOP_CLASS_UID, AFFECTED_SOP_INSTANCE_UID, REQUESTED_SOP_INSTANCE_UID}
)


class Command:
    """A received command set. A malformed element counts as missing."""

    def __init__(self, elements: Mapping[int, bytes]) -> None:
        self._elements = elements

    def number(self, element: int) -> int | None:
        """Give the value of a US element, or ``None`` if it is missing."""
        value = self._elements.get(element, b"")
        return int.from_bytes(value[:2], "little") if len(value) >= 2 else None

    def text(self, element: int) -> str:
        """Give the value of a UI, AE or LO element, empty if it is missing."""
        return plain(self._elements.get(element, b""))

    @property
    def field(self) -> int | None:
        """Give the Command Field, (0000,0100)."""
        return self.number(COMMAND_FIELD)

    @property
    def has_data_set(self) -> bool:
        """Whether a data set follows (PS3.7 section 9.3)."""
        return self.number(DATA_SET_TYPE) not in {None, NO_DATA_SET}


def encode(elements: dict[int, int | str], data_set: bool) -> bytes:
    """Encode a command set.

    Parameters
    ----------
    elements
        Group 0000 without group length and data set type. Empty strings are omitted.
    data_set
        Whether a data set follows.
    """
    parts = []
    for element, value in sorted((elements | {DATA_SET_TYPE: _DATA_SET if data_set else NO_DATA_SET}).items()):
        if isinstance(value, int):
            parts.append(_US.pack(0, element, 2, value))
        elif value:
            text = value.encode("ascii", "replace")
            if len(text) % 2:
                # UIDs are padded with a zero byte, text with a space (PS3.5 section 6.2).
                text += b"\0" if element in _UIDS else b" "
            parts.append(_ELEMENT.pack(0, element, len(text)) + text)
    body = b"".join(parts)
    return _ELEMENT.pack(0, 0, 4) + struct.pack("<L", len(body)) + body


def decode(content: bytes | bytearray) -> Command:
    """Decode a command set. Elements outside group 0000 do not belong there and are ignored.

    Raises
    ------
    ValueError
        If it is malformed.
    """
    elements: dict[int, bytes] = {}
    position = 0
    while position < len(content):
        if position + 8 > len(content):
            raise ValueError("the command set is truncated")
        group, element, length = _ELEMENT.unpack_from(content, position)
        position += 8
        if position + length > len(content):
            raise ValueError("the command set is malformed")
        if group == 0:
            elements[element] = bytes(content[position : position + length])
        position += length
    return Command(elements)
