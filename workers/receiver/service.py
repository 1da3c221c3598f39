"""The service of the receiver: it listens, in one process or several, until it is told to end.

It stores instances below :attr:`Settings.received`, which the workers must see too, with expected and unsolicited
ones apart. It announces itself in Redis, so that workers find it. It receives whether or not Redis answers.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from redis import RedisError

from pacs_tasks import embedded
from pacs_tasks.connection import LateConnection
from pacs_tasks.dimse.scp.storage_scp import listen
from pacs_tasks.dimse.upper_layer.tls import called_context
from pacs_tasks.errors import ConfigurationError, PacsTasksError
from pacs_tasks.fleet.receivers import LIFETIME, MARKER, Receiver, announce, withdraw
from pacs_tasks.journal.logs import log_plainly, write_lines
from pacs_tasks.metrics import serve_metrics
from pacs_tasks.privacy import directory_mode, keep_private
from pacs_tasks.settings import Settings, load, remark_on_variables
from workers.receiver.callers import describe
from workers.receiver.directory import Cleanup
from workers.receiver.reception import FORMAT, STOP_LIMIT, receive

logger = logging.getLogger("pacs_tasks.receiver")

#: Seconds between two announcements.
BEAT = LIFETIME / 3
#: Seconds that a killed process may take to end.
_GONE = 1.0
#: Seconds within which the receiver must begin, and between two looks whether it has, or is told to end.
_BEGIN_LIMIT = 60.0
_LOOK = 0.2


class Announcer:
    """Keeps the receiver's announcement in Redis alive."""

    def __init__(self, redis_url: str, timeout: float, receiver: Receiver) -> None:
        self._redis, self._receiver = LateConnection(redis_url, timeout), receiver
        #: None: no beat yet.
        self._announced: bool | None = None

    def beat(self) -> None:
        """Announce; if Redis is away, log it once and try again at the next beat."""
        try:
            announce(self._redis.client(), self._receiver)
        except (PacsTasksError, RedisError) as error:
            if self._announced is not False:
                logger.warning("Receiving continues without an announcement: %s", error)
            self._announced = False
            self._redis.close()
        else:
            if self._announced is False:
                logger.info("The receiver is announced again.")
            self._announced = True

    def end(self) -> None:
        with contextlib.suppress(PacsTasksError, RedisError):
            if self._announced:
                withdraw(self._redis.client(), self._receiver)
        self._redis.close()


def mark(directory: Path) -> str:
    """Read the token in the directory's marker file, or write a new one.

    Receivers that share a directory share the token: it identifies the storage, not the receiver.

    Raises
    ------
    ConfigurationError
        If the directory cannot be written.
    """
    path = directory / MARKER
    try:
        directory.mkdir(parents=True, exist_ok=True)
        fresh = directory / f"{MARKER}.{os.getpid()}"
        token = secrets.token_hex(16)
        fresh.write_text(token, encoding="ascii")
        try:
            # A link fails if the marker exists, so two receivers that start at once agree on one token.
            os.link(fresh, path)
        except FileExistsError:
            token = path.read_text(encoding="ascii").strip()
        except OSError:
            # The file system has no links.
            fresh.replace(path)
        fresh.unlink(missing_ok=True)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its marker is unreadable"
        raise ConfigurationError(
            f"The receiver cannot write to its directory ({reason}). "
            "Set PACS_TASKS_RECEIVER_DIR to a directory that this user may write.",
            str(directory),
        ) from None
    return token


def reachable_address(host: str) -> str:
    """The address at which other machines reach a socket that listens at ``host``."""
    if host not in {"0.0.0.0", "::", ""}:  # noqa: S104 - compared, not bound
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Connecting a datagram socket sends nothing; it only chooses the interface. The address is reserved for
            # documentation (RFC 5737).
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def _bound(config: Settings) -> socket.socket:
    """Open the listening socket.

    Raises
    ------
    ConfigurationError
        If the port is in use, or the address is not one of this machine.
    """
    try:
        return listen(config.receiver_host, config.receiver_port)
    except OSError as error:
        raise ConfigurationError(
            f"The receiver cannot listen at {config.receiver_host}:{config.receiver_port} ({error.strerror}). "
            "End the program that uses this port, or set PACS_TASKS_RECEIVER_PORT to another one."
        ) from None


#: Receives on the listening socket until the event is set; calls the function once it does.
Receive = Callable[[socket.socket, threading.Event, Callable[[], None]], None]


class ReceiverProcesses:
    """Processes that receive on one port, so that the receiver uses more cores.

    They share the listening socket, instead of one each with ``SO_REUSEPORT``: a process that dies takes no unaccepted
    connection with it, and the port stays closed to other programs.

    Parameters
    ----------
    receive
        A function of a module, which each process imports anew: a fork would copy the locks of threads.
    """

    def __init__(self, count: int, listener: socket.socket, receive: Receive) -> None:
        self._listener, self._receive = listener, receive
        self._context = multiprocessing.get_context("spawn")
        self._begun, self._begins = self._context.Pipe(duplex=False)
        self._running: list[BaseProcess] = [self._start() for _ in range(count)]

    def _start(self) -> BaseProcess:
        arguments = (self._receive, self._listener, self._begins)
        process = self._context.Process(target=_live, args=arguments, name="receiver")
        process.start()
        return process

    def has_begun(self, timeout: float) -> bool:
        """Whether one of them receives within ``timeout`` seconds."""
        return self._begun.poll(timeout)

    def renew(self) -> None:
        """Replace processes that have ended."""
        for place, process in enumerate(self._running):
            if not process.is_alive():
                logger.error("A process of the receiver ended with %s and is replaced.", process.exitcode)
                self._running[place] = self._start()

    def stop(self, timeout: float) -> None:
        """End all processes; kill those that have not ended after ``timeout`` seconds."""
        for process in self._running:
            process.terminate()
        deadline = time.monotonic() + timeout
        for process in self._running:
            process.join(max(deadline - time.monotonic(), 0))
            if process.is_alive():
                process.kill()
                process.join(_GONE)
        self._begun.close()
        self._begins.close()


def _live(receive: Receive, listener: socket.socket, begins: connection.Connection) -> None:
    """Receive until SIGTERM, or until the parent has ended."""
    ending = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    # Ctrl-C reaches the parent too, which ends all processes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(ending,), name="parent", daemon=True).start()

    def begin() -> None:
        # A parent that has ended does not read it.
        with contextlib.suppress(OSError):
            begins.send_bytes(b"1")

    receive(listener, ending, begin)


def _end_with_parent(ending: threading.Event) -> None:
    """End with the parent process: an orphan would keep the port."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        ending.set()


class ReceiverThread:
    """Receives in a thread of this process."""

    def __init__(self, listener: socket.socket, receive: Receive) -> None:
        self._ended, self._begun = threading.Event(), threading.Event()
        arguments = (listener, self._ended, self._begun.set)
        self._thread = threading.Thread(target=receive, args=arguments, name="receiver")
        self._thread.start()

    def has_begun(self, timeout: float) -> bool:
        """Whether it receives within ``timeout`` seconds."""
        return self._begun.wait(timeout)

    def renew(self) -> None:
        """Check that it still receives.

        Raises
        ------
        ConfigurationError
            If a fault, which the log tells, has ended it.
        """
        if not self._thread.is_alive():
            raise ConfigurationError(
                "The receiver has ended by a fault. See its log for the cause, and start it again."
            )

    def stop(self, timeout: float) -> None:
        """End it within ``timeout`` seconds."""
        self._ended.set()
        self._thread.join(timeout)


@contextlib.contextmanager
def _receiving(
    config: Settings, redis_url: str, listener: socket.socket, ending: threading.Event
) -> Iterator[Callable[[], None]]:
    """Receive during the block, in this process or in several; yield a function to call at each beat.

    The block begins once a caller would be answered: before that, connections wait in the backlog of the socket.

    Raises
    ------
    ConfigurationError
        If it does not begin in time.
    """
    receiving = partial(receive, config, redis_url)
    running: ReceiverProcesses | ReceiverThread
    if config.receiver_processes > 1:
        running = ReceiverProcesses(config.receiver_processes, listener, receiving)
    else:
        running = ReceiverThread(listener, receiving)
    try:
        limit = time.monotonic() + _BEGIN_LIMIT
        while not running.has_begun(_LOOK) and not ending.is_set():
            running.renew()
            if time.monotonic() > limit:
                raise ConfigurationError(
                    f"The receiver did not begin within {_BEGIN_LIMIT:.0f} s. "
                    "See its log for the cause, and check that this machine is not overloaded."
                )
        yield running.renew
    finally:
        running.stop(STOP_LIMIT + 2)
        listener.close()


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
        # Each process reads the certificate itself; this check reports an error once.
        called_context(config.receiver_tls)
    if config.receiver_dir is None:
        config.data_dir.expanduser().mkdir(mode=directory_mode(config.group_access), parents=True, exist_ok=True)
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
    cleanup = Cleanup(directory, config.keep_incoming)
    with _receiving(config, redis_url, listener, ending) as renew:
        try:
            cleanup.start()
            serve_metrics(config, redis_url)
            if not ending.is_set():
                logger.info(
                    "Receiving. Add this destination to your PACS: AE title %s, host %s, port %d%s",
                    receiver.ae_title,
                    host,
                    port,
                    ", TLS" if receiver.tls else "",
                )
                logger.info("%s.", describe(config))
                announcer.beat()
            while not ending.wait(BEAT):
                renew()
                announcer.beat()
        finally:
            cleanup.stop()
            announcer.end()
    logger.info("The receiver has ended.")


def main() -> int:
    """Run the receiver of this machine until SIGTERM or SIGINT; return the exit code."""
    log_plainly()
    logging.basicConfig(format=FORMAT, level=logging.INFO, stream=sys.stderr)
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    try:
        config = load()
        write_lines(config.log_format)
        keep_private(config.group_access)
        if remark := remark_on_variables():
            logger.warning("%s", remark)
        with contextlib.ExitStack() as stack:
            url = config.redis_url or stack.enter_context(embedded.attach(config))
            serve(config, url, ending)
    except PacsTasksError as error:
        logger.error("%s", error)
        return 2
    return 0
