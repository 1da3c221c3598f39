"""Child processes that a command runs in the foreground, and ports for them."""

from __future__ import annotations

import contextlib
import ipaddress
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import IO, Any, Self

import click

from pacs_tasks.embedded.launch import APART, command, end_group
from pacs_tasks.errors import ConfigurationError
from pacs_tasks.privacy import plain

#: Seconds between two checks of the children.
_INTERVAL = 0.2
#: Last lines of a child, which show why it died.
_TAIL = 8


class Child:
    """One process. It has its own process group, so that Ctrl-C reaches this process only, which ends all in order."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], *, quiet: bool) -> None:
        self.name, self.process, self._quiet = name, process, quiet
        self.tail: deque[str] = deque(maxlen=_TAIL)
        self._reader = threading.Thread(target=self._show, args=(process.stdout,), daemon=True)
        if process.stdout is not None:
            self._reader.start()

    def _show(self, pipe: IO[bytes]) -> None:
        for raw in pipe:
            line = raw.decode(errors="replace").rstrip()
            self.tail.append(line)
            if not self._quiet:
                click.echo(f"{self.name:<8} | {plain(line)}", err=True)

    def end(self, limit: float, hurry: Callable[[], bool]) -> None:
        """Let the lifeline end it; kill it after ``limit`` seconds or when in a hurry, and the rest of its group."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        deadline = time.monotonic() + limit
        while self.process.poll() is None and time.monotonic() < deadline and not hurry():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_INTERVAL)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(5)
        end_group(self.process.pid)
        if self.process.stdout is not None:
            self._reader.join(5)
            self.process.stdout.close()


class Stack:
    """Children that end in the order in which they were started: on Ctrl-C, SIGTERM, or when one of them dies.

    A second Ctrl-C kills them.
    """

    def __init__(self) -> None:
        self.children: list[Child] = []
        self._signals = 0
        self._signalled = threading.Event()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1
        self._signalled.set()

    @property
    def is_stopping(self) -> bool:
        """Whether Ctrl-C or SIGTERM has come."""
        return self._signals > 0

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
            Show its lines after its name, and keep the last ones. Otherwise it writes to the terminal itself.
        quiet
            Keep the last lines and show none.
        """
        process = subprocess.Popen(
            command("pacs_tasks.embedded.lifeline", module, *arguments),
            # The lifeline: the child ends when this process does, even after kill -9.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if prefix else None,
            stderr=subprocess.STDOUT if prefix else None,
            env=dict(environment),
            **APART,
        )
        child = Child(name, process, quiet=quiet)
        self.children.append(child)
        return child

    def wait(self, seconds: float | None = None, until: Callable[[], bool] = lambda: False) -> Child | None:
        """Wait for a signal, the death of a child, which is returned, ``until`` to hold, or ``seconds`` to pass."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while deadline is None or time.monotonic() < deadline:
            dead = next((child for child in self.children if child.process.poll() is not None), None)
            if dead is not None or self.is_stopping or until():
                return dead
            self._signalled.wait(_INTERVAL)
        return None

    def end(self, limit: float = 20.0) -> None:
        """End the children, each within ``limit`` seconds."""
        for child in self.children:
            child.end(limit, lambda: self._signals > 1)
        self.children.clear()

    def __exit__(self, *_: object) -> None:
        self.end()
        for number, before in self._before.items():
            signal.signal(number, before)


def check_port(what: str, variable: str, host: str, port: int) -> int:
    """Check that a port is free, and return it; for 0, return a free port.

    Raises
    ------
    ConfigurationError
        If ``port`` is in use or ``host`` is not an address of this machine.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        if sys.platform != "win32":
            # A connection that has just ended does not count. On Windows the option would allow sharing a port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigurationError(
                f"{what} cannot listen on {host}:{port} ({error.strerror}). "
                f"Stop the program that uses this port, or set {variable} to another port."
            ) from None
        return int(probe.getsockname()[1])


def is_listening(host: str, port: int) -> bool:
    """Whether something accepts connections on this port."""
    try:
        socket.create_connection((address_to_call(host), port), timeout=1).close()
    except OSError:
        return False
    return True


def address_to_call(host: str) -> str:
    """The address that connects from this machine to a socket that listens on ``host``."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return {4: "127.0.0.1", 6: "::1"}[address.version] if address.is_unspecified else host
