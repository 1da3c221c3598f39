"""A private server and worker for one machine, shared by the commands that run there.

The first command starts a supervisor, a process that belongs to no terminal. It keeps a private server and one worker
for as long as a command is attached, a job is unfinished, or :attr:`Settings.idle_timeout` has not passed. Jobs and
results stay on disk for the next one.

A process that starts, attaches or ends holds ``start.lock`` meanwhile, so that two commands start one supervisor. The
lock that a supervisor or server holds shows that it is alive; a file that it left behind does not.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pacs_tasks.embedded.launch import DETACHED, as_on_windows, command, environment, server_kind, start_logged
from pacs_tasks.embedded.places import Lock, Places, holder, is_held, wait_for
from pacs_tasks.errors import ConfigurationError
from pacs_tasks.settings import Settings

#: Seconds to start, which includes the end of a predecessor.
START_LIMIT = 40.0
#: Seconds between two checks of a supervisor that is starting.
_PAUSE = 0.02


@contextmanager
def attach(settings: Settings) -> Iterator[str]:
    """Use the private server, and start it if it does not run. Yields its Redis URL, which holds a password.

    Its worker may still be starting; :func:`failure` reports if it cannot start.

    Raises
    ------
    ConfigurationError
        If there is no private server for this platform, or it cannot be started.
    """
    server_kind(settings)
    places = Places.of(settings)
    places.make(settings.group_access)
    with ExitStack() as stack:
        with Lock(places.start_lock) as lock:
            if not lock.acquire(timeout=START_LIMIT):
                raise ConfigurationError(
                    "Another command has been starting or stopping the private server for too long. "
                    "End it, or set PACS_TASKS_REDIS_URL to a Redis.",
                    str(places.private),
                )
            stack.enter_context(places.attach())
            url = _url(places, settings)
        yield url


def failure(settings: Settings) -> str:
    """Return why the private server or its worker cannot work, or "". The caller is attached."""
    places = Places.of(settings)
    if not places.state_file.exists():
        return ""
    if error := places.state().error:
        return error
    if not is_held(places.supervisor_lock):
        return "The private server has ended. Run the command again to start it; its jobs are kept."
    return ""


def stop(settings: Settings, timeout: float = 20, *, spare_attached: bool = False) -> bool:
    """End the supervisor of this ``data_dir``, if one runs, with its server and worker.

    With ``spare_attached`` it stays while a command uses it. Returns whether it is gone.

    Raises
    ------
    ConfigurationError
        If they are still there after ``timeout`` seconds.
    """
    places = Places.of(settings)
    if not places.private.is_dir():
        return True
    deadline = time.monotonic() + timeout
    with Lock(places.start_lock) as lock:
        lock.acquire(timeout=timeout)
        if spare_attached and places.attached():
            return False
        # On Windows this kills it, and its children end as they do after kill -9.
        _signal(places.supervisor_lock, signal.SIGTERM)
        if _gone(places, deadline):
            return True
        if sys.platform != "win32":
            _signal(places.supervisor_lock, signal.SIGKILL)
        # A server without a supervisor remains for a while if that was killed, now or before.
        _signal(places.server_lock, signal.SIGTERM)
        if not _gone(places, time.monotonic() + 5):
            raise ConfigurationError("The private server does not end. End its processes by hand.", str(places.private))
    return True


def _signal(lock: Path, number: signal.Signals) -> None:
    if pid := holder(lock):
        with suppress(OSError):
            os.kill(pid, number)


def _url(places: Places, settings: Settings) -> str:
    """Return the URL of a server that answers. The caller holds ``start.lock``."""
    from pacs_tasks.connection import answers

    deadline = time.monotonic() + START_LIMIT
    pause = threading.Event()
    started = False
    while time.monotonic() < deadline:
        # First the lock, then the state: a supervisor that just ended has written the reason.
        alive = is_held(places.supervisor_lock)
        state = places.state()
        if alive and state.ready and answers(state.url):
            return state.url
        if not alive and started:
            raise ConfigurationError(state.error) if state.error else _not_started(places)
        if not alive:
            _start(places, settings)
            started = True
        pause.wait(_PAUSE)
    raise ConfigurationError(
        f"The private server does not answer within {START_LIMIT:.0f} s. Read its log.",
        str(places.log("supervisor")),
    )


def _start(places: Places, settings: Settings) -> None:
    """Start the supervisor without our terminal, descriptors and directory."""
    process = start_logged(
        command("pacs_tasks.embedded.supervisor"),
        places.log("supervisor"),
        stdin=subprocess.DEVNULL,
        cwd=places.private,
        env=environment(settings, None),
        **DETACHED,
    )

    # It forks when it holds its lock, and its parent ends. We wait for the parent only, and leave no zombie.
    def ended() -> bool:
        if as_on_windows(settings) and is_held(places.supervisor_lock):
            # It does not fork, and nobody waits for it.
            process.returncode = 0
        return process.poll() is not None

    if not wait_for(ended, time.monotonic() + START_LIMIT):
        process.kill()
        process.wait()
    if process.returncode:
        raise _not_started(places)


def _not_started(places: Places) -> ConfigurationError:
    return ConfigurationError(
        f"The private server did not start. Its log ends with {places.last_line('supervisor')!r}.",
        str(places.log("supervisor")),
    )


def _gone(places: Places, deadline: float) -> bool:
    return wait_for(lambda: not (is_held(places.supervisor_lock) or is_held(places.server_lock)), deadline)
