"""DIMSE messages (PS3.7 section 6.3): command sets, and the P-DATA-TF PDUs (PS3.8 annex E) that carry both halves.

A command set is group 0000, always in Implicit VR Little Endian (PS3.7 annex E).
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator, Mapping
from typing import Protocol

import pynetdicom.pdu

from pacs_tasks.dimse.files.elements import plain
from pacs_tasks.dimse.upper_layer.wire import (
    A_ABORT,
    A_RELEASE_RQ,
    MAX_RECEIVE_LENGTH,
    P_DATA_TF,
    RELEASE_RP,
    Buffer,
    Wire,
)
from pacs_tasks.errors import PeerUnavailableError, UnreadableInputError
from pacs_tasks.request import Priority

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
MOVE_ORIGINATOR_MESSAGE_ID = 0x1031

NO_DATA_SET = 0x0101
_DATA_SET = 0x0001
#: Values of Priority, (0000,0700), PS3.7 section E.1.
MEDIUM, HIGH, LOW = 0, 1, 2
PRIORITIES = {Priority.STAT: HIGH, Priority.NORMAL: MEDIUM, Priority.BULK: LOW}

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


# Message control header (PS3.8 section E.2).
_COMMAND = 1
_LAST = 2
#: PDU header, PDV length, context id, message control header.
_PDV = struct.Struct(">BxLLBB")
#: Bytes of the longest P-DATA-TF that we send, whatever the remote accepts: longer ones gain nothing.
_LONGEST_SENT = MAX_RECEIVE_LENGTH
#: A remote that accepts less than this in a P-DATA-TF is misconfigured.
_SHORTEST_SENT = 128
#: Bytes of the longest command set that is accepted: a valid one has a dozen short elements.
_LONGEST_COMMAND = 65_536
#: Bytes of the longest identifier that is accepted: one with 200,000 UIDs fits, of a C-MOVE or a report.
LONGEST_IDENTIFIER = 1 << 24
#: Bytes of a data set that are read and passed to the socket at a time.
_BLOCK = 1 << 20


class DataSet(Protocol):
    """An encoded data set: bytes, or a file that is read slice by slice."""

    def __len__(self) -> int: ...

    def __getitem__(self, wanted: slice, /) -> Buffer: ...


class MessageStream:
    """The messages of one association.

    Parameters
    ----------
    wire
        The connected socket of an accepted association.
    max_length
        The longest P-DATA-TF that the remote receives, in bytes; 0 means no limit (PS3.8 section D.1).
    context_ids
        The accepted presentation contexts. A message in any other one is an error (PS3.8 section 9.3.5.1).
    """

    def __init__(self, wire: Wire, max_length: int, context_ids: Collection[int]) -> None:
        self.wire = wire
        self._context_ids = frozenset(context_ids)
        longest = min(max(max_length, _SHORTEST_SENT), _LONGEST_SENT) if max_length else _LONGEST_SENT
        # A fragment is even (PS3.8 section E.1), and six bytes of the PDU belong to the PDV.
        self._fragment = (longest - 6) & ~1
        self._rest = memoryview(b"")
        #: The context of a data set that the last command set announced and nobody has read.
        self._unread: int | None = None

    # Sending

    def send(self, context_id: int, command_set: bytes, data_set: DataSet | None = None) -> None:
        """Send a message.

        Parameters
        ----------
        data_set
            Encoded in the transfer syntax of the context. It is sent block by block and never held as a whole.

        Raises
        ------
        UnreadableInputError
            If the file of ``data_set`` cannot be read. If a part of it has been sent, the association is aborted.
        """
        buffers = self._pdvs(context_id, _COMMAND, command_set, final=True)
        if data_set is not None:
            size = len(data_set)
            # Whole fragments, so that blocks leave no short PDUs in the middle.
            block = max(_BLOCK // self._fragment, 1) * self._fragment
            for start in range(0, max(size, 1), block):
                try:
                    content = data_set[start : start + block]
                except UnreadableInputError:
                    if start:
                        # A message without its end leaves the association unusable.
                        self.wire.abort()
                    raise
                buffers += self._pdvs(context_id, 0, content, final=start + block >= size)
                self.wire.send(buffers)
                buffers = []
        if buffers:
            self.wire.send(buffers)

    def respond(self, context_id: int, request: Command, status: int, more: Mapping[int, int | str]) -> None:
        """Send the response to a request; ``more`` elements depend on the service."""
        elements = {
            AFFECTED_SOP_CLASS_UID: request.text(AFFECTED_SOP_CLASS_UID),
            COMMAND_FIELD: (request.field or 0) | RESPONSE,
            MESSAGE_ID_RESPONDED_TO: request.number(MESSAGE_ID) or 0,
            STATUS: status,
            **more,
        }
        self.send(context_id, encode(elements, data_set=False))

    def _pdvs(self, context_id: int, kind: int, content: Buffer, *, final: bool) -> list[Buffer]:
        """Split content into PDVs, each in a P-DATA-TF of its own (PS3.8 section 9.3.5)."""
        buffers: list[Buffer] = []
        view, step = memoryview(content), self._fragment
        for start in range(0, max(len(view), 1), step):
            part = view[start : start + step]
            control = kind | _LAST if final and start + step >= len(view) else kind
            buffers += (_PDV.pack(P_DATA_TF, len(part) + 6, len(part) + 2, context_id, control), part)
        return buffers

    # Receiving

    def has_input(self, seconds: float) -> bool:
        """Whether the remote sends something, or ends the connection, within ``seconds``."""
        return bool(self._rest) or self.wire.has_input(seconds)

    def receive_command(self, awaited: str) -> tuple[int, Command] | None:
        """Receive the context id and the command set of the next message, or ``None`` after a release.

        The data set of the message before is skipped if nobody has read it: it may have been announced and never sent.

        Parameters
        ----------
        awaited
            Names in error messages what the caller waits for.
        """
        content = bytearray()
        first_id = None
        while True:
            fragment = self._next_pdv(awaited)
            if fragment is None:
                return None
            context_id, control, value = fragment
            if not control & _COMMAND and self._unread == context_id:
                self._unread = None if control & _LAST else context_id
                continue
            self._unread = None
            if not control & _COMMAND or first_id not in {None, context_id}:
                raise self.wire.protocol_error("sent a data set instead of a command set")
            first_id = context_id
            content += value
            if len(content) > _LONGEST_COMMAND:
                raise self.wire.protocol_error("sent an endless command set")
            if control & _LAST:
                break
        try:
            decoded = decode(content)
        except ValueError as error:
            raise self.wire.protocol_error(f"sent an invalid message ({error})") from None
        self._unread = context_id if decoded.has_data_set else None
        return context_id, decoded

    def receive_data(self, context_id: int, awaited: str) -> Iterator[memoryview]:
        """Receive the fragments of the data set that follows. Each is valid until the next one is requested."""
        self._unread = None
        while True:
            fragment = self._next_pdv(awaited)
            if fragment is None:
                raise PeerUnavailableError(
                    f"{self.wire.remote} released the association in the middle of a message. Check its log."
                )
            found_id, control, value = fragment
            if control & _COMMAND or found_id != context_id:
                raise self.wire.protocol_error("sent a command set instead of a data set")
            yield value
            if control & _LAST:
                return

    def receive_identifier(self, context_id: int, awaited: str) -> bytes:
        """Receive the whole data set that follows, such as a match."""
        content = bytearray()
        for part in self.receive_data(context_id, awaited):
            content += part
            if len(content) > LONGEST_IDENTIFIER:
                raise self.wire.protocol_error("sent an endless identifier")
        return bytes(content)

    def _next_pdv(self, awaited: str) -> tuple[int, int, memoryview] | None:
        """Give context id, message control header and content of the next PDV (PS3.8 section 9.3.5.1)."""
        while not self._rest:
            kind, content = self.wire.receive_pdu(awaited)
            if kind == P_DATA_TF and content:
                self._rest = self._checked(content)
            elif kind == P_DATA_TF:
                raise self.wire.protocol_error("sent an empty P-DATA-TF")
            elif kind == A_RELEASE_RQ:
                self.wire.send([RELEASE_RP])
                self.wire.close()
                return None
            elif kind == A_ABORT:
                raise aborted(self.wire, content, f"before {awaited} arrived")
            else:
                raise self.wire.protocol_error(f"sent a PDU of type {kind} on an open association")
        rest = self._rest
        length = int.from_bytes(rest[:4], "big")
        if rest[4] not in self._context_ids:
            raise self.wire.protocol_error("sent a message in a presentation context that was not accepted")
        self._rest = rest[4 + length :]
        return rest[4], rest[5], rest[6 : 4 + length]

    def _checked(self, content: memoryview) -> memoryview:
        """Check all PDVs of a P-DATA-TF before using any: if the last does not fit, none can be trusted."""
        position, size = 0, len(content)
        while position < size:
            length = int.from_bytes(content[position : position + 4], "big")
            position += 4 + length
            if length < 2 or position > size:
                raise self.wire.protocol_error("sent a malformed P-DATA-TF")
        return content


def aborted(wire: Wire, content: memoryview, when: str, step: str = "Check its log.") -> PeerUnavailableError:
    """Close after an A-ABORT (PS3.8 section 9.3.8); give the error with its source and reason."""
    wire.close()
    abort = pynetdicom.pdu.A_ABORT_RQ()
    abort.source, abort.reason_diagnostic = content[2:4] if len(content) >= 4 else (0, 0)
    by_provider = abort.source == 2 and abort.reason_diagnostic in range(1, 7)
    reason = abort.reason_str if by_provider else "No reason given"
    origin = "DICOM layer" if abort.source == 2 else "application"
    return PeerUnavailableError(f"{wire.remote} aborted the association {when} ({origin}: {reason}). {step}")
