"""PDUs and DIMSE messages as bytes: written as a peer writes them, and read without any code of the product.

The reading half is the judge of what went over a wire (PS3.8 section 9.3, PS3.7 section 6.3.1): it takes whole PDUs and
whole messages, and stops where the bytes make no sense.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer import negotiation as acse

CT: Final = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT: Final = "1.2.840.10008.1.2.1"
IMPLICIT: Final = "1.2.840.10008.1.2"

RELEASE: Final = b"\5\0\0\0\0\4\0\0\0\0"
RELEASED: Final = b"\6\0\0\0\0\4\0\0\0\0"
#: By the service provider: unrecognized PDU.
ABORT: Final = b"\7\0\0\0\0\4\0\0\2\1"

# Message control header (PS3.8 section E.2).
DATA: Final = 0
COMMAND: Final = 1
LAST: Final = 2


def pdu(kind: int, content: bytes) -> bytes:
    """Any PDU."""
    return struct.pack(">BxL", kind, len(content)) + content


def pdv(control: int, content: bytes, context_id: int = 1) -> bytes:
    """One presentation data value."""
    return struct.pack(">LBB", len(content) + 2, context_id, control) + content


def p_data(*pdvs: bytes) -> bytes:
    """A P-DATA-TF of these."""
    return pdu(4, b"".join(pdvs))


def fragments(content: bytes, size: int, kind: int, context_id: int = 1) -> list[bytes]:
    """PDVs of ``size`` bytes each, the last one marked."""
    found = []
    for at in range(0, max(len(content), 1), size):
        last = LAST if at + size >= len(content) else 0
        found.append(pdv(kind | last, content[at : at + size], context_id))
    return found


def message(command_set: bytes, data_set: bytes | None = None, context_id: int = 1) -> bytes:
    """A message in a PDU for each half."""
    whole = p_data(pdv(COMMAND | LAST, command_set, context_id))
    return whole if data_set is None else whole + p_data(pdv(DATA | LAST, data_set, context_id))


def association_request(max_length: int = 16_384, *pairs: tuple[str, str]) -> bytes:
    """An A-ASSOCIATE-RQ for these (abstract syntax, transfer syntax): one CT context unless told otherwise."""
    proposed = tuple(
        acse.ProposedContext(2 * number + 1, abstract, (syntax,))
        for number, (abstract, syntax) in enumerate(pairs or ((CT, EXPLICIT),))
    )
    return acse.encode_request(acse.AssociateRequest("A_TITLE_OF_16_CH", "CALLER", proposed, max_length))


def store_request(uid: str, message_id: int = 1, sop_class_uid: str = CT, data_set: bool = True) -> bytes:
    """The command set of a C-STORE request."""
    elements: dict[int, int | str] = {
        command.AFFECTED_SOP_CLASS_UID: sop_class_uid,
        command.COMMAND_FIELD: command.C_STORE_RQ,
        command.MESSAGE_ID: message_id,
        command.PRIORITY: command.MEDIUM,
        command.AFFECTED_SOP_INSTANCE_UID: uid,
    }
    return command.encode(elements, data_set=data_set)


def response(request: int, status: int, message_id: int = 1, data_set: bool = False, **more: int | str | None) -> bytes:
    """The command set of a response; ``more`` names elements of :mod:`command`, those that are None are left out."""
    elements: dict[int, int | str] = {
        command.COMMAND_FIELD: request | command.RESPONSE,
        command.MESSAGE_ID_RESPONDED_TO: message_id,
        command.STATUS: status,
    }
    for name, value in more.items():
        element = getattr(command, name)
        elements.pop(element, None)
        if value is not None:
            elements[element] = value
    return command.encode(elements, data_set=data_set)


def element(group: int, number: int, value: bytes) -> bytes:
    """An element in Implicit VR Little Endian, as command sets are written."""
    return struct.pack("<HHL", group, number, len(value)) + value


# Reading


@dataclass(frozen=True)
class Message:
    """One whole message; ``data_set`` is None where its command set says that there is none."""

    context_id: int
    command_set: bytes
    data_set: bytes | None

    def number(self, wanted: int) -> int | None:
        value = self._values().get(wanted)
        return None if value is None or len(value) < 2 else int.from_bytes(value[:2], "little")

    def uid(self, wanted: int) -> str:
        return self._values().get(wanted, b"").rstrip(b"\0 ").decode("latin-1")

    def _values(self) -> dict[int, bytes]:
        return _values(self.command_set) or {}


def _values(command_set: bytes) -> dict[int, bytes] | None:
    """The elements of group 0000, None where the command set is malformed."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(command_set):
        if at + 8 > len(command_set):
            return None
        group, number, length = struct.unpack_from("<HHL", command_set, at)
        at += 8 + length
        if at > len(command_set):
            return None
        if group == 0:
            found[number] = command_set[at - length : at]
    return found


def pdus(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """The whole PDUs at the beginning of a stream: type and content."""
    at = 0
    while at + 6 <= len(stream):
        kind, length = struct.unpack_from(">BxL", stream, at)
        if at + 6 + length > len(stream):
            return
        yield kind, stream[at + 6 : at + 6 + length]
        at += 6 + length


def _pdvs(content: bytes) -> list[tuple[int, int, bytes]] | None:
    """Context id, message control header and content of each, None where there is none or they do not add up."""
    found = []
    at = 0
    while at < len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        if length < 2 or at + 4 + length > len(content):
            return None
        found.append((content[at + 4], content[at + 5], content[at + 6 : at + 4 + length]))
        at += 4 + length
    return found or None


def messages(stream: bytes, *, halves: bool = False) -> list[Message]:
    """The whole messages at the beginning of a stream, up to what is no P-DATA after the association is agreed.

    With ``halves`` also a last one whose command set alone is whole.
    """
    found, half = _messages(stream)
    return [*found, half] if halves and half is not None else found


def _messages(stream: bytes) -> tuple[list[Message], Message | None]:
    found: list[Message] = []
    half: Message | None = None
    context_id, kind, content = 0, COMMAND, b""
    for pdu_type, whole in pdus(stream):
        if pdu_type in {1, 2} and not found and half is None and not content:
            continue
        values = _pdvs(whole) if pdu_type == 4 else None
        if values is None:
            return found, half
        for found_id, control, part in values:
            if kind == DATA and control & COMMAND and half is not None and not content and _is_response(half):
                # A response may announce a data set that does not come (PS3.7 section 9.1.2.1.5); the next one counts.
                found.append(half)
                half, kind = None, COMMAND
            if control & COMMAND != kind or ((content or half) and found_id != context_id):
                return found, half
            context_id, content = found_id, content + part
            if not control & LAST:
                continue
            if half is None:
                if (elements := _values(content)) is None:
                    return found, None
                half = Message(context_id, content, None)
                if _has_data_set(elements):
                    kind, content = DATA, b""
                    continue
                found.append(half)
            else:
                found.append(Message(half.context_id, half.command_set, content))
            half, kind, content = None, COMMAND, b""
    return found, half


def _is_response(message: Message) -> bool:
    return bool((message.number(command.COMMAND_FIELD) or 0) & command.RESPONSE)


def _has_data_set(elements: dict[int, bytes]) -> bool:
    """Responses to C-STORE and C-ECHO have none (PS3.7 section 9.3), even where they say so."""
    kind = elements.get(0x0800, b"")[:2]
    return len(kind) == 2 and kind != b"\1\1" and elements.get(0x0100, b"")[:2] not in {b"\x01\x80", b"\x30\x80"}


def max_length(stream: bytes) -> int | None:
    """The maximum length that an A-ASSOCIATE-RQ or -AC at the beginning of a stream announces (PS3.8 section D.1)."""
    for kind, content in pdus(stream):
        at = 68
        while kind in {1, 2} and at + 4 <= len(content):
            item, length = struct.unpack_from(">BxH", content, at)
            if item == 0x50:
                return _maximum(content[at + 4 : at + 4 + length])
            at += 4 + length
        break
    return None


def _maximum(user_information: bytes) -> int | None:
    at = 0
    while at + 4 <= len(user_information):
        item, length = struct.unpack_from(">BxH", user_information, at)
        if item == 0x51:
            return int.from_bytes(user_information[at + 4 : at + 8], "big")
        at += 4 + length
    return None


def longest(stream: bytes) -> int:
    """The longest P-DATA-TF of a stream."""
    return max((len(content) for kind, content in pdus(stream) if kind == 4), default=0)


def data_sets(stream: bytes, request: int = command.C_STORE_RQ) -> dict[str, bytes]:
    """The data sets of all requests of this kind, by SOP Instance UID."""
    return {
        each.uid(command.AFFECTED_SOP_INSTANCE_UID): each.data_set
        for each in messages(stream)
        if each.number(command.COMMAND_FIELD) == request and each.data_set is not None
    }


def in_pieces(content: bytes, sizes: Sequence[int]) -> Iterator[bytes]:
    """Cut into pieces of these sizes, again and again."""
    at = number = 0
    while at < len(content):
        size = sizes[number % len(sizes)]
        yield content[at : at + size]
        at, number = at + size, number + 1
