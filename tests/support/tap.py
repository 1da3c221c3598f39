"""A tap on a connection: it passes on what both sides say, keeps it, and may cut it into small segments."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from pacs_tasks.ae import RemoteAE
from tests.support import messages
from tests.support.scripted import wake
from tests.support.waiting import wait_until

_CHUNK = 1 << 18


@dataclass
class Conversation:
    """What both sides of one connection said."""

    asked: bytearray = field(default_factory=bytearray)
    answered: bytearray = field(default_factory=bytearray)
    #: The sides that have ended, in order.
    ended: list[socket.socket] = field(default_factory=list)

    def check_lengths(self) -> None:
        """No P-DATA-TF is longer than its reader announced (PS3.8 section D.1; 0 is no limit)."""
        for said, heard in ((self.asked, self.answered), (self.answered, self.asked)):
            limit = messages.max_length(bytes(heard))
            assert limit is not None, "an association without a maximum length"
            assert messages.longest(bytes(said)) <= (limit or 1 << 32)


@dataclass
class Tap:
    """Connections to ``port`` go to the tapped service."""

    port: int
    conversations: list[Conversation] = field(default_factory=list)

    def to(self, remote: RemoteAE) -> RemoteAE:
        """The same peer through the tap."""
        return remote.model_copy(update={"host": "127.0.0.1", "port": self.port})

    def finished(self) -> list[Conversation]:
        """What was said since the last call, once all connections have ended; no PDU is longer than agreed."""
        wait_until(lambda: all(len(each.ended) == 2 for each in self.conversations), 20, "the connections to end")
        found, self.conversations = self.conversations, []
        for each in found:
            each.check_lengths()
        return found

    def sent(self, *, answered: bool = False) -> dict[str, bytes]:
        """The data sets of C-STORE requests since the last call, from the caller or from the one who answered."""
        found: dict[str, bytes] = {}
        for each in self.finished():
            found |= messages.data_sets(bytes(each.answered if answered else each.asked))
        return found


@contextmanager
def tapped(port: int, piece: int = _CHUNK) -> Iterator[Tap]:
    """Listen for a service at ``port`` of loopback; each segment carries at most ``piece`` bytes."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.1)
    tap = Tap(listener.getsockname()[1])
    ending = threading.Event()
    threads: list[threading.Thread] = []
    sockets: list[socket.socket] = []

    def accept() -> None:
        while not ending.is_set():
            try:
                caller, _ = listener.accept()
            except TimeoutError:
                continue
            if ending.is_set():
                caller.close()
                return
            conversation = Conversation()
            tap.conversations.append(conversation)
            try:
                service = socket.create_connection(("127.0.0.1", port), timeout=10)
            except OSError:
                tap.conversations.remove(conversation)
                caller.close()
                continue
            sockets.extend((caller, service))
            for each in (caller, service):
                each.settimeout(60)
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for source, target, kept in (
                (caller, service, conversation.asked),
                (service, caller, conversation.answered),
            ):
                threads.append(
                    threading.Thread(target=_pass_on, args=(source, target, kept, conversation, piece), daemon=True)
                )
                threads[-1].start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield tap
    finally:
        ending.set()
        wake(listener)
        accepting.join(10)
        listener.close()
        for each in sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(10)
        for each in sockets:
            each.close()


def _pass_on(
    source: socket.socket, target: socket.socket, kept: bytearray, conversation: Conversation, piece: int
) -> None:
    try:
        while content := source.recv(_CHUNK):
            kept += content
            for at in range(0, len(content), piece):
                target.sendall(content[at : at + piece])
    except OSError:
        # One side reset the connection: so does the other one learn.
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)
    finally:
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)
        conversation.ended.append(source)
