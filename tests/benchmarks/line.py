"""A slow line between two programs of one machine: a TCP proxy that delivers everything a while later.

``python -m tests.benchmarks.line PORT TO_PORT DELAY``: the delay is that of one direction, in seconds. It keeps the
order and does not limit the bandwidth. A process of its own, so that it takes nobody's interpreter.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from tests.support.ports import answers, free_port
from tests.support.processes import ROOT, environment, started


class _End(asyncio.Protocol):
    """One end of a connection; what it reads, the other end writes ``delay`` seconds later."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._on_its_way: deque[bytes | None] = deque()
        self._at_its_end = False
        self._loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport
        self.other: _End

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._later(data)

    def eof_received(self) -> bool:
        self._later(None)
        return True  # The other direction goes on.

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._later(None)

    def pause_writing(self) -> None:
        """The receiver is slower than the sender: let the sender's kernel hold what it has."""
        self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        self.other.transport.resume_reading()

    def _later(self, data: bytes | None) -> None:
        # The queue keeps the order, which timers of one instant would not.
        self._on_its_way.append(data)
        self._loop.call_later(self._delay, self._deliver)

    def _deliver(self) -> None:
        data = self._on_its_way.popleft()
        if data is not None:
            self.other.transport.write(data)
            return
        self._at_its_end = True
        if self.other._at_its_end or self.transport.is_closing():
            self.transport.close()
            self.other.transport.close()
        elif not self.other.transport.is_closing():
            self.other.transport.write_eof()


class _Listening(_End):
    """The end towards the caller, which opens the one towards the peer."""

    def __init__(self, delay: float, to_port: int) -> None:
        super().__init__(delay)
        self._to_port = to_port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.pause_reading()
        self._opening = asyncio.ensure_future(self._open())

    async def _open(self) -> None:
        try:
            _, self.other = await self._loop.create_connection(lambda: _End(self._delay), "127.0.0.1", self._to_port)
        except OSError:
            self.transport.abort()
            return
        self.other.other = self
        self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if hasattr(self, "other"):
            super().connection_lost(exc)


async def _serve(port: int, to_port: int, delay: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Listening(delay, to_port), "127.0.0.1", port, backlog=128)
    await server.serve_forever()


@contextmanager
def line_to(to_port: int, directory: Path, round_trip: float) -> Iterator[int]:
    """A port that leads to ``to_port`` over a line of this round trip, in seconds."""
    port = free_port()
    command = [sys.executable, "-m", "tests.benchmarks.line", str(port), str(to_port), str(round_trip / 2)]
    with started(command, directory / "line.log", lambda _: answers(port), env=environment(), cwd=ROOT):
        yield port


def _precise_loop() -> asyncio.AbstractEventLoop:
    """A loop whose timers are not rounded up to the next millisecond, as epoll's are."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=_precise_loop) as runner:
        runner.run(_serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
