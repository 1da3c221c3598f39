"""Peers that answer a query as no PACS that works does: byte by byte, and as fast as they can."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from itertools import count

from pacs_tasks.dimse.files.elements import LONG_VRS
from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer.wire import A_RELEASE_RQ, P_DATA_TF, RELEASE_RP
from tests.support import scripted

#: Gives the bytes of one match after the other, in Explicit VR Little Endian.
Answers = Callable[[], Iterator[bytes]]
_PDU = 16_000
#: Bytes that are sent together.
_BLOCK = 1 << 18


def element(tag: int, vr: bytes, value: bytes = b"") -> bytes:
    """An element in Explicit VR Little Endian."""
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    value += b" " * (len(value) % 2)
    length = struct.pack("<xxL", len(value)) if vr in LONG_VRS else struct.pack("<H", len(value))
    return head + length + value


def study(number: int) -> bytes:
    """A match for a study, of which each has other UIDs."""
    uid = f"1.2.826.0.1.{number}".encode()
    texts = ((0x00081030, b"LO"), (0x00100010, b"PN"), (0x00100020, b"LO"), (0x00100040, b"CS"))
    filled = b"".join(element(tag, vr, f"VALUE {number}".encode()) for tag, vr in texts)
    return element(0x00080052, b"CS", b"STUDY") + filled + element(0x0020000D, b"UI", uid + b"\0" * (len(uid) % 2))


def _request(sock: socket.socket) -> tuple[int, int] | None:
    """Context and message id of the next request, behind its identifier; nothing once the association has ended."""
    found, command_set = None, b""
    while True:
        kind, content = scripted.receive_pdu(sock)
        if kind == A_RELEASE_RQ:
            sock.sendall(RELEASE_RP)
        if kind != P_DATA_TF:
            return None
        context_id, control = content[4], content[5]
        if not control & 1 and control & 2 and found is not None:
            return context_id, found
        command_set += content[6:] if control & 1 else b""
        if control == 3:
            found, command_set = command.decode(command_set).number(command.MESSAGE_ID), b""


def _response(context_id: int, message_id: int, status: int, *, match: bool = False, comment: str = "") -> bytes:
    elements: dict[int, int | str] = {
        command.COMMAND_FIELD: command.C_FIND_RQ | command.RESPONSE,
        command.MESSAGE_ID_RESPONDED_TO: message_id,
        command.STATUS: status,
        command.ERROR_COMMENT: comment,
    }
    encoded = command.encode(elements, data_set=match)
    parts = [encoded[start : start + _PDU] for start in range(0, len(encoded), _PDU)]
    return b"".join(scripted.p_data(context_id, 1 | (part is parts[-1]) << 1, part) for part in parts)


def answering(answers: Answers, *, final: int = 0x0000, comment: str = "") -> scripted.Script:
    """A script that sends these matches to each request, and then the final status."""

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock)
        while (request := _request(sock)) is not None:
            pending, block = _response(*request, 0xFF00, match=True), bytearray()
            for match in answers():
                block += pending
                for start in range(0, len(match), _PDU):
                    last = start + _PDU >= len(match)
                    block += scripted.p_data(request[0], 2 if last else 0, match[start : start + _PDU])
                    if len(block) > _BLOCK:
                        sock.sendall(block)
                        block.clear()
            sock.sendall(block + _response(*request, final, comment=comment))

    return script


def without_matches(sock: socket.socket) -> None:
    """A script of pending responses without a data set, without end."""
    scripted.accept_all(sock)
    request = _request(sock)
    while request is not None:
        sock.sendall(_response(*request, 0xFF00) * 500)


def without_an_end(sock: socket.socket) -> None:
    """A script of one match that never ends."""
    scripted.accept_all(sock)
    request = _request(sock)
    assert request is not None
    sock.sendall(_response(*request, 0xFF00, match=True))
    while True:
        sock.sendall(scripted.p_data(request[0], 0, b"\x10\0\x10\0PN\x02\0AB" * 1_000))


def endless() -> Iterator[bytes]:
    """Studies without end."""
    return map(study, count())


def of_elements(number: int) -> Answers:
    """One good match, then one of so many elements."""
    return lambda: iter([study(1), study(2) + element(0x0029_1010, b"LO") * number])


def of_depth(number: int) -> Answers:
    """One good match, then one of so many sequences within each other."""
    undefined = b"\xff" * 4
    opened = b"\x40\0\x75\2SQ\0\0" + undefined + b"\xfe\xff\0\xe0" + undefined
    closed = struct.pack("<HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    return lambda: iter([study(1), study(2) + opened * number + closed * number])


def of_bytes(size: int, number: int) -> Answers:
    """So many matches with a value of so many bytes each."""
    return lambda: (study(each) + element(0x0029_1010, b"UT", b"x" * size) for each in range(number))
