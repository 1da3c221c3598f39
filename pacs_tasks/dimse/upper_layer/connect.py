"""From an address to a wire: the TCP connection, and TLS on it where the peer wants that."""

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


def open_wire(remote: RemoteAE, connect_limit: float, limit: float, watch: Watch) -> Wire:
    """Connect to a peer, with a TLS handshake where ``remote.tls`` asks for one.

    Parameters
    ----------
    connect_limit
        Seconds for the TCP connection.
    limit
        Seconds for the handshake; it is the limit of the wire, too.
    watch
        Called every :data:`SLICE` seconds; it may raise to end the wait.

    Raises
    ------
    PeerUnavailableError
        If it does not answer.
    TLSError
        If no secure connection comes about with it.
    UnreadableInputError
        If a file of ``remote.tls`` cannot be used; nothing was opened.
    """
    peer = str(remote)
    context = None if remote.tls is None else caller_context(remote.tls)
    begun = time.monotonic()
    sock = connect(remote.host, remote.port, peer, connect_limit, watch)
    round_trip = time.monotonic() - begun
    if remote.tls is None or context is None:
        plain = Wire(sock, peer, limit)
        plain.round_trip = round_trip
        plain.hint = "; it may expect TLS at this port (--tls)"
        plain.watch = watch
        return plain
    wire = SecureWire(sock, peer, limit, context, remote.tls.server_name or remote.host)
    wire.watch, wire.round_trip = watch, round_trip
    try:
        wire.shake_hands()
    except BaseException:
        wire.abort()
        raise
    return wire


def connect(host: str, port: int, peer: str, limit: float, watch: Watch) -> socket.socket:
    """Connect to the first address of ``host`` that answers.

    Parameters
    ----------
    limit
        Seconds for all addresses together.
    watch
        Called every :data:`SLICE` seconds; it may raise to end the wait.

    Raises
    ------
    PeerUnavailableError
        If none does.
    """
    advice = "check the IP address and port, and that the PACS is running and lets this machine in"
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise PeerUnavailableError(f"cannot connect to {peer}: no address is known for this host; {advice}") from None
    deadline = time.monotonic() + limit
    problem = "no address"
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        share = max(deadline - time.monotonic(), 0.0) / (len(addresses) - number)
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:
            problem = error.strerror or "the system refuses"
            continue
        try:
            refusal = _connect_one(sock, address, share, watch)
        except BaseException:
            sock.close()
            raise
        if refusal is None:
            return sock
        sock.close()
        problem = f"no answer within {limit:g} s" if refusal == errno.ETIMEDOUT else os.strerror(refusal)
    raise PeerUnavailableError(f"cannot connect to {peer}: {problem}; {advice}")


def _connect_one(sock: socket.socket, address: tuple[object, ...], limit: float, watch: Watch) -> int | None:
    """Connect without blocking; give the ``errno`` of a refusal."""
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
