"""Admission to the Storage SCP: who gets a thread, and who gets an association, where many call at once.

A connection costs no thread before its association request has arrived: until then it waits in the :class:`Lobby`.
After that, :class:`Places` are counted. Remotes that are known have places of their own, so that strangers, however
many, cannot keep them out.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import selectors
import socket
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pacs_tasks.ae import plain_address
from pacs_tasks.dimse.files.elements import plain
from pacs_tasks.dimse.upper_layer.negotiation import LONGEST_REQUEST
from pacs_tasks.dimse.upper_layer.wire import A_ASSOCIATE_RQ, SLICE

log = logging.getLogger(__name__)

#: Connections that may wait for a whole request at once, if the limit of open files allows it: a PACS sends its
#: request as soon as it is connected.
_MOST_WAITING = 512
#: At most this part of the open files that the system allows.
_PART_OF_FILES = 4
#: At most this part of them may come from one address. The oldest gives way to a new one.
_PART_OF_WAITING = 8
#: Seconds that a connection has for its request while more than half of all places are taken.
CROWDED_LIMIT = 3.0
#: Bytes after which the rest of a request is the task of a thread. Nearly all requests are shorter, and this fits into
#: any receive buffer.
_ENOUGH = 1 << 14
_HEADER = 6
#: The calling AE title in a request (PS3.8 section 9.3.2).
_CALLING_AET = slice(26, 42)
#: Connections that are accepted before the others are served again.
_AT_ONCE = 256
#: Seconds between two tries to find a thread for a whole request.
_TRY_AGAIN = 0.02
#: The most open files make no sense for connections that wait.
_NO_FILES = frozenset({errno.EMFILE, errno.ENFILE})
#: One part in so many of all places is for known remotes alone.
_RESERVE = 4
#: Lines that :class:`Sparing` writes before it only counts: in all, and of one address.
_MOST_LINES = 50
_LINES_OF_ONE = 10
_MINUTE = 60.0


class Places:
    """So many places, of which no caller has more than its share. Thread-safe.

    A caller has names, such as its address and its AE title. What known remotes have does not count for strangers of
    the same name.

    Parameters
    ----------
    total
        All places. A quarter of them is for known remotes alone.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._for_strangers = total - total // _RESERVE
        self._taken: dict[object, tuple[bool, tuple[str, ...]]] = {}
        self._shares: Counter[tuple[bool, str]] = Counter()
        self._strangers = 0
        self._lock = threading.Lock()

    def take(self, holder: object, known: bool, shares: Mapping[str, int]) -> bool:
        """Take a place for a caller with these names and shares; false if there is none for it."""
        with self._lock:
            if not self.has_room(known, shares):
                return False
            self._taken[holder] = known, tuple(shares)
            self._shares.update((known, name) for name in shares)
            self._strangers += not known
            return True

    def has_room(self, known: bool, shares: Mapping[str, int]) -> bool:
        """Whether there is a place for a caller with these names and shares."""
        enough = len(self._taken) < self._total and (known or self._strangers < self._for_strangers)
        return enough and all(self._shares[known, name] < share for name, share in shares.items())

    def leave(self, holder: object) -> None:
        """Give the place back, if it has one."""
        with self._lock:
            known, names = self._taken.pop(holder, (True, ()))
            self._strangers -= not known
            for name in names:
                self._shares[known, name] -= 1
                if not self._shares[known, name]:
                    del self._shares[known, name]

    def is_in_the_way(self, holder: object) -> bool:
        """Whether it has a place as a stranger while strangers have more than half of those that they may have."""
        known, _ = self._taken.get(holder, (True, ()))
        return not known and 2 * self._strangers > self._for_strangers

    @property
    def crowded(self) -> bool:
        """Whether more than half of the places are taken."""
        return 2 * len(self._taken) > self._total


@dataclass(eq=False)
class Connection:
    """A connection whose association request has not arrived, or has no thread yet."""

    sock: socket.socket
    host: str
    #: Whether it comes from this machine.
    own: bool
    #: Whether it comes from the address of a known remote.
    known: bool
    since: float = field(default_factory=time.monotonic)
    #: What has arrived. Of TLS, nothing is read here.
    received: bytearray = field(default_factory=bytearray)

    @property
    def calling_aet(self) -> str:
        """The calling AE title of a request that has arrived."""
        return plain(bytes(self.received[_CALLING_AET]))

    def reject(self, pdu: bytes) -> None:
        """Reject the association, if the socket accepts that at once, and close."""
        with contextlib.suppress(OSError):
            self.sock.send(pdu)
            self.sock.shutdown(socket.SHUT_WR)
        self.sock.close()


class Lobby:
    """Accepts connections, and keeps each until its association request has arrived, all in one thread.

    It has room for a limited number: the silent give way first, then the oldest. Known remotes do not give way to
    others.

    Parameters
    ----------
    listener
        A listening socket, which other processes may share.
    limit
        Seconds that a connection has for its request.
    secure
        Whether connections begin with TLS. Then the first byte counts as a request: only the thread of the connection
        can read the next ones.
    is_known
        Whether an address is that of a known remote.
    serve
        Starts a thread for a connection, or rejects it; false if it must wait.
    """

    def __init__(
        self,
        listener: socket.socket,
        limit: float,
        *,
        secure: bool,
        is_known: Callable[[str], bool],
        serve: Callable[[Connection], bool],
    ) -> None:
        self._listener, self._limit, self._secure = listener, limit, secure
        self._is_known, self._serve = is_known, serve
        self._most = most_waiting()
        self._selector: selectors.BaseSelector
        self._silent: dict[Connection, None] = {}
        self._begun: dict[Connection, None] = {}
        self._whole: deque[Connection] = deque()
        self._from: Counter[str] = Counter()
        self._strangers = 0
        self._swept = time.monotonic()
        self._sparing = Sparing()

    def run(self, stopping: threading.Event) -> None:
        """Serve until the event is set."""
        self._listener.setblocking(False)
        with contextlib.ExitStack() as stack:
            self._selector = stack.enter_context(selectors.DefaultSelector())
            stack.callback(self._close_all)
            self._selector.register(self._listener, selectors.EVENT_READ)
            while not stopping.is_set():
                for key, _ in self._selector.select(_TRY_AGAIN if self._whole else SLICE):
                    if key.data is not None:
                        self._receive(key.data)
                # A request that has arrived has been read by now, so that nobody who is ready gives way.
                for _ in range(_AT_ONCE):
                    if not self._accept():
                        break
                self._start_threads()
                self._sweep()

    def _close_all(self) -> None:
        for each in (*self._silent, *self._begun, *self._whole):
            each.sock.close()
        for waiting in (self._silent, self._begun, self._whole, self._from):
            waiting.clear()
        self._strangers = 0

    @property
    def crowded(self) -> bool:
        """Whether more than half of the room is taken by strangers."""
        return 2 * self._strangers > self._most

    def _accept(self) -> bool:
        """Accept a connection; false if there is none for now."""
        try:
            sock, address = self._listener.accept()
        except (BlockingIOError, InterruptedError):
            # Another process of the receiver was faster, or all have been accepted.
            return False
        except OSError as error:
            # The caller has already gone, or there are too many open files.
            self._sparing.warning("", "A connection could not be accepted: %s.", error.strerror)
            if error.errno in _NO_FILES and not self._make_way():
                time.sleep(_TRY_AGAIN)
            return False
        sock.setblocking(False)
        host = plain_address(str(address[0]))
        own = host == plain_address(str(sock.getsockname()[0]))
        known = self._is_known(host)
        if self._from[host] >= max(self._most // _PART_OF_WAITING, 1):
            self._make_way(host)
        elif not known and self._strangers >= self._most:
            self._make_way()
        each = Connection(sock, host, own, known)
        self._silent[each] = None
        self._from[host] += 1
        self._strangers += not known
        self._selector.register(sock, selectors.EVENT_READ, each)
        return True

    def _make_way(self, host: str = "") -> bool:
        """Close the oldest silent connection of an address, or of any stranger, or else the oldest that has begun."""
        for waiting in (self._silent, self._begun):
            for each in waiting:
                if each.host == host if host else not each.known:
                    self._close(each)
                    return True
        return False

    def _close(self, each: Connection) -> None:
        self._sparing.warning(
            each.host, "A connection from %s was closed: it sent no association request in time.", each.host
        )
        self._forget(each)
        each.sock.close()

    def _forget(self, each: Connection) -> None:
        """Forget a connection that no longer waits for its request."""
        self._silent.pop(each, None)
        self._begun.pop(each, None)
        self._selector.unregister(each.sock)
        self._from[each.host] -= 1
        if not self._from[each.host]:
            del self._from[each.host]
        self._strangers -= not each.known

    def _receive(self, each: Connection) -> None:
        try:
            content = each.sock.recv(1 if self._secure else _ENOUGH, socket.MSG_PEEK if self._secure else 0)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            content = b""
        if not content:
            log.debug("A connection from %s ended without an association request.", each.host)
            self._forget(each)
            each.sock.close()
            return
        each.received += content
        if self._secure or _is_enough(each.received):
            self._forget(each)
            if self._secure:
                each.received.clear()
            self._whole.append(each)
        elif each in self._silent:
            del self._silent[each]
            self._begun[each] = None

    def _start_threads(self) -> None:
        """Start the threads of those whose requests have arrived, of known remotes first."""
        if not self._whole:
            return
        waiting = sorted(self._whole, key=lambda each: not each.known)
        self._whole = deque(each for each in waiting if not self._serve(each))
        while len(self._whole) > self._most:
            self._whole.pop().sock.close()

    def _sweep(self) -> None:
        """Close those that are late."""
        now = time.monotonic()
        if now - self._swept < SLICE:
            return
        self._swept = now
        limit = min(self._limit, CROWDED_LIMIT) if self.crowded else self._limit
        for each in [*self._silent, *self._begun]:
            if now - each.since > (self._limit if each.known else limit):
                self._close(each)
        self._sparing.count()


def _is_enough(received: bytearray) -> bool:
    """Whether a thread can go on: with the whole request, with most of it, or with what is not one."""
    if received[0] != A_ASSOCIATE_RQ or len(received) >= _ENOUGH:
        return True
    if len(received) < _HEADER:
        return False
    length = int.from_bytes(received[2:_HEADER], "big")
    return length > LONGEST_REQUEST or len(received) >= _HEADER + length


def most_waiting() -> int:
    """Give how many connections may wait at once; associations need open files too."""
    if sys.platform != "win32":
        import resource  # noqa: PLC0415 - Windows has none

        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft >= 0:
            return max(min(_MOST_WAITING, soft // _PART_OF_FILES), 1)
    return _MOST_WAITING


class Sparing:
    """Writes warnings that strangers can cause, but not as many as they like: after some a minute it counts the rest.

    One address has ten lines a minute, so that it does not hide what others cause, and all together have fifty.
    """

    def __init__(self, logger: logging.Logger = log) -> None:
        self._log = logger
        self._lock = threading.Lock()
        self._since = time.monotonic()
        self._lines: Counter[str] = Counter()
        self._written = self._left_out = 0

    def warning(self, host: str, message: str, *values: object) -> None:
        """Write a warning that an address has caused, or count it."""
        self.count()
        with self._lock:
            if self._written >= _MOST_LINES or self._lines[host] >= _LINES_OF_ONE:
                self._left_out += 1
                return
            self._written += 1
            self._lines[host] += 1
        self._log.warning(message, *values)

    def count(self) -> None:
        """After a minute, write how many warnings were only counted, and begin anew."""
        with self._lock:
            if time.monotonic() - self._since < _MINUTE:
                return
            left_out, self._left_out, self._written, self._since = self._left_out, 0, 0, time.monotonic()
            self._lines.clear()
        if left_out:
            self._log.warning("%d more warnings within a minute were left out.", left_out)
