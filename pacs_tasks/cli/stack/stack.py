"""Processes that a command runs in the foreground, shows, watches and ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import FrameType, TracebackType
from typing import IO, Self

import click

from pacs_tasks.embedded.launch import command
from pacs_tasks.errors import ConfigurationError

#: Seconds between two looks at the children.
_LOOK = 0.2
#: Last lines of a child that tell why it died.
_TAIL = 8


class Child:
    """One process, in a group of its own, so that the terminal's Ctrl-C reaches us alone and we end all in order."""

    def __init__(
        self,
        name: str,
        module: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        prefix: bool,
        quiet: bool,
    ) -> None:
        self.name = name
        self._quiet = quiet
        self.tail: deque[str] = deque(maxlen=_TAIL)
        output = subprocess.PIPE if prefix else None
        self.process = subprocess.Popen(
            command("pacs_tasks.embedded.lifeline", module, *arguments),
            # Its lifeline: it ends when we are gone, however we go.
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT if prefix else None,
            env=dict(environment),
            process_group=0 if sys.platform != "win32" else None,
        )
        self._reader = threading.Thread(target=self._show, args=(self.process.stdout,), daemon=True)
        if prefix:
            self._reader.start()

    def _show(self, pipe: IO[bytes]) -> None:
        for raw in pipe:
            line = raw.decode(errors="replace").rstrip()
            self.tail.append(line)
            if not self._quiet:
                click.echo(f"{self.name:<8} | {line}", err=True)

    def end(self, limit: float, hurry: Callable[[], bool]) -> None:
        """SIGTERM, and after ``limit`` seconds, or when in a hurry, by force; then whatever it left in its group."""
        if self.process.poll() is None:
            self.process.terminate()
        deadline = time.monotonic() + limit
        while self.process.poll() is None and time.monotonic() < deadline and not hurry():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_LOOK)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(5)
        if sys.platform != "win32":
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.close()

    def close(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        if self.process.stdout is not None:
            self._reader.join(5)
            self.process.stdout.close()


class Stack:
    """Children, ended in the order in which they were started, on Ctrl-C, SIGTERM, or when one of them dies.

    A second Ctrl-C ends them by force.
    """

    def __init__(self) -> None:
        self.children: list[Child] = []
        self._told = 0
        self._tell = threading.Event()
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._told += 1
        self._tell.set()

    @property
    def told_to_end(self) -> bool:
        return self._told > 0

    def start(
        self,
        name: str,
        module: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        prefix: bool = True,
        quiet: bool = False,
    ) -> Child:
        """Start ``python -m module``.

        Parameters
        ----------
        prefix
            Show its lines with its name before them, and keep the last ones; else it has our terminal.
        quiet
            Keep the last lines without showing any.
        """
        child = Child(name, module, arguments, environment, prefix=prefix, quiet=quiet)
        self.children.append(child)
        return child

    def wait(self, seconds: float | None = None, until: Callable[[], bool] = lambda: False) -> Child | None:
        """Wait until told to end, a child died (which is given back), ``until`` holds, or ``seconds`` have passed."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while deadline is None or time.monotonic() < deadline:
            dead = next((child for child in self.children if child.process.poll() is not None), None)
            if dead is not None or self.told_to_end or until():
                return dead
            self._tell.wait(_LOOK)
        return None

    def end(self, limit: float = 20.0) -> None:
        """End the children, each within ``limit`` seconds."""
        for child in self.children:
            child.end(limit, lambda: self._told > 1)
        self.children.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()
        for number, before in self._before.items():
            signal.signal(number, before)  # type: ignore[arg-type]


def check_port(what: str, variable: str, host: str, port: int) -> int:
    """The port to use: ``port`` if it is free, a free one for 0.

    Raises
    ------
    ConfigurationError
        If ``port`` is taken or ``host`` is no address of this machine.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        if sys.platform != "win32":
            # A connection that has just ended does not count; on Windows the option would let us share a port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigurationError(
                f"{what} cannot listen at {host}:{port} ({error.strerror}); "
                f"end the program that has this port, or set {variable} to another one"
            ) from None
        return int(probe.getsockname()[1])


def is_listening(host: str, port: int) -> bool:
    """Whether something accepts connections there."""
    try:
        socket.create_connection((address_to_call(host), port), timeout=1).close()
    except OSError:
        return False
    return True


def address_to_call(host: str) -> str:
    """An address at which a socket that listens at ``host`` can be called from this machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
