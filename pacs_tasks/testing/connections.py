"""The sockets and threads below a :class:`~pacs_tasks.testing.TestPACS`."""

from __future__ import annotations

import socket
from contextlib import suppress
from socketserver import BaseServer
from typing import Final

from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.transport import ThreadedAssociationServer

_QUICK_ACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)


class Listener(ThreadedAssociationServer):
    """Accepts connections; many callers may come at once, as the tasks of several workers do."""

    request_queue_size = 128

    def shutdown(self) -> None:
        """Stop listening. pynetdicom's own would look for this listener among those that an AE has started itself."""
        BaseServer.shutdown(self)
        self.server_close()


def _socket(assoc: Association) -> socket.socket | None:
    wrapper = assoc.dul.socket
    return None if wrapper is None else wrapper.socket


def send_at_once(event: Event) -> None:
    """Turn Nagle's algorithm off: with delayed ACKs it costs 40 ms and more for each message."""
    found = _socket(event.assoc)
    if found is not None:
        with suppress(OSError):
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def acknowledge_at_once(event: Event) -> None:
    """Ask for the next ACK at once where the system can: callers may have left Nagle's algorithm on."""
    found = _socket(event.assoc)
    if found is not None and _QUICK_ACK is not None:
        with suppress(OSError):
            found.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)


def close(assoc: Association) -> None:
    """Close an association's connection, whatever it is doing; its threads end soon."""
    found = _socket(assoc)
    if found is not None:
        with suppress(OSError):
            found.shutdown(socket.SHUT_RDWR)
    # One that still waits for the association request would wait until its time-out: this stands for it.
    assoc.dul.to_user_queue.put(None)
