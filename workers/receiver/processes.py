"""Several processes that receive on one port, so that more cores take more.

They share the socket that listens, rather than each having one with ``SO_REUSEPORT``: a process that dies takes no
connection with it that nobody has accepted yet, and the port is still refused to everybody else.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from threading import Event, Thread

logger = logging.getLogger("pacs_tasks.receiver")

#: Seconds that a killed process may take to be gone.
_GONE = 1.0

#: What a process does with the listening socket until the event is set.
Receive = Callable[[socket.socket, Event], None]


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
    ending = Event()
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    # Ctrl-C reaches the parent too, which ends all in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, args=(ending,), name="parent", daemon=True).start()
    receive(listener, ending)


def _end_with_parent(ending: Event) -> None:
    """An orphan would keep the port."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        ending.set()
