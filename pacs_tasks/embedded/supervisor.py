"""The supervisor: it keeps the private server and its worker for as long as they are needed."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time

import redis

from pacs_tasks.connection import connect
from pacs_tasks.embedded.children import PrivateServer, PrivateWorker
from pacs_tasks.embedded.locks import Lock
from pacs_tasks.embedded.places import Places, State
from pacs_tasks.errors import PacsTasksError
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.settings import Settings, load

logger = logging.getLogger(__name__)

#: Seconds between two checks of the children, and of the ledger.
_INTERVAL = 0.25
_LEDGER_INTERVAL = 1.0
#: The supervisor gives up when the server has died more often.
_MAX_SERVER_DEATHS = 5


class Supervisor:
    """Starts the server, publishes its URL, starts the worker, and watches both."""

    def __init__(self, settings: Settings, places: Places) -> None:
        self._settings = settings
        self._places = places
        self._server = PrivateServer(places, places.state().url)
        self._server_deaths = 0
        self._stop = threading.Event()
        self._needed = time.monotonic()
        self._ledger_checked = 0.0

    def run(self) -> int:
        """Run until a signal comes or the server is not needed any more. Returns the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: self._stop.set())
        try:
            self._server.start()
        except PacsTasksError as error:
            logger.error("%s", error)  # noqa: TRY400 - the message is enough
            self._publish(ready=False, error=str(error))
            self._server.stop()
            return 1
        self._publish(ready=True)
        worker = PrivateWorker(self._places, self._settings, self._server.url)
        try:
            worker.start()
            while not self._stop.wait(_INTERVAL) and self._check(worker) and not self._may_end(worker):
                pass
        finally:
            self._publish(ready=False, error=worker.error)
            worker.stop()
            self._server.stop()
            logger.info("ended")
        return 0

    def _check(self, worker: PrivateWorker) -> bool:
        """Start again what has died; false if the server dies repeatedly."""
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
        if self._attached():
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
            if not lock.acquire() or self._attached() or (not worker.error and self._unfinished()):
                return False
            self._publish(ready=False, error=worker.error)
            logger.info("the private server is not needed any more; ending")
            return True

    def _attached(self) -> bool:
        with Lock(self._places.attached_lock) as lock:
            return not lock.acquire()

    def _unfinished(self) -> bool:
        client = None
        try:
            client = connect(self._server.url, 2.0)
            return bool(Ledger(client).standstills.unfinished_jobs())
        except (PacsTasksError, redis.RedisError) as error:
            logger.warning("the ledger does not answer: %s", error)
            return True  # Unknown: stay.
        finally:
            if client is not None:
                with contextlib.suppress(redis.RedisError):
                    client.close()

    def _publish(self, *, ready: bool, error: str = "") -> None:
        self._places.write_state(State(url=self._server.url, ready=ready, error=error))


def main() -> int:
    """Run the supervisor of the ``data_dir`` of the settings in a process of its own."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO, stream=sys.stderr)
    settings = load()
    places = Places.of(settings)
    places.make()
    places.rotate()
    # Never closed: it ends with the process, so that a free lock means that we have ended.
    lock = Lock(places.supervisor_lock)
    if not lock.acquire(timeout=2):
        logger.error("another supervisor has this data directory")
        return 3
    # The parent ends now, so that the process that started it need not wait for us to avoid a zombie. The lock stays
    # with the child: both share the descriptor.
    if os.fork():
        os._exit(0)
    lock.write(str(os.getpid()))
    logger.info("supervisor %d started", os.getpid())
    try:
        return Supervisor(settings, places).run()
    except Exception:
        logger.exception("the supervisor failed")
        return 1
