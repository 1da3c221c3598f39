"""PDUs on a connected socket (PS3.8 section 9): blocking, buffered, every wait with a limit."""

from __future__ import annotations

import contextlib
import errno
import math
import mmap
import os
import selectors
import socket
import struct
import time
from collections.abc import Callable, Sequence

from pacs_tasks.errors import AssociationError, PeerUnavailableError, TLSError, UnreadableInputError

# PDU types (PS3.8 section 9.3).
A_ASSOCIATE_RQ = 0x01
A_ASSOCIATE_AC = 0x02
A_ASSOCIATE_RJ = 0x03
P_DATA_TF = 0x04
A_RELEASE_RQ = 0x05
A_RELEASE_RP = 0x06
A_ABORT = 0x07

RELEASE_RQ = struct.pack(">BxLxxxx", A_RELEASE_RQ, 4)
RELEASE_RP = struct.pack(">BxLxxxx", A_RELEASE_RP, 4)

# How an alert and a handshake of TLS begin (RFC 8446 section 5.1).
_TLS_RECORDS = frozenset((0x15, 0x16))
_TLS_MAJOR = 3

#: The longest P-DATA-TF that we offer to receive: eight times the usual 16 KiB, so an eighth of the PDUs.
MAX_RECEIVE_LENGTH = 131_072
#: No honest PDU is longer: peers that ignore our maximum stay below it, and 128 contexts need about 64 KiB.
_ABSURD_LENGTH = 1 << 20
#: How often, in seconds, a wait looks up to see whether it should go on.
SLICE = 0.25
#: Buffers that one ``sendmsg`` takes: POSIX promises 16, Linux and macOS take 1,024.
_BUFFERS = 512 if os.name == "posix" else 16
_HAS_SENDMSG = hasattr(socket.socket, "sendmsg")
_QUICK_ACK: int | None = getattr(socket, "TCP_QUICKACK", None)

Watch = Callable[[], None]
Buffer = bytes | memoryview


class Wire:
    """One connected socket. It belongs to one thread at a time.

    Whatever goes wrong closes it, so that nothing can be taken for the answer to something else later.

    Parameters
    ----------
    sock
        Connected.
    peer
        How messages name the other side.
    limit
        Seconds that the peer may stay silent: until a whole PDU has come, and between two moments of taking what we
        send. It may be changed between uses.
    """

    #: Whether what is sent is copied on its way.
    copies = False

    def __init__(self, sock: socket.socket, peer: str, limit: float) -> None:
        self.peer = peer
        self.limit = limit
        #: Seconds that the connection took: what a question and its answer take at least.
        self.round_trip = 0.0
        #: What to do about a silent peer.
        self.advice = "check that the PACS is not overloaded, or allow it more time with --timeout"
        #: What to do about a peer that speaks TLS to us.
        self.tls_advice = "ask for it with --tls, or with `tls = true` where its address is set"
        #: What may stand behind a peer that hangs up, for messages.
        self.hint = ""
        #: When what is under way must have ended, however busy the peer is: see :meth:`limit_operation`.
        self._until = math.inf
        self._operation = math.inf
        #: When the peer last gave a sign of life elsewhere: see :meth:`note_activity`.
        self._heard = -math.inf
        #: Called at least every half second, in waits and between PDUs; may raise.
        self.watch: Watch | None = None
        #: Inside a PDU that goes out; nothing else may be sent then.
        self.sending = False
        self._sock = sock
        self._closed = False
        # Pages of its own: as a bytearray, each association's left a hole in the heap of its thread, and a receiver
        # grew from 37 to 150 MB within 20,000 of them.
        self._buffer = mmap.mmap(-1, 2 * MAX_RECEIVE_LENGTH)
        self._start = self._end = 0
        self._watched = time.monotonic()
        sock.settimeout(SLICE)
        # Nagle's algorithm against the peer's delayed ACK costs 40 ms for each message.
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    @property
    def closed(self) -> bool:
        return self._closed

    def limit_operation(self, seconds: float = math.inf) -> None:
        """Have what begins now end within ``seconds``: a peer that sends a byte now and then is never silent."""
        self._until, self._operation = time.monotonic() + seconds, seconds

    def note_activity(self) -> None:
        """The peer is at work elsewhere, so it is not silent: what it delivers comes over another association."""
        self._heard = time.monotonic()

    def close(self) -> None:
        self._closed = True
        self._sock.close()

    def quiet(self) -> bool:
        """Whether the wire is open and the peer has sent nothing that is still to be read, not even its end."""
        if self._closed or self._end > self._start:
            return False
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._sock, selectors.EVENT_READ)
                return not selector.select(0)
        except (OSError, ValueError):
            return False

    def has_input(self, seconds: float) -> bool:
        """Whether the peer sends something within ``seconds``, or ends the connection, or has done so.

        Where something comes that is nothing to us, as TLS has it, false may come early.
        """
        if not self.quiet():
            return True
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._sock, selectors.EVENT_READ)
                selector.select(seconds)
        except (OSError, ValueError):
            return True
        return not self.quiet()

    def abort(self, source: int = 0, reason: int = 0) -> None:
        """Send A-ABORT (PS3.8 section 9.3.8) if the socket takes it at once, and close."""
        if self._closed:
            return
        if not self.sending:
            with contextlib.suppress(OSError):
                self._sock.settimeout(0)
                self._sock.send(struct.pack(">BxLxxBB", A_ABORT, 4, source, reason))
                self._sock.shutdown(socket.SHUT_WR)
        self.close()

    def lost(self, what: str) -> PeerUnavailableError:
        """End the association and say why, for the caller to raise."""
        self.abort()
        return PeerUnavailableError(f"{self.peer} {what}")

    def connection_error(self, error: OSError, when: str) -> AssociationError:
        """End the association since the connection broke; give the error to raise."""
        return self.lost(f"ended the connection {when} ({_sentence(error)}){self.hint}")

    def protocol_error(self, what: str) -> PeerUnavailableError:
        """End the association since the peer breaks the protocol."""
        self.abort(source=2, reason=6)
        return PeerUnavailableError(
            f"{self.peer} {what}, which is not the DICOM protocol; check that the port is that of a DICOM service"
        )

    # Sending

    def send(self, buffers: Sequence[Buffer]) -> None:
        """Send all buffers; they must hold whole PDUs.

        Raises
        ------
        PeerUnavailableError
            If the peer takes nothing for too long, or is gone.
        UnreadableInputError
            If a memory-mapped file became shorter meanwhile; the association is aborted.
        """
        if self._closed:
            raise PeerUnavailableError(f"the association with {self.peer} has ended; open another one")
        rest = list(buffers)
        first = 0
        deadline = time.monotonic() + self.limit
        self.sending = True
        while first < len(rest):
            sent = self._send_some(rest, first)
            now = time.monotonic()
            if sent:
                deadline = now + self.limit
            elif now >= deadline:
                raise self.lost(
                    f"accepted nothing of what was sent to it for {self.limit:g} s; it may be overloaded or stopped"
                )
            if now - self._watched > SLICE:
                self._look(now)
            while first < len(rest) and sent >= len(rest[first]):
                sent -= len(rest[first])
                first += 1
            if sent:
                rest[first] = memoryview(rest[first])[sent:]
        self.sending = False

    def _send_some(self, rest: list[Buffer], first: int) -> int:
        try:
            if _HAS_SENDMSG:
                return self._sock.sendmsg(rest[first : first + _BUFFERS])
            return self._sock.send(b"".join(rest[first : first + _BUFFERS]))
        except TimeoutError:
            return 0
        except OSError as error:
            if error.errno == errno.EFAULT:
                self.abort()
                raise UnreadableInputError("the file became shorter while it was sent; send it again") from None
            raise self.connection_error(error, "while we sent to it") from None

    # Receiving

    def receive_pdu(self, awaited: str) -> tuple[int, memoryview]:
        """Give the type and the content of the next PDU; the content is valid until the next call.

        Parameters
        ----------
        awaited
            What the caller waits for, for messages.
        """
        if self._closed:
            raise PeerUnavailableError(f"the association with {self.peer} has ended; open another one")
        deadline = time.monotonic() + self.limit
        self._fill(6, deadline, awaited)
        kind, length = struct.unpack_from(">BxL", self._buffer, self._start)
        if not A_ASSOCIATE_RQ <= kind <= A_ABORT or length > _ABSURD_LENGTH:
            raise self._no_pdu(kind, length)
        self._fill(6 + length, deadline, awaited)
        content = memoryview(self._buffer)[self._start + 6 : self._start + 6 + length]
        self._start += 6 + length
        return kind, content

    def _no_pdu(self, kind: int, length: int) -> AssociationError:
        if kind in _TLS_RECORDS and self._buffer[self._start + 1] == _TLS_MAJOR:
            self.abort()
            return TLSError(f"{self.peer} speaks TLS, and we did not; {self.tls_advice}")
        return self.protocol_error(f"sent a PDU of type {kind} and {length} bytes")

    def _fill(self, wanted: int, deadline: float, awaited: str) -> None:
        """Have at least ``wanted`` bytes in the buffer."""
        while self._end - self._start < wanted:
            if self._start + wanted > len(self._buffer):
                self._make_room(wanted)
            elif self._start == self._end:
                self._start = self._end = 0
            now = time.monotonic()
            if now - self._watched > SLICE:
                self._look(now)
            if now >= max(deadline, self._heard + self.limit):
                raise self.lost(f"stayed silent: {awaited} did not come within {self.limit:g} s; {self.advice}")
            self._receive(awaited)

    def _make_room(self, wanted: int) -> None:
        """Move what is there to the front; what was given before is no longer valid."""
        kept = self._buffer[self._start : self._end]
        if wanted > len(self._buffer):
            self._buffer = mmap.mmap(-1, wanted)
        self._buffer[: len(kept)] = kept
        self._start, self._end = 0, len(kept)

    def _receive(self, awaited: str) -> None:
        try:
            if _QUICK_ACK is not None:
                # The flag does not last (tcp(7)): a peer that leaves Nagle's algorithm on waits 40 ms without it.
                self._sock.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)
            got = self._sock.recv_into(memoryview(self._buffer)[self._end :])
        except TimeoutError:
            return
        except OSError as error:
            raise self.connection_error(error, f"before {awaited} came") from None
        if not got:
            raise self.lost(f"closed the connection before {awaited} came{self.hint}")
        self._end += got

    def _look(self, now: float) -> None:
        self._watched = now
        if now >= self._until:
            raise self.lost(
                f"did not finish what it was asked within {self._operation:g} s, though it is not silent; "
                "its log tells more, and PACS_TASKS_OPERATION_TIMEOUT allows it more"
            )
        if self.watch is not None:
            self.watch()


def _sentence(error: OSError) -> str:
    return error.strerror or type(error).__name__
