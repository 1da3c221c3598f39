"""DIMSE messages over PDUs (PS3.7 section 6.3, PS3.8 annex E): for the one who asks and the one who answers."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator

from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer.command import Command
from pacs_tasks.dimse.upper_layer.file_slice import FileSlice
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

# Message control header (PS3.8 section E.2).
_COMMAND = 1
_LAST = 2
#: PDU header, PDV length, context id, message control header.
_PDV = struct.Struct(">BxLLBB")
#: What we send where the peer sets no limit, and the most where it does: longer ones gain nothing.
_LONGEST_SENT = MAX_RECEIVE_LENGTH
#: Less than this in a P-DATA-TF is a peer's mistake.
_SHORTEST_SENT = 128
#: A command set has a dozen short elements; more than this is no command set.
_LONGEST_COMMAND = 65_536
#: The list of two hundred thousand instances that a C-MOVE could not send fits.
_LONGEST_IDENTIFIER = 1 << 24
#: PDVs handed to the socket at once.
_BATCH = 256
#: Bytes that are read from a file before they are handed to the socket.
_READ = 1 << 17

DataSet = Buffer | FileSlice


class MessageStream:
    """Messages on one association.

    Parameters
    ----------
    wire
        The connected socket, the association being agreed.
    max_length
        The longest P-DATA-TF that the peer receives, in bytes; 0 is no limit (PS3.8 section D.1).
    context_ids
        The presentation contexts that were accepted: a message in another one has no meaning (PS3.8 section 9.3.5.1).
    """

    def __init__(self, wire: Wire, max_length: int, context_ids: Collection[int]) -> None:
        self.wire = wire
        self._context_ids = frozenset(context_ids)
        longest = min(max(max_length, _SHORTEST_SENT), _LONGEST_SENT) if max_length else _LONGEST_SENT
        # A fragment is even (PS3.8 section E.1); six bytes of the PDU are the PDV's own.
        self._fragment = (longest - 6) & ~1
        self._rest = memoryview(b"")

    # Sending

    def send(self, context_id: int, command_set: bytes, data_set: DataSet | None = None, tail: bytes = b"") -> None:
        """Send a message.

        Parameters
        ----------
        data_set
            Encoded in the context's transfer syntax; not copied, or read as it goes out.
        tail
            Goes out behind the data set as a part of it: the one byte that makes an odd one even.
        """
        buffers: list[Buffer] = []
        for start in range(0, len(command_set), self._fragment):
            last = start + self._fragment >= len(command_set)
            piece = command_set[start : start + self._fragment]
            buffers += self._pdv(context_id, _COMMAND | _LAST if last else _COMMAND, piece)
        if data_set is None:
            self.wire.send(buffers)
            return
        whole = data_set if isinstance(data_set, FileSlice) else memoryview(data_set)
        size, step = len(whole), self._fragment
        batch = max(_READ // step, 1) if isinstance(whole, FileSlice) else _BATCH
        for count, start in enumerate(range(0, max(size, 1), step)):
            part = self._read(whole, start) if isinstance(whole, FileSlice) else whole[start : start + step]
            last = start + step >= size
            buffers += self._pdv(context_id, _LAST if last else 0, part, len(tail) if last else 0)
            if last and tail:
                buffers.append(tail)
            if count % batch == batch - 1:
                self.wire.send(buffers)
                buffers = []
        if buffers:
            self.wire.send(buffers)

    def _read(self, whole: FileSlice, start: int) -> bytes:
        """Give a fragment; without it the message would have no end, so that the association has one."""
        try:
            return whole[start : start + self._fragment]
        except UnreadableInputError:
            self.wire.abort()
            raise

    @staticmethod
    def _pdv(context_id: int, control: int, content: Buffer, more: int = 0) -> tuple[bytes, Buffer]:
        length = len(content) + more
        return _PDV.pack(P_DATA_TF, length + 6, length + 2, context_id, control), content

    # Receiving

    def has_input(self, seconds: float) -> bool:
        """Whether the peer says something within ``seconds``, its end included."""
        return bool(self._rest) or self.wire.has_input(seconds)

    def receive_command(self, awaited: str) -> tuple[int, Command] | None:
        """Give the context id and the command set of the next message, or nothing once the peer has released.

        Parameters
        ----------
        awaited
            What the caller waits for, for messages.
        """
        content = bytearray()
        first_id = None
        while True:
            fragment = self._next_pdv(awaited)
            if fragment is None:
                return None
            context_id, control, value = fragment
            if not control & _COMMAND or first_id not in {None, context_id}:
                raise self.wire.protocol_error("sent a data set where a command set was due")
            first_id = context_id
            content += value
            if len(content) > _LONGEST_COMMAND:
                raise self.wire.protocol_error("sent a command set without end")
            if control & _LAST:
                break
        try:
            return context_id, command.decode(content)
        except ValueError as error:
            raise self.wire.protocol_error(f"sent what is no message: {error}") from None

    def receive_data(self, context_id: int, awaited: str) -> Iterator[memoryview]:
        """Give the fragments of the data set that follows; each is valid until the next is asked for."""
        while True:
            fragment = self._next_pdv(awaited)
            if fragment is None:
                raise PeerUnavailableError(f"{self.wire.peer} released the association in the middle of a message")
            found_id, control, value = fragment
            if control & _COMMAND or found_id != context_id:
                raise self.wire.protocol_error("sent a command set where a data set was due")
            yield value
            if control & _LAST:
                return

    def receive_identifier(self, context_id: int, awaited: str) -> bytes:
        """Give the whole data set that follows: a match, or the list of what a C-MOVE could not send."""
        content = bytearray()
        for part in self.receive_data(context_id, awaited):
            content += part
            if len(content) > _LONGEST_IDENTIFIER:
                raise self.wire.protocol_error("sent an identifier without end")
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
                self._agree_to_release()
                return None
            elif kind == A_ABORT:
                raise aborted(self.wire, content, f"before {awaited} came")
            else:
                raise self.wire.protocol_error(f"sent a PDU of type {kind} on an open association")
        rest = self._rest
        length = int.from_bytes(rest[:4], "big")
        if rest[4] not in self._context_ids:
            raise self.wire.protocol_error("sent a message in a presentation context that was not accepted")
        self._rest = rest[4 + length :]
        return rest[4], rest[5], rest[6 : 4 + length]

    def _checked(self, content: memoryview) -> memoryview:
        """Look at all PDVs of a P-DATA-TF before one is used: where the last does not fit, none can be trusted."""
        position, size = 0, len(content)
        while position < size:
            length = int.from_bytes(content[position : position + 4], "big")
            position += 4 + length
            if length < 2 or position > size:
                raise self.wire.protocol_error("sent a malformed P-DATA-TF")
        return content

    def _agree_to_release(self) -> None:
        self.wire.send([RELEASE_RP])
        self.wire.close()


def aborted(wire: Wire, content: memoryview, when: str) -> PeerUnavailableError:
    """Close after an A-ABORT, and say who aborted and why (PS3.8 section 9.3.8)."""
    wire.close()
    source, reason = (content[2], content[3]) if len(content) >= 4 else (0, 0)
    who = "its DICOM layer" if source == 2 else "its application"
    why = _ABORT_REASONS.get(reason, "no reason given") if source == 2 else "no reason given"
    return PeerUnavailableError(f"{wire.peer} aborted the association {when} ({who}: {why}); its log tells more")


_ABORT_REASONS = {
    1: "unrecognized PDU",
    2: "unexpected PDU",
    4: "unrecognized PDU parameter",
    5: "unexpected PDU parameter",
    6: "invalid PDU parameter value",
}
