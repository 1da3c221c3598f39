"""HTTP/1.1 as uvicorn reads it by httptools, with limits that both lack: of heads, of silence and of connections."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

#: Bytes of a request line and its headers. The same as uvicorn allows with h11.
_LONGEST_HEAD = 64 << 10


@dataclass(frozen=True)
class Limits:
    """How long a connection may be silent, and how many there may be.

    Attributes
    ----------
    head
        Seconds that the head of a request may take.
    piece
        Seconds from one piece of a body to the next.
    of_address, of_all
        Connections of one address, and of all. For each one more, another ends whose request is not whole.
    grace
        Seconds of silence before which none ends for there being too many of its address: a thousand browsers behind a
        proxy may connect at the same moment.
    """

    head: float = 10.0
    piece: float = 30.0
    of_address: int = 512
    of_all: int = 12_288
    grace: float = 1.0


class Connections:
    """The connections of one server.

    Behind a proxy all have the same address, so that no request which is whole is ever ended for there being too many.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._open: set[LimitedProtocol] = set()
        self._of_address: Counter[str] = Counter()
        # Those whose request is not whole, and since when each is silent. The first has been silent for longest.
        self._awaited: dict[LimitedProtocol, float] = {}

    def add(self, connection: LimitedProtocol) -> None:
        """Note a new connection, and make room for it."""
        address = connection.address
        self._open.add(connection)
        self._of_address[address] += 1
        if self._of_address[address] > self.limits.of_address:
            self._end_one(address, self.limits.grace)
        elif len(self._open) > self.limits.of_all:
            self._end_one(None, 0.0)
        self.await_more(connection)

    def remove(self, connection: LimitedProtocol) -> None:
        """Note the end of a connection."""
        if connection in self._open:
            self._open.discard(connection)
            self._of_address[connection.address] -= 1
            if not self._of_address[connection.address]:
                del self._of_address[connection.address]
            self._awaited.pop(connection, None)

    def await_more(self, connection: LimitedProtocol) -> None:
        """Note that something has come, and that more must come."""
        self._awaited.pop(connection, None)
        self._awaited[connection] = time.monotonic()

    def serve(self, connection: LimitedProtocol) -> None:
        """Note that a request is whole."""
        self._awaited.pop(connection, None)

    def _end_one(self, address: str | None, silent: float) -> None:
        latest = time.monotonic() - silent
        for each, since in self._awaited.items():
            if since > latest:
                return
            # One that we have paused ourselves owes us nothing.
            if address in {None, each.address} and not each.flow.read_paused:
                each.transport.abort()
                # Before the loop reports its end: the next one needs a room of its own.
                self.remove(each)
                return


class LimitedProtocol(HttpToolsProtocol):
    """One connection: it ends with the status 400 when a head has no end, and without one after too long a silence."""

    #: Those of the server.
    all_connections: Connections

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.address = ""
        self._limits = self.all_connections.limits
        self._timer: asyncio.TimerHandle | None = None
        self._in_head = self._in_body = False
        self._head = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        self.all_connections.add(self)
        self._expect(self._limits.head)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._stop()
        self.all_connections.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read what has come."""
        super().data_received(data)
        if self._in_head:
            self._head += len(data)
            if self._head > _LONGEST_HEAD and not self.transport.is_closing():
                self.send_400_response("The request line and its headers are too long.")
        if self.transport.is_closing():
            return
        if self._in_body:
            self._expect(self._limits.piece)
        elif self._timer is None and not self._serving:
            # uvicorn waits no longer for the next request once anything has come, be it only an empty line.
            self._expect(self._limits.head)
        self._note()

    def on_message_begin(self) -> None:
        """Begin to count: the head of a request comes."""
        self._in_head, self._head = True, 0
        if self._timer is None:
            self._expect(self._limits.head)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """End the count: the body comes."""
        self._in_head, self._in_body = False, True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Wait no longer: the request is whole."""
        self._in_body = False
        self._stop()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request, as uvicorn does."""
        super().on_response_complete()
        if not self.transport.is_closing():
            self._note()

    @property
    def _serving(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _note(self) -> None:
        if self._serving and not self._in_body:
            self.all_connections.serve(self)
        else:
            self.all_connections.await_more(self)

    def _expect(self, seconds: float) -> None:
        self._stop()
        self._timer = self.loop.call_later(seconds, self._end, seconds)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self, seconds: float) -> None:
        """End the connection, unless it is we who let it wait."""
        if self.flow.read_paused or (self._serving and not self._in_body):
            self._expect(seconds)
        else:
            self.transport.abort()


def limited(limits: Limits) -> type[LimitedProtocol]:
    """Make the protocol of one server."""

    class Limited(LimitedProtocol):
        all_connections = Connections(limits)

    return Limited
