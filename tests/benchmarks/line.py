"""A slow line between two programs of one machine: a TCP proxy that delivers everything a while later.

``python -m tests.benchmarks.line PORT TO_PORT DELAY``: the delay is that of one direction, in seconds. It keeps the
order, does not limit the bandwidth, and lets the first bytes of a connection wait for a round trip, as the handshake of
TCP does. A process of its own, so that it takes nobody's interpreter: one loop without timers of its own, which reads
whatever has come and writes whatever is due.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from typing import Final

from tests.support.ports import answers, free_port
from tests.support.processes import ROOT, Process, environment, started

#: Bytes that are read at once.
_CHUNK: Final = 1 << 18
#: What is put into the queue beside bytes: the connection may be read from now on, or it has ended.
_BEGIN: Final = b""
_END: Final = None


@dataclass(eq=False)
class _Way:
    """One direction of a connection; ``waiting`` is due, and the receiver has no room for it yet."""

    source: socket.socket
    target: socket.socket
    waiting: deque[memoryview] = field(default_factory=deque)
    #: Nothing more comes, or it has been passed on that nothing does.
    ending: bool = False
    ended: bool = False


class _Proxy:
    """All connections of a line, in one thread.

    ``select`` and not ``epoll``, whose timeout is rounded up to the next millisecond: at most some 500 connections.
    """

    def __init__(self, port: int, to_port: int, delay: float) -> None:
        self._listener = socket.create_server(("127.0.0.1", port), backlog=512)
        self._listener.setblocking(False)
        self._to, self._delay = ("127.0.0.1", to_port), delay
        self._ways: dict[socket.socket, _Way] = {}
        self._readers: dict[int, _Way] = {}
        self._writers: dict[int, _Way] = {}
        self._numbers = count()
        #: A heap: when it is due, its number, and what.
        self._queue: list[tuple[float, int, _Way, bytes | None]] = []

    def serve(self) -> None:
        """Carry for ever."""
        while True:
            now = time.monotonic()
            while self._queue and self._queue[0][0] <= now:
                _, _, way, chunk = heappop(self._queue)
                self._deliver(way, chunk)
            timeout = max(0.0, self._queue[0][0] - time.monotonic()) if self._queue else None
            reading = [self._listener.fileno(), *self._readers]
            readable, writable, _ = select.select(reading, list(self._writers), [], timeout)
            for number in readable:
                if number == reading[0]:
                    self._accept()
                elif way_in := self._readers.get(number):
                    self._read(way_in)
            for number in writable:
                if way_out := self._writers.get(number):
                    self._write(way_out)

    def _accept(self) -> None:
        with suppress(OSError):
            near, _ = self._listener.accept()
            far = socket.socket()
            for sock in (near, far):
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            far.connect_ex(self._to)
            for source, target in ((near, far), (far, near)):
                self._ways[source] = way = _Way(source, target)
                self._later(way, _BEGIN, 2 * self._delay)

    def _later(self, way: _Way, chunk: bytes | None, delay: float) -> None:
        heappush(self._queue, (time.monotonic() + delay, next(self._numbers), way, chunk))

    def _read(self, way: _Way) -> None:
        try:
            chunk = way.source.recv(_CHUNK) or _END
        except BlockingIOError:
            return
        except OSError:
            # A connection that was reset takes nothing any more either.
            chunk, self._back(way).ended = _END, True
        if chunk is _END:
            del self._readers[way.source.fileno()]
        self._later(way, chunk, self._delay)

    def _deliver(self, way: _Way, chunk: bytes | None) -> None:
        if way.source.fileno() < 0:
            return
        if chunk == _BEGIN:
            self._readers[way.source.fileno()] = way
        elif chunk is _END:
            way.ending = True
        else:
            way.waiting.append(memoryview(chunk))
        self._write(way)

    def _write(self, way: _Way) -> None:
        """Write what is due; while the receiver is slower than the sender, the sender's kernel holds what it has."""
        number, source = way.target.fileno(), way.source.fileno()
        try:
            while way.waiting:
                sent = way.target.send(way.waiting[0])
                if sent < len(way.waiting[0]):
                    way.waiting[0] = way.waiting[0][sent:]
                else:
                    way.waiting.popleft()
        except BlockingIOError:
            self._writers[number] = way
            self._readers.pop(source, None)
            return
        except OSError:
            self._close(way)
            return
        if self._writers.pop(number, None) and not way.ending:
            self._readers[source] = way
        if way.ending and not way.ended:
            self._pass_end(way)

    def _pass_end(self, way: _Way) -> None:
        way.ended = True
        if self._back(way).ended:
            self._close(way)
        else:
            # The other direction goes on.
            with suppress(OSError):
                way.target.shutdown(socket.SHUT_WR)

    def _back(self, way: _Way) -> _Way:
        return self._ways[way.target]

    def _close(self, way: _Way) -> None:
        for sock in (way.source, way.target):
            self._readers.pop(sock.fileno(), None)
            self._writers.pop(sock.fileno(), None)
            self._ways.pop(sock, None)
            sock.close()


@dataclass(frozen=True)
class Line:
    """The near end of a line."""

    port: int
    _process: Process

    def cpu(self) -> float:
        """Seconds of a processor that the line itself has taken so far: it must not be what is measured (Linux)."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def line_to(to_port: int, directory: Path, round_trip: float) -> Iterator[Line]:
    """A line of this round trip, in seconds, that leads to ``to_port``."""
    port = free_port()
    command = [sys.executable, "-m", "tests.benchmarks.line", str(port), str(to_port), str(round_trip / 2)]
    with started(
        command, directory / f"line-{port}.log", lambda _: answers(port), env=environment(), cwd=ROOT
    ) as process:
        yield Line(port, process)


if __name__ == "__main__":
    _Proxy(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])).serve()
