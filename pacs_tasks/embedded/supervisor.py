"""The supervisor: keeps the private server and its worker for as long as somebody needs them."""

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

#: Seconds between two looks at the children, and at the ledger.
_LOOK = 0.25
_LEDGER_LOOK = 1.0
#: So often may the server die before the supervisor gives up.
_MAX_SERVER_DEATHS = 5


class Supervisor:
    """Starts the server, tells where it is, starts the worker, and watches both."""

    def __init__(self, settings: Settings, places: Places) -> None:
        self._settings = settings
        self._places = places
        self._server = PrivateServer(places, places.state().url)
        self._server_deaths = 0
        self._stop = threading.Event()
        self._needed = time.monotonic()
        self._asked_ledger = 0.0

    def run(self) -> int:
        """Work until told to end, or until nobody needs us. Returns the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: self._stop.set())
        try:
            self._server.start()
        except PacsTasksError as error:
            logger.error("%s", error)  # noqa: TRY400 - the sentence says it all
            self._tell(ready=False, error=str(error))
            self._server.stop()
            return 1
        self._tell(ready=True)
        worker = PrivateWorker(self._places, self._settings, self._server.url)
        try:
            worker.start()
            while not self._stop.wait(_LOOK) and self._look(worker) and not self._may_end(worker):
                pass
        finally:
            self._tell(ready=False, error=worker.error)
            worker.stop()
            self._server.stop()
            logger.info("ended")
        return 0

    def _look(self, worker: PrivateWorker) -> bool:
        """Heal what died; false when the server cannot be healed."""
        self._places.rotate()
        if not self._server.running():
            self._server_deaths += 1
            logger.warning("the private server died; starting it again")
            if self._server_deaths > _MAX_SERVER_DEATHS:
                return False
            self._tell(ready=False)
            self._server.start()
            self._tell(ready=True)
        known = worker.error
        worker.look()
        if worker.error != known:
            self._tell(ready=True, error=worker.error)
        return True

    def _may_end(self, worker: PrivateWorker) -> bool:
        """Whether nobody is attached, no job is unfinished, and that for :attr:`Settings.idle_timeout`."""
        now = time.monotonic()
        if self._attached():
            self._needed = now
            return False
        if not worker.error:
            if now - self._asked_ledger >= _LEDGER_LOOK:
                self._asked_ledger = now
                if self._unfinished():
                    self._needed = now
            if now - self._needed < self._settings.idle_timeout:
                return False
        # Whoever attaches holds this lock while it looks for us: it finds us willing, or waits until we are gone.
        with Lock(self._places.start_lock) as lock:
            if not lock.take() or self._attached() or (not worker.error and self._unfinished()):
                return False
            self._tell(ready=False, error=worker.error)
            logger.info("nobody needs the private server; ending")
            return True

    def _attached(self) -> bool:
        with Lock(self._places.attached_lock) as lock:
            return not lock.take()

    def _unfinished(self) -> bool:
        client = None
        try:
            client = connect(self._server.url, 2.0)
            return bool(Ledger(client).standstills.unfinished_jobs())
        except (PacsTasksError, redis.RedisError) as error:
            logger.warning("the ledger does not answer: %s", error)
            return True  # We do not know, so we stay.
        finally:
            if client is not None:
                with contextlib.suppress(redis.RedisError):
                    client.close()

    def _tell(self, *, ready: bool, error: str = "") -> None:
        self._places.tell(State(url=self._server.url, ready=ready, error=error))


def main() -> int:
    """Become the supervisor of the settings' ``data_dir``, in a process of its own."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO, stream=sys.stderr)
    settings = load()
    places = Places.of(settings)
    places.make()
    places.rotate()
    # Never closed: it ends with the process, so that whoever finds it free finds us gone.
    lock = Lock(places.supervisor_lock)
    if not lock.take(timeout=2):
        logger.error("another supervisor has this data directory")
        return 3
    # The parent ends now, so that whoever started us need not wait for us to avoid a zombie. The lock lives on in the
    # child: both share the descriptor.
    if os.fork():
        os._exit(0)
    lock.write(str(os.getpid()))
    logger.info("supervisor %d started", os.getpid())
    try:
        return Supervisor(settings, places).run()
    except Exception:
        logger.exception("the supervisor failed")
        return 1
