"""PDUs on a connected socket (PS3.8 section 9): blocking and buffered, with a limit on every wait."""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import selectors
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence

from pacs_tasks.errors import AssociationError, PeerUnavailableError, TLSError

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

# The first bytes of a TLS alert or handshake (RFC 8446 section 5.1).
_TLS_RECORDS = frozenset((0x15, 0x16))
_TLS_MAJOR = 3

#: Bytes of the longest P-DATA-TF that we offer to receive: eight times the usual 16 KiB, so an eighth of the PDUs.
MAX_RECEIVE_LENGTH = 131_072
#: No valid PDU is longer: remotes that ignore our maximum stay below it, and 128 contexts need about 64 KiB.
_ABSURD_LENGTH = 1 << 20
#: Seconds between two checks during a wait.
SLICE = 0.25
#: Buffers per ``sendmsg``: POSIX guarantees 16, Linux and macOS accept 1,024.
_BUFFERS = 512 if os.name == "posix" else 16
_QUICK_ACK: int | None = getattr(socket, "TCP_QUICKACK", None)

Watch = Callable[[], None]
Buffer = bytes | memoryview


class Wire:
    """A connected socket, used by one thread at a time.

    Any failure closes it, so that no late response can be mistaken for the response to another request.

    Parameters
    ----------
    sock
        Connected.
    remote
        The name of the remote in messages.
    limit
        Seconds that the remote may stay silent: until a whole PDU has arrived, and between two moments of accepting
        data. It may be changed between uses.
    """

    def __init__(self, sock: socket.socket, remote: str, limit: float) -> None:
        self.remote = remote
        self.limit = limit
        #: Seconds that connecting took: one round trip.
        self.round_trip = 0.0
        #: The next step when the remote is silent.
        self.advice = "Check that the PACS is not overloaded, or allow it more time with --timeout."
        #: The next step when the remote uses TLS.
        self.tls_advice = "Enable it with --tls, or with `tls = true` where its address is set."
        #: The next step when the remote closes the connection.
        self.hint = "Check its log."
        #: The deadline of the operation under way: see :meth:`limit_operation`.
        self._until = math.inf
        self._operation = math.inf
        #: When the remote was last active elsewhere: see :meth:`note_activity`.
        self._heard = -math.inf
        #: Called at least every half second, in waits and between PDUs. It may raise.
        self.watch: Watch | None = None
        #: Whether a PDU is partly sent; nothing else may be sent then.
        self.sending = False
        self._sock = sock
        self._closed = False
        # An anonymous map, because a bytearray per association fragmented the heap: a receiver grew from 37 to 150 MB
        # within 20,000 associations.
        self._buffer = mmap.mmap(-1, 2 * MAX_RECEIVE_LENGTH)
        self._start = self._end = 0
        self._watched = time.monotonic()
        sock.settimeout(SLICE)
        # Nagle's algorithm, together with the remote's delayed ACK, costs 40 ms for each message.
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    @property
    def closed(self) -> bool:
        return self._closed

    def push(self, content: bytes | bytearray) -> None:
        """Have these bytes received first: they were read from the socket before it became a wire."""
        self._buffer[: len(content)] = content
        self._end = len(content)

    def limit_operation(self, seconds: float = math.inf) -> None:
        """Limit the operation that begins now: a remote that sends a byte now and then is never silent."""
        self._until, self._operation = time.monotonic() + seconds, seconds

    def note_activity(self) -> None:
        """Record that the remote is active: it delivers instances over another association."""
        self._heard = time.monotonic()

    def addresses(self) -> tuple[str, str]:
        """Give the network addresses of the remote and of our side; empty if the connection has gone."""
        try:
            return str(self._sock.getpeername()[0]), str(self._sock.getsockname()[0])
        except OSError:
            return "", ""

    def certificate_marks(self) -> tuple[str, ...]:
        """Give what identifies the verified certificate of the remote; nothing without TLS."""
        return ()

    def close(self) -> None:
        self._closed = True
        self._sock.close()

    def quiet(self) -> bool:
        """Whether the wire is open and has no unread input, not even the end of the connection."""
        if self._closed or self._end > self._start:
            return False
        return not self._readable(0)

    def _readable(self, seconds: float) -> bool:
        """Whether there is input on the socket within ``seconds``, or it is unusable."""
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._sock, selectors.EVENT_READ)
                return bool(selector.select(seconds))
        except (OSError, ValueError):
            return True

    def has_input(self, seconds: float) -> bool:
        """Whether the remote sends something, or ends the connection, within ``seconds``.

        It may return false early where only TLS records without content arrive.
        """
        return not self.quiet() or (self._readable(seconds) and not self.quiet())

    def abort(self, source: int = 0, reason: int = 0) -> None:
        """Send A-ABORT (PS3.8 section 9.3.8) if the socket accepts it at once, and close."""
        if self._closed:
            return
        if not self.sending:
            with contextlib.suppress(OSError):
                self._sock.settimeout(0)
                self._sock.send(struct.pack(">BxLxxBB", A_ABORT, 4, source, reason))
                self._sock.shutdown(socket.SHUT_WR)
        self.close()

    def lost(self, what: str, *, broken: bool = False) -> PeerUnavailableError:
        """Abort; give the error to raise. ``what`` follows the name of the remote."""
        self.abort()
        error = PeerUnavailableError(f"{self.remote} {what}")
        error.broken = broken
        return error

    def connection_error(self, error: OSError, when: str) -> AssociationError:
        """Abort because the connection broke; give the error to raise."""
        what = f"ended the connection {when} ({error.strerror or type(error).__name__}). {self.hint}"
        return self.lost(what, broken=True)

    def protocol_error(self, what: str) -> PeerUnavailableError:
        """Abort because the remote broke the protocol; give the error to raise."""
        self.abort(source=2, reason=6)
        return PeerUnavailableError(
            f"{self.remote} {what}, which breaks the DICOM protocol. Check that the port is that of a DICOM service."
        )

    # Sending

    def send(self, buffers: Sequence[Buffer]) -> None:
        """Send all buffers; they must hold whole PDUs.

        Raises
        ------
        PeerUnavailableError
            If the remote accepts nothing for too long, or has gone.
        """
        self.check_open()
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
                    f"accepted nothing for {self.limit:g} s while data were sent. "
                    "Check whether the PACS is overloaded or has stopped."
                )
            if now - self._watched > SLICE:
                self._check(now)
            while first < len(rest) and sent >= len(rest[first]):
                sent -= len(rest[first])
                first += 1
            if sent:
                rest[first] = memoryview(rest[first])[sent:]
        self.sending = False

    def _send_some(self, rest: list[Buffer], first: int) -> int:
        try:
            if sys.platform == "win32":
                sent = self._sock.send(b"".join(rest[first : first + _BUFFERS]))
            else:
                sent = self._sock.sendmsg(rest[first : first + _BUFFERS])
        except TimeoutError:
            return 0
        except OSError as error:
            raise self.connection_error(error, "while data were sent") from None
        return sent

    # Receiving

    def receive_pdu(self, awaited: str) -> tuple[int, memoryview]:
        """Receive the type and the content of the next PDU. The content is valid until the next call.

        Parameters
        ----------
        awaited
            Names in error messages what the caller waits for.
        """
        self.check_open()
        deadline = time.monotonic() + self.limit
        self._fill(6, deadline, awaited)
        kind, length = struct.unpack_from(">BxL", self._buffer, self._start)
        if not A_ASSOCIATE_RQ <= kind <= A_ABORT or length > _ABSURD_LENGTH:
            raise self._no_pdu(kind, length)
        self._fill(6 + length, deadline, awaited)
        content = memoryview(self._buffer)[self._start + 6 : self._start + 6 + length]
        self._start += 6 + length
        return kind, content

    def check_open(self) -> None:
        """Raise if the wire is closed."""
        if self._closed:
            raise PeerUnavailableError(f"The association with {self.remote} has ended. Open another one.")

    def _no_pdu(self, kind: int, length: int) -> AssociationError:
        if kind in _TLS_RECORDS and self._buffer[self._start + 1] == _TLS_MAJOR:
            self.abort()
            return TLSError(f"{self.remote} uses TLS, but this connection does not. {self.tls_advice}")
        if self._buffer[self._start : self._start + 5] == b"HTTP/":
            self.abort()
            return AssociationError(
                f"{self.remote} answered in HTTP: the port is that of a web server. Set --port to the DICOM port of "
                "the PACS (often 104, 11112, or 4242 for Orthanc)."
            )
        return self.protocol_error(f"sent a PDU of type {kind} and {length} bytes")

    def _fill(self, wanted: int, deadline: float, awaited: str) -> None:
        """Receive until the buffer holds at least ``wanted`` bytes."""
        while self._end - self._start < wanted:
            if self._start + wanted > len(self._buffer):
                self._make_room(wanted)
            elif self._start == self._end:
                self._start = self._end = 0
            now = time.monotonic()
            if now - self._watched > SLICE:
                self._check(now)
            if now >= max(deadline, self._heard + self.limit):
                raise self.lost(f"stayed silent: {awaited} did not arrive within {self.limit:g} s. {self.advice}")
            self._receive(awaited)

    def _make_room(self, wanted: int) -> None:
        """Move unread bytes to the front, which invalidates all content given so far."""
        kept = self._buffer[self._start : self._end]
        if wanted > len(self._buffer):
            self._buffer = mmap.mmap(-1, wanted)
        self._buffer[: len(kept)] = kept
        self._start, self._end = 0, len(kept)

    def _receive(self, awaited: str) -> None:
        try:
            if _QUICK_ACK is not None:
                # The flag is not permanent (tcp(7)). Without it, a remote that uses Nagle's algorithm waits 40 ms.
                self._sock.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)
            got = self._sock.recv_into(memoryview(self._buffer)[self._end :])
        except TimeoutError:
            return
        except OSError as error:
            raise self.connection_error(error, f"before {awaited} arrived") from None
        if not got:
            raise self.lost(f"closed the connection before {awaited} arrived. {self.hint}", broken=True)
        self._end += got

    def _check(self, now: float) -> None:
        self._watched = now
        if now >= self._until:
            raise self.lost(
                f"did not finish the operation within {self._operation:g} s, although it kept sending. "
                "Check its log, or allow it more time with PACS_TASKS_OPERATION_TIMEOUT."
            )
        if self.watch is not None:
            self.watch()
