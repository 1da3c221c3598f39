"""Processes that a test starts, waits for, and ends by their id."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.support import nursery
from tests.support.waiting import wait_until

#: The checkout.
ROOT: Final = Path(__file__).parents[2]


def environment(**values: str) -> dict[str, str]:
    """This process's environment without any setting of pacs-tasks or pytest, plus ``values``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PACS_TASKS_", "PYTEST_"))}
    return {**kept, "PYTHONUNBUFFERED": "1", **values}


def hide_our_scripts() -> None:
    """Take the scripts beside this Python out of ``PATH``: pynetdicom installs some of the names of DCMTK's."""
    ours = Path(sys.executable).parent
    parts = os.environ["PATH"].split(os.pathsep)
    os.environ["PATH"] = os.pathsep.join(part for part in parts if Path(part) != ours)


@dataclass(frozen=True)
class Process:
    """A process and the file that holds what it says."""

    popen: subprocess.Popen[bytes]
    log: Path
    _killed: threading.Event = field(default_factory=threading.Event)

    @property
    def pid(self) -> int:
        return self.popen.pid

    def said(self) -> str:
        """Everything it has written so far."""
        return self.log.read_text("utf-8", "replace")

    def running(self) -> bool:
        return self.popen.poll() is None

    def kill(self) -> None:
        """End it and its children at once, as a power failure would."""
        if self._killed.is_set():
            # Its id may be another's by now.
            return
        self._killed.set()
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.popen.wait(10)

    def end(self, timeout: float) -> None:
        """Ask it to end; whoever is left after ``timeout`` seconds is killed."""
        with suppress(ProcessLookupError):
            self.popen.terminate()
        try:
            self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            pass
        finally:
            # Its group, which `start_new_session` made, holds the children that it may have left behind.
            self.kill()


@contextmanager
def started(
    command: Sequence[str | Path],
    log: Path,
    ready: Callable[[Process], bool],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 30.0,
    end_timeout: float = 10.0,
) -> Iterator[Process]:
    """Start ``command``, wait until it is ``ready``, and end it.

    Raises
    ------
    RuntimeError
        With the log, if it ends or does not become ready within ``timeout`` seconds.
    """
    process: Process | None = None
    try:
        with log.open("ab") as output, _uninterrupted():
            popen = nursery.start(
                [str(part) for part in command],
                dict(env) if env is not None else environment(),
                cwd,
                session=True,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            process = Process(popen, log)
        _wait_ready(process, ready, timeout)
        yield process
    except KeyboardInterrupt:
        raise
    except BaseException:
        if process is not None:
            # pytest shows this with the failure of the test.
            sys.stderr.write(f"--- {command[0]} said ---\n{process.said()[-8000:]}\n")
        raise
    finally:
        if process is not None:
            process.end(end_timeout)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Deliver Ctrl-C and SIGTERM after the block: amid a start, nobody would know the process that must be ended."""
    came: list[int] = []
    before = {}
    if threading.current_thread() is threading.main_thread():
        found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        before = {number: handler for number, handler in found.items() if callable(handler)}
    for number in before:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for each in came:
            signal.raise_signal(each)


def _wait_ready(process: Process, ready: Callable[[Process], bool], timeout: float) -> None:
    program = Path(str(process.popen.args[0] if isinstance(process.popen.args, list) else process.popen.args)).name
    try:
        wait_until(lambda: not process.running() or ready(process), timeout, f"{program} to be ready", 0.05)
    except TimeoutError as error:
        raise RuntimeError(f"{error}; it says:\n{process.said()}") from None
    if not process.running():
        raise RuntimeError(f"{program} ended with {process.popen.returncode}; it says:\n{process.said()}")
