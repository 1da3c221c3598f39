"""The files of the private server, their locks, and the state that the supervisor writes there.

::

    <data_dir>/
        embedded/           0700, whatever the mode of data_dir
            start.lock      held while a process starts or ends the supervisor
            supervisor.lock held by the supervisor for its life; holds its pid
            server.lock     held by the private server for its life; holds its pid
            attached/       a locked file for each command that uses the server
            state.json      0600: the URL of the server with its password, and any error
            server/         the files of the server: jobs, results, the ledger
        log/                0700: supervisor.log, server.log, worker.log

The system releases a lock when its last holder ends, however it ends. A pid in a file does not show whether its process
is alive, so a pid gets a signal only while the lock on its file is held.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from pacs_tasks.errors import ConfigurationError
from pacs_tasks.privacy import LOG_LIMIT, GroupAccess, directory_mode
from pacs_tasks.settings import Settings

#: Seconds between two looks at a condition, such as whether another process still holds a lock.
_PAUSE = 0.02

if sys.platform == "win32":
    import msvcrt

    #: The byte that is locked. Nobody can read a locked one, and the pid is at the start of the file.
    _BYTE = 1 << 30
    #: Whoever checks a lock holds it meanwhile.
    _CHECK = 5 * _PAUSE

    def _lock(fd: int, *, shared: bool) -> None:  # noqa: ARG001 - Windows' runtime has exclusive locks only
        os.lseek(fd, _BYTE, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    _CHECK = 0.0

    def _lock(fd: int, *, shared: bool) -> None:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def wait_for(condition: Callable[[], bool], deadline: float) -> bool:
    """Wait until a condition holds; return whether it does before a time of :func:`time.monotonic`."""
    pause = threading.Event()
    while not (holds := condition()) and time.monotonic() < deadline:
        pause.wait(_PAUSE)
    return holds


class Lock:
    """An advisory lock on a file. It ends with :meth:`close` or with the process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # The descriptor is not inheritable (PEP 446): children do not keep our locks by accident.
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def acquire(self, *, timeout: float = 0.0, shared: bool = False) -> bool:
        """Acquire the lock within ``timeout`` seconds; false if another process holds it."""

        def acquired() -> bool:
            try:
                _lock(self.fd, shared=shared)
            except OSError:
                return False
            return True

        return wait_for(acquired, time.monotonic() + timeout)

    def in_place(self) -> bool:
        """Report whether the locked file is still the one at its path: it may have been removed or renamed."""
        try:
            return os.path.samestat(os.fstat(self.fd), self._path.stat())
        except OSError:
            return False

    def write(self, text: str) -> None:
        """Write ``text`` to the locked file."""
        os.ftruncate(self.fd, 0)
        os.lseek(self.fd, 0, os.SEEK_SET)
        os.write(self.fd, text.encode())

    def close(self) -> None:
        """Close the descriptor. Its last copy releases the lock."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def is_held(path: Path) -> bool:
    """Report whether a process holds the lock on ``path``."""
    if not path.exists():
        return False
    try:
        with Lock(path) as lock:
            return not lock.acquire(timeout=_CHECK, shared=True)
    except FileNotFoundError:
        return False


def holder(path: Path) -> int | None:
    """Return the pid in ``path`` if a process holds the lock on it."""
    try:
        pid = int(path.read_text())
    except (OSError, ValueError):
        return None
    return pid if pid > 1 and is_held(path) else None


#: Attempts to replace the state file.
_ATTEMPTS = 50


class State(BaseModel):
    """The state that the supervisor reports."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    #: The same after a restart, so that a waiting command finds the server again.
    url: str = ""
    #: Whether the server answers at ``url``.
    ready: bool = False
    #: Why there is no server or no worker, or "".
    error: str = ""


class Places:
    """The files of one ``data_dir``."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.private = data_dir / "embedded"
        self.server_dir = self.private / "server"
        self.attached_dir = self.private / "attached"
        self.start_lock = self.private / "start.lock"
        self.supervisor_lock = self.private / "supervisor.lock"
        self.server_lock = self.private / "server.lock"
        self.state_file = self.private / "state.json"

    @classmethod
    def of(cls, settings: Settings) -> Places:
        return cls(settings.data_dir.expanduser().absolute())

    def log(self, name: str) -> Path:
        """Return the log file of ``supervisor``, ``server`` or ``worker``."""
        return self.data_dir / "log" / f"{name}.log"

    def make(self, access: GroupAccess = "none") -> None:
        """Create the directories.

        Only its owner can read a new ``data_dir``, and its group with ``access``. An existing one keeps its mode, since
        others may use it too. The private directories in it always have mode 0700.

        Raises
        ------
        ConfigurationError
            If they cannot be created.
        """
        try:
            self.data_dir.mkdir(mode=directory_mode(access), parents=True, exist_ok=True)
            for path in (self.private, self.server_dir, self.attached_dir, self.data_dir / "log"):
                path.mkdir(mode=0o700, exist_ok=True)
                path.chmod(0o700)
        except OSError as error:
            raise self._unusable(error) from None

    def _unusable(self, error: OSError) -> ConfigurationError:
        return ConfigurationError(
            f"The data directory cannot be used ({error.strerror}). Set PACS_TASKS_DATA_DIR to a directory of "
            "your own, or PACS_TASKS_REDIS_URL to a Redis.",
            str(self.data_dir),
        )

    def attached(self) -> bool:
        """Report whether a command uses the server."""
        return any(is_held(path) for path in self.attached_dir.glob("*"))

    @contextmanager
    def attach(self) -> Iterator[None]:
        """Count as a command that uses the server. The caller holds ``start.lock`` at the start.

        Raises
        ------
        ConfigurationError
            If nothing can be written.
        """
        for path in self.attached_dir.glob("*"):
            # Left behind by a command that was killed.
            if not is_held(path):
                path.unlink(missing_ok=True)
        path = self.attached_dir / f"{os.getpid()}-{secrets.token_hex(4)}"
        try:
            with Lock(path) as lock:
                lock.acquire(timeout=1)
                try:
                    lock.write(str(os.getpid()))
                except OSError as error:
                    raise self._unusable(error) from None
                yield
        finally:
            path.unlink(missing_ok=True)

    def state(self) -> State:
        """Return the last state of the supervisor, or an empty one if there is none."""
        try:
            return State.model_validate_json(self.state_file.read_bytes())
        except (OSError, ValidationError):
            return State()

    def write_state(self, state: State) -> None:
        """Replace the state file in one step, so that no process reads half of it."""
        fresh = self.state_file.with_suffix(f".{os.getpid()}")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(state.model_dump_json())
        for _ in range(_ATTEMPTS):
            # Windows does not replace a file that another process reads at this moment.
            with contextlib.suppress(PermissionError):
                fresh.replace(self.state_file)
                break
            threading.Event().wait(_PAUSE)
        else:
            fresh.replace(self.state_file)

    def last_line(self, name: str) -> str:
        """Return the last line of a log."""
        try:
            with self.log(name).open("rb") as file:
                file.seek(max(0, self.log(name).stat().st_size - 4096))
                lines = file.read().decode(errors="replace").split("\n")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def rotate(self) -> None:
        """Move the contents of long logs to ``<name>.1``.

        The writers keep the file open and append to it, so it is copied and truncated, not renamed.
        """
        for path in (self.data_dir / "log").glob("*.log"):
            # The disk may be full, or the directory was removed.
            with contextlib.suppress(OSError):
                if path.stat().st_size > LOG_LIMIT:
                    old = path.with_name(f"{path.name}.1")
                    shutil.copyfile(path, old)
                    old.chmod(0o600)
                    os.truncate(path, 0)
