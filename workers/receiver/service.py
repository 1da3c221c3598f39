"""The receiver: where C-MOVE delivers and storage commitment is reported. ``python -m workers.receiver``.

It puts instances below :attr:`Settings.received`, which the workers must see too: what a job expects apart from what
nobody asked for. It announces itself in Redis, so that workers find it. It receives whether or not Redis is there.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import connection
from multiprocessing.process import BaseProcess

import redis

from pacs_tasks import embedded
from pacs_tasks.ae import LocalAE
from pacs_tasks.connection import connect
from pacs_tasks.dimse.scp.c_store import NOT_AUTHORISED
from pacs_tasks.dimse.scp.storage_scp import StorageSCP, listen
from pacs_tasks.dimse.status import commitment_failure
from pacs_tasks.dimse.upper_layer.tls import called_context
from pacs_tasks.errors import BrokerUnavailableError, ConfigurationError, PacsTasksError
from pacs_tasks.fleet.receivers import Receiver
from pacs_tasks.ledger import commitments
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome
from pacs_tasks.outcome.verification import CommitmentReport
from pacs_tasks.settings import Settings, load
from workers.receiver.announcement import BEAT, Announcer, mark, reachable_address
from workers.receiver.cleaning import Cleaning
from workers.receiver.places import Expectations, Places

logger = logging.getLogger("pacs_tasks.receiver")

_FORMAT = "%(asctime)s %(levelname)s %(message)s"
#: Seconds that associations may take to end when we are told to.
STOP_LIMIT = 10.0
#: Seconds that a killed process may take to be gone.
_GONE = 1.0


class Counts:
    """How many instances came; the only thing about them that a log may hold."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._lock = threading.Lock()
        self._received = self._failed = self._unsolicited = self._unwelcome = 0
        self._said = (0, 0, 0, 0)

    def add(self, outcome: InstanceOutcome) -> None:
        with self._lock:
            if outcome.category is InstanceCategory.FAILED:
                self._failed += 1
                self._unwelcome += outcome.status is not None and outcome.status.code == NOT_AUTHORISED
            else:
                self._received += 1
                self._unsolicited += self._places.is_unsolicited(outcome.path)

    def log(self) -> None:
        """Say how many there are, if there are more than last time."""
        with self._lock:
            counts = (self._received, self._failed, self._unsolicited, self._unwelcome)
        if counts != self._said:
            self._said = counts
            logger.info(
                "received %d instances, refused %d; nobody had asked for %d of those received and %d of those refused",
                *counts,
            )


class Reports:
    """Notes in Redis what peers report about storage commitment."""

    def __init__(self, redis_url: str, config: Settings) -> None:
        self._url, self._timeout, self._keep = redis_url, config.redis_timeout, config.keep_jobs
        self._lock = threading.Lock()
        self._ledger: Ledger | None = None

    def take(self, report: CommitmentReport) -> bool:
        """Note a report; false if its transaction is none of ours.

        Raises
        ------
        BrokerUnavailableError
            If Redis is away; the peer is told, and may report again.
        """
        try:
            return commitments.record_report(self._connected(), report, commitment_failure)
        except redis.RedisError as error:
            raise BrokerUnavailableError(f"the Redis does not take it ({error})") from None

    def _connected(self) -> Ledger:
        with self._lock:
            if self._ledger is None:
                self._ledger = Ledger(connect(self._url, self._timeout), self._keep)
            return self._ledger

    def close(self) -> None:
        with self._lock:
            if self._ledger is not None:
                with contextlib.suppress(redis.RedisError, OSError):
                    self._ledger.client.close()


def _bound(config: Settings) -> socket.socket:
    """Listen.

    Raises
    ------
    ConfigurationError
        If the port is taken or the address is not ours.
    """
    try:
        return listen(config.receiver_host, config.receiver_port)
    except OSError as error:
        raise ConfigurationError(
            f"the receiver cannot listen at {config.receiver_host}:{config.receiver_port} ({error.strerror}); "
            "end the program that has this port, or set PACS_TASKS_RECEIVER_PORT to another one"
        ) from None


def receive(config: Settings, redis_url: str, listener: socket.socket, ending: threading.Event) -> None:
    """Receive until ``ending`` is set: what each process of the receiver does."""
    logging.basicConfig(format=_FORMAT, level=logging.INFO, stream=sys.stderr)
    expectations = Expectations(redis_url, config.redis_timeout, config.receiver_ae_title)
    places = Places(config, expectations)
    counts, reports = Counts(places), Reports(redis_url, config)
    scp = StorageSCP(
        LocalAE(ae_title=config.receiver_ae_title),
        config.receiver_host,
        config.receiver_port,
        config.received,
        on_instance=counts.add,
        listener=listener,
        tls=config.receiver_tls,
        on_report=reports.take,
        place=places.place,
    )
    scp.start()
    try:
        while not ending.wait(BEAT):
            counts.log()
    finally:
        scp.stop(STOP_LIMIT)
        reports.close()
        expectations.close()
        counts.log()


#: What a process does with the listening socket until the event is set.
Receive = Callable[[socket.socket, threading.Event], None]


class ReceiverProcesses:
    """So many processes that run ``receive``; one that ends is started again by :meth:`renew`.

    Parameters
    ----------
    receive
        A function of a module, which each process imports anew: a copy of this one would have its threads' locks.
    """

    def __init__(self, count: int, listener: socket.socket, receive: Receive) -> None:
        self._listener, self._receive = listener, receive
        self._context = multiprocessing.get_context("spawn")
        self._running: list[BaseProcess] = [self._start() for _ in range(count)]

    def _start(self) -> BaseProcess:
        process = self._context.Process(target=_live, args=(self._receive, self._listener), name="receiver")
        process.start()
        return process

    def renew(self) -> None:
        """Start those again that have ended."""
        for place, process in enumerate(self._running):
            if not process.is_alive():
                logger.error("a process of the receiver ended with %s; another one is started", process.exitcode)
                self._running[place] = self._start()

    def stop(self, timeout: float) -> None:
        """Tell all to end; those that have not after ``timeout`` seconds are killed."""
        for process in self._running:
            process.terminate()
        deadline = time.monotonic() + timeout
        for process in self._running:
            process.join(max(deadline - time.monotonic(), 0))
            if process.is_alive():
                process.kill()
                process.join(_GONE)


def _live(receive: Receive, listener: socket.socket) -> None:
    """Receive until told to end, or until the parent is gone."""
    ending = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    # Ctrl-C reaches the parent too, which ends all in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(ending,), name="parent", daemon=True).start()
    receive(listener, ending)


def _end_with_parent(ending: threading.Event) -> None:
    """An orphan would keep the port."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        ending.set()


@contextlib.contextmanager
def _receiving(config: Settings, redis_url: str, listener: socket.socket) -> Iterator[Callable[[], None]]:
    """Receive during the block, here or in processes of their own; gives what is to be called at each beat."""
    if config.receiver_processes > 1:
        processes = ReceiverProcesses(config.receiver_processes, listener, partial(receive, config, redis_url))
        try:
            yield processes.renew
        finally:
            processes.stop(STOP_LIMIT + 2)
            listener.close()
        return
    ended = threading.Event()
    thread = threading.Thread(target=receive, args=(config, redis_url, listener, ended), name="receiver")
    thread.start()
    try:
        yield lambda: None
    finally:
        ended.set()
        thread.join()


def serve(config: Settings, redis_url: str, ending: threading.Event) -> None:
    """Receive until ``ending`` is set.

    Raises
    ------
    ConfigurationError
        If it cannot listen or write.
    UnreadableInputError
        If its certificate cannot be used.
    """
    if config.receiver_tls is not None:
        # Each process reads it for itself; what is wrong with it is told here, once.
        called_context(config.receiver_tls)
    if config.receiver_dir is None:
        # Instances are patient data: a new data directory is for its owner alone.
        config.data_dir.expanduser().mkdir(mode=0o700, parents=True, exist_ok=True)
    directory = config.received
    token = mark(directory)
    listener = _bound(config)
    host, port = reachable_address(config.receiver_host), listener.getsockname()[1]
    receiver = Receiver(
        ae_title=config.receiver_ae_title,
        host=host,
        port=port,
        directory=str(directory),
        token=token,
        tls=config.receiver_tls is not None,
    )
    announcer = Announcer(redis_url, config.redis_timeout, receiver)
    cleaning = Cleaning(directory, config.keep_incoming)
    how = ", TLS" if receiver.tls else ""
    logger.info("receiving; tell your PACS: AE title %s, host %s, port %d%s", receiver.ae_title, host, port, how)
    with _receiving(config, redis_url, listener) as renew:
        try:
            cleaning.start()
            announcer.beat()
            while not ending.wait(BEAT):
                renew()
                announcer.beat()
        finally:
            cleaning.stop()
            announcer.end()
    logger.info("receiver ended")


def main() -> int:
    """Be the receiver of this machine until SIGTERM or SIGINT. Returns the exit code."""
    logging.basicConfig(format=_FORMAT, level=logging.INFO, stream=sys.stderr)
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    try:
        config = load()
        with contextlib.ExitStack() as stack:
            url = config.redis_url or stack.enter_context(embedded.attach(config))
            serve(config, url, ending)
    except PacsTasksError as error:
        logger.error("%s", error)  # noqa: TRY400 - the sentence says it all
        return 2
    return 0
