"""Open a wire to an address: a TCP connection, with TLS where the remote requires it."""

from __future__ import annotations

import errno
import os
import selectors
import socket
import time

from pacs_tasks.ae import RemoteAE
from pacs_tasks.dimse.upper_layer.tls import SecureWire, caller_context
from pacs_tasks.dimse.upper_layer.wire import SLICE, Watch, Wire
from pacs_tasks.errors import PeerUnavailableError

_CHECK_ADDRESS = "Check the IP address and port, and that the PACS is running and reachable from this machine."


def open_wire(remote: RemoteAE, connect_limit: float, limit: float, watch: Watch) -> Wire:
    """Connect to a remote, with a TLS handshake if ``remote.tls`` is set.

    Parameters
    ----------
    connect_limit
        Seconds for the TCP connection.
    limit
        Seconds for the handshake, and the limit of the wire.
    watch
        Called every :data:`SLICE` seconds; it may raise to end the wait.

    Raises
    ------
    PeerUnavailableError
        If the remote does not answer.
    TLSError
        If the TLS handshake cannot succeed.
    UnreadableInputError
        If a file of ``remote.tls`` cannot be used; nothing was opened.
    """
    name = str(remote)
    context = None if remote.tls is None else caller_context(remote.tls)
    begun = time.monotonic()
    sock = connect(remote.host, remote.port, name, connect_limit, watch)
    round_trip = time.monotonic() - begun
    if remote.tls is None or context is None:
        plain = Wire(sock, name, limit)
        plain.round_trip = round_trip
        plain.hint = "Check whether it expects TLS on this port (--tls)."
        plain.watch = watch
        return plain
    wire = SecureWire(sock, name, limit, context, remote.tls.server_name or remote.host)
    wire.watch, wire.round_trip = watch, round_trip
    try:
        wire.handshake()
    except BaseException:
        wire.abort()
        raise
    return wire


def connect(host: str, port: int, name: str, limit: float, watch: Watch) -> socket.socket:
    """Connect to the first address of ``host`` that accepts the connection.

    Parameters
    ----------
    limit
        Seconds for all addresses together.
    watch
        Called every :data:`SLICE` seconds; it may raise to end the wait.

    Raises
    ------
    PeerUnavailableError
        If no address does.
    """
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise PeerUnavailableError(
            f"Cannot connect to {name}: the host name has no address. {_CHECK_ADDRESS}"
        ) from None
    deadline = time.monotonic() + limit
    problem = "no address"
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        share = max(deadline - time.monotonic(), 0.0) / (len(addresses) - number)
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:
            problem = error.strerror or "the system has no socket"
            continue
        try:
            failure = _connect_one(sock, address, share, watch)
        except BaseException:
            sock.close()
            raise
        if failure is None:
            return sock
        sock.close()
        problem = f"no answer within {limit:g} s" if failure == errno.ETIMEDOUT else os.strerror(failure)
    raise PeerUnavailableError(f"Cannot connect to {name}: {problem}. {_CHECK_ADDRESS}")


def _connect_one(sock: socket.socket, address: tuple[object, ...], limit: float, watch: Watch) -> int | None:
    """Connect without blocking; give the ``errno`` of a failure."""
    sock.setblocking(False)
    code = sock.connect_ex(address)
    if code not in {0, errno.EINPROGRESS, errno.EWOULDBLOCK, getattr(errno, "WSAEWOULDBLOCK", 0)}:
        return code
    deadline = time.monotonic() + limit
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_WRITE)
        while not selector.select(max(min(SLICE, deadline - time.monotonic()), 0)):
            watch()
            if time.monotonic() >= deadline:
                return errno.ETIMEDOUT
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or None
