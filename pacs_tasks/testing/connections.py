"""The sockets and threads below a :class:`~pacs_tasks.testing.TestPACS`."""

from __future__ import annotations

import logging
import socket
import ssl
from contextlib import suppress
from functools import partial
from socketserver import BaseServer, TCPServer
from typing import Any, Final

from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.transport import AddressInformation, AssociationSocket, ThreadedAssociationServer

from pacs_tasks.ae import TLS

logger = logging.getLogger(__name__)

#: Seconds for a caller to shake hands.
_HANDSHAKE_LIMIT: Final = 10.0
_QUICK_ACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)


class _Socket(AssociationSocket):
    """pynetdicom's own is left open where nobody listens: what is not connected cannot be shut down."""

    def _shutdown_socket(self) -> None:
        found = self.socket
        super()._shutdown_socket()
        if found is not None:
            found.close()


class Caller(ApplicationEntity):
    """An application entity that opens associations of its own, and leaves nothing open."""

    def _create_socket(
        self, assoc: Association, address: AddressInformation, tls_args: tuple[ssl.SSLContext, str] | None
    ) -> AssociationSocket:
        found = _Socket(assoc, address=address)
        found.tls_args = tls_args
        return found


class Listener(ThreadedAssociationServer):
    """Accepts connections; many callers may come at once, as the tasks of several workers do."""

    request_queue_size = 128

    def get_request(self) -> tuple[socket.socket, Any]:
        """Take a connection as it is. pynetdicom's own would shake hands here, and one caller could hold up all."""
        return TCPServer.get_request(self)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands where that is wanted, in the connection's thread."""
        if self.ssl_context is not None:
            try:
                request.settimeout(_HANDSHAKE_LIMIT)
                request = self.ssl_context.wrap_socket(request, server_side=True)
                request.settimeout(None)
            except (OSError, ValueError) as error:
                logger.info("no TLS with %s: %s", client_address[0], error)
                request.close()
                return
        super().finish_request(request, client_address)

    def shutdown(self) -> None:
        """Stop listening. pynetdicom's own would look for this listener among those that an AE has started itself."""
        BaseServer.shutdown(self)
        self.server_close()


def context_of(tls: TLS) -> ssl.SSLContext:
    """What a PACS with this certificate brings to the handshake; with authorities, callers need a certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=tls.ca_file)
    context.load_cert_chain(tls.certificate_file or "", tls.key_file)
    if tls.ca_file is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _socket(assoc: Association) -> socket.socket | None:
    wrapper = assoc.dul.socket
    return None if wrapper is None else wrapper.socket


def close_in_any_case(event: Event) -> None:
    """Have the socket closed also where the caller has reset the connection: pynetdicom then leaves it open."""
    wrapper, found = event.assoc.dul.socket, _socket(event.assoc)
    if found is not None:
        vars(wrapper)["_shutdown_socket"] = partial(_end, found)


def _end(found: socket.socket) -> None:
    with suppress(OSError):
        found.shutdown(socket.SHUT_RDWR)
    found.close()


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
    queue: Any = assoc.dul.to_user_queue
    queue.put(None)


def let_go(assoc: Association) -> None:
    """Close the socket of an association whose threads have ended: one that was killed leaves it open."""
    found = _socket(assoc)
    if found is not None:
        found.close()
