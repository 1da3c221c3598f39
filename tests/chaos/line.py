"""A line that fails: a TCP proxy in a process of its own, ``python -m tests.chaos.line PORT TO_PORT PLAN``.

It cuts a connection at given bytes of all that goes in a direction, so that a cut falls within a PDU, and says so on
stdout. Where packets would be lost, TCP would send them again; what an application sees of a bad line is a connection
that breaks, so "loss" resets a connection with a given chance for each chunk that it carries.
"""

from __future__ import annotations

import json
import random
import socket
import struct
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from pacs_tasks.ae import RemoteAE
from tests.support.ports import answers, free_port
from tests.support.processes import ROOT, Process, environment, started

Direction = Literal["out", "back"]
#: ``reset`` ends the connection both ways, ``swallow`` carries nothing on it any more, in either direction, while it
#: stays open, ``stall`` carries one byte a second from then on.
How = Literal["reset", "swallow", "stall"]

_CHUNK: Final = 1 << 16
#: Seconds between two bytes of a stalled connection.
_STALL: Final = 1.0
_SAYS: Final = "cut "


@dataclass(frozen=True)
class Cut:
    """A connection that is cut when so many bytes have gone in a direction, on all connections together."""

    direction: Direction
    offset: int
    how: How


@dataclass(frozen=True)
class Plan:
    """What goes wrong on the line.

    Parameters
    ----------
    loss
        The chance that a chunk resets its connection.
    pause
        Seconds before each byte that comes back, one at a time; 0 carries chunks.
    """

    cuts: Sequence[Cut] = ()
    loss: float = 0.0
    pause: float = 0.0
    seed: int = 0


class _Counter:
    """What has gone in each direction, and what is still to be cut there."""

    def __init__(self, plan: Plan) -> None:
        self._lock = threading.Lock()
        self._gone = {"out": 0, "back": 0}
        self._cuts = list(plan.cuts)
        self._loss, self._random = plan.loss, random.Random(plan.seed)

    def take(self, direction: Direction, size: int) -> tuple[int, How | None]:
        """How much of a chunk may go on, and what happens then."""
        with self._lock:
            start = self._gone[direction]
            taken, how = size, None
            for cut in self._cuts:
                if cut.direction == direction and start <= cut.offset < start + size:
                    self._cuts.remove(cut)
                    taken, how = cut.offset - start, cut.how
                    break
            else:
                if self._random.random() < self._loss:
                    taken, how = self._random.randrange(size), "reset"
            self._gone[direction] += taken
            if how is not None:
                print(f"{_SAYS}{time.time():.3f} {direction} {how}", flush=True)
            return taken, how


class _Connection:
    """Two sockets and what goes between them."""

    def __init__(self, near: socket.socket, far: socket.socket, counter: _Counter, pause: float) -> None:
        self._near, self._far, self._counter, self._pause = near, far, counter, pause
        self._swallows = False
        self._over = threading.Event()

    def carry(self, direction: Direction) -> None:
        """Carry one direction until its end; a thread for each."""
        source, target = (self._near, self._far) if direction == "out" else (self._far, self._near)
        with suppress(OSError):
            while chunk := source.recv(_CHUNK):
                taken, how = self._counter.take(direction, len(chunk))
                self._pass(target, chunk[:taken], self._pause if direction == "back" else 0.0)
                if how == "reset":
                    self._reset()
                elif how == "swallow":
                    self._swallows = True
                elif how == "stall":
                    self._pass(target, chunk[taken:], _STALL)
        # The end of one is the end of the other: nobody waits for what does not come.
        self._over.set()
        for sock in (self._near, self._far):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _pass(self, target: socket.socket, chunk: bytes, pause: float) -> None:
        if self._swallows:
            return
        if not pause:
            target.sendall(chunk)
            return
        for byte in chunk:
            if self._over.wait(pause):
                return
            target.sendall(bytes((byte,)))

    def _reset(self) -> None:
        for sock in (self._near, self._far):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # A socket that another thread reads is reset by its shutdown and last close alone.
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RD)
            sock.close()


def _serve(port: int, to_port: int, plan: Plan) -> None:
    counter = _Counter(plan)
    with socket.create_server(("127.0.0.1", port), backlog=128) as listener:
        while True:
            near, _ = listener.accept()
            try:
                far = socket.create_connection(("127.0.0.1", to_port), timeout=10)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            for sock in (near, far):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = _Connection(near, far, counter, plan.pause)
            for direction in ("out", "back"):
                threading.Thread(target=connection.carry, args=(direction,), daemon=True).start()


class Line:
    """A line to a PACS: the suite's side of it."""

    def __init__(self, stack: ExitStack, directory: Path, remote: RemoteAE, plan: Plan) -> None:
        port = free_port()
        #: The PACS at the end of the line.
        self.remote = remote.model_copy(update={"port": port})
        command = [sys.executable, "-m", "tests.chaos.line", str(port), str(remote.port), json.dumps(asdict(plan))]
        log = directory / "broken-line.log"
        running = started(command, log, lambda _: answers(port), env=environment(), cwd=ROOT, end_timeout=1)
        self._process: Process = stack.enter_context(running)

    def cuts(self) -> list[tuple[float, str]]:
        """When it was cut, in Unix seconds, and how."""
        lines = [line.split(" ", 2) for line in self._process.said().splitlines() if line.startswith(_SAYS)]
        return [(float(when), what) for _, when, what in lines]


if __name__ == "__main__":
    given = json.loads(sys.argv[3])
    _serve(int(sys.argv[1]), int(sys.argv[2]), Plan(**given | {"cuts": [Cut(**each) for each in given["cuts"]]}))
