"""Starts programs for tests: ours are forked from a process that has loaded them, others are started anew.

Of the second of CPU that a worker takes to start, and of the half a second of a command, nine tenths are Python's
loading of modules. A forked program is a process like any other, with its own id, directory, variables and streams;
only ``/proc`` shows the command and the variables of the one that it comes from.

Programs whose variables say more than our settings (a language, a proxy, paths of Python) are started anew. So is
everything in a test that asks for :func:`none`, everything on other systems than Linux, and what benchmarks and chaos
start, unless they only show that they work.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, AnyStr, Final

from tests.support import template

_ROOT: Final = Path(__file__).parents[2]
_MODULES: Final = ("workers", "workers.receiver", "pacs_tasks.cli", "pacs_tasks.serve")
_SCRIPTS: Final = (str(_ROOT / "dicom_pacs_transfer.py"), str(Path(sys.executable).with_name("pacs-tasks")))
#: Seconds until a program is forked; the first waits until the nursery has loaded everything.
_LONGEST_START: Final = 60
#: The text of the script that stands for ``pacs-tasks`` in a shell.
_SCRIPT: Final = Path(__file__).with_name("script.py")


class _Nursery:
    """The process that forks, from its first use on."""

    def __init__(self) -> None:
        self.open = False
        #: What everything that is forked has had since its start.
        self.variables: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._orders: socket.socket | None = None
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._lock = threading.Lock()

    def order(self, order: template.Order, handles: Sequence[int]) -> None:
        packet = json.dumps(vars(order)).encode()
        socket.send_fds(self._socket(), [packet], handles)

    def scripts(self) -> Path:
        """The directory of the scripts; this starts the nursery, to which they connect."""
        self._socket()
        assert self._directory is not None
        return Path(self._directory.name)

    def _socket(self) -> socket.socket:
        with self._lock:
            if self._orders is None:
                self._directory = tempfile.TemporaryDirectory(prefix="nursery-")
                directory = Path(self._directory.name)
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                with theirs, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as scripts:
                    scripts.bind(str(directory / "orders"))
                    scripts.listen()
                    handles = [theirs.fileno(), scripts.fileno()]
                    # It ends when our end is closed, if only by our death.
                    self._process = subprocess.Popen(
                        [sys.executable, "-m", template.__name__, *map(str, handles)],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        env=self.variables,
                        cwd=_ROOT,
                        pass_fds=handles,
                        start_new_session=True,
                    )
                _write_script(directory / Path(_SCRIPTS[-1]).name)
                self._orders = ours
                atexit.register(self._close)
            return self._orders

    def _close(self) -> None:
        if self._orders is not None and self._process is not None and self._directory is not None:
            self._orders.close()
            self._process.wait(10)
            self._directory.cleanup()


def _write_script(target: Path) -> None:
    # Without packages, a Python is there at once.
    target.write_text(f"#!{sys.executable} -IS\n{_SCRIPT.read_text('utf-8')}\nmain({_SCRIPTS[-1]!r})\n", "utf-8")
    target.chmod(0o700)


_nursery = _Nursery()


def open_at_first_use() -> None:
    """Have programs forked from now on, where that is possible."""
    _nursery.open = sys.platform == "linux"
    _nursery.variables = template.lasting({**os.environ, "PYTHONUNBUFFERED": "1"})
    _nursery.variables.pop(template.EARLY, None)


@contextmanager
def none() -> Iterator[None]:
    """Have everything started anew in this block, for tests that look at a command or its variables in ``/proc``."""
    before, _nursery.open = _nursery.open, False
    try:
        yield
    finally:
        _nursery.open = before


def search_path(path: str) -> str:
    """A ``PATH`` by which a shell finds a ``pacs-tasks`` that is forked, where that is possible."""
    return os.pathsep.join([str(_nursery.scripts()), path]) if _nursery.open else path


def start(
    command: Sequence[str], env: Mapping[str, str], cwd: Path | None = None, *, session: bool = False, **streams: Any
) -> subprocess.Popen[Any]:
    """Start a program; ``streams`` as for :class:`subprocess.Popen`."""
    directory = Path.cwd() if cwd is None else cwd
    ours = _ours(command, directory)
    if not (_nursery.open and ours and template.lasting(env) == _nursery.variables):
        return subprocess.Popen(command, env=env, cwd=cwd, start_new_session=session, **streams)
    return _Forked(command, template.Order(ours, str(directory), dict(env), session), **streams)


def _ours(command: Sequence[str], directory: Path) -> list[str]:
    """The command without its Python, if it is one of ours."""
    match command:
        case [sys.executable, "-m", module, *_] if module in _MODULES and directory == _ROOT:
            return list(command[1:])
        case [sys.executable, script, *_] if script in _SCRIPTS:
            return list(command[1:])
        case [script, *_] if script in _SCRIPTS:
            return list(command)
    return []


class _Forked(subprocess.Popen[AnyStr]):
    """A program that the nursery forked. It is no child of this process, so the nursery tells how it ended."""

    def __init__(self, command: Sequence[str], order: template.Order, **streams: Any) -> None:
        self._order = order
        self._end, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        super().__init__(command, **streams)

    def _execute_child(self, args: Any, *given: Any) -> None:
        # The last of these are options of the fork; nine come before the pipes.
        pipes: list[int] = list(given[9:15])
        handles: list[int] = [own if each == -1 else each for own, each in enumerate((pipes[0], pipes[3], pipes[5]))]
        self.args = args
        try:
            with self._theirs:
                _nursery.order(self._order, [self._theirs.fileno(), *handles])
            self._end.settimeout(_LONGEST_START)
            said = self._end.recv(32)
            self._end.settimeout(None)
        except BaseException:
            self._end.close()
            raise
        if not said.startswith(template.ID):
            self._end.close()
            raise RuntimeError("the nursery has ended, or could not fork")
        self.pid = int(said.removeprefix(template.ID))
        self._child_created = True
        untyped: Any = self
        untyped._close_pipe_fds(*pipes)

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        untyped: Any = self
        # Another thread that waits holds it.
        if self.returncode is None and untyped._waitpid_lock.acquire(blocking=False):
            try:
                if self.returncode is None and (ended := self._try_wait(os.WNOHANG))[0]:
                    untyped._handle_exitstatus(ended[1])
            finally:
                untyped._waitpid_lock.release()
        return self.returncode

    def _try_wait(self, flags: int) -> tuple[int, int]:
        """As :func:`os.waitpid`."""
        try:
            status = self._end.recv(32, socket.MSG_DONTWAIT if flags & os.WNOHANG else 0)
        except BlockingIOError:
            return 0, 0
        self._end.close()
        # The nursery ends after us; if it was killed, nobody knows more.
        return self.pid, int(status or signal.SIGKILL)
