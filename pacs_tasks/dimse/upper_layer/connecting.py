"""Connections to remotes, over TLS where they require it.

An address that no remote has, such as that of a cloud's metadata service, is never called.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import time
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

from pacs_tasks.ae import RemoteAE
from pacs_tasks.dimse.upper_layer.tls import SecureWire, caller_context
from pacs_tasks.dimse.upper_layer.wire import SLICE, Watch, Wire
from pacs_tasks.errors import AssociationError, PeerUnavailableError
from pacs_tasks.settings import RemoteAddresses, settings

_CHECK_ADDRESS = "Check the IP address and port, and that the PACS is running and reachable from this machine."

_Address = IPv4Address | IPv6Address
#: Beside link-local addresses, of which 169.254.169.254 is one, some clouds have their metadata service here.
_METADATA: Final = frozenset(
    map(ip_address, ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"))
)
#: RFC 1918, RFC 4193, and this machine.
_PRIVATE: Final = tuple(
    map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "fc00::/7", "::1/128"))
)
#: Networks whose addresses contain one of IPv4 at the end (RFC 6052, RFC 8215, RFC 2765, RFC 4291 section 2.5.5.1).
_TRANSLATED: Final = tuple(map(ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "::ffff:0:0:0/96", "::/96")))
#: Where a gateway with a prefix of 48, 56 or 64 bits finds it instead in that of RFC 8215 (RFC 6052 section 2.2).
_LOCAL_PREFIX: Final = ip_network("64:ff9b:1::/48")
_ELSEWHERE: Final = ((6, 7, 9, 10), (7, 9, 10, 11), (9, 10, 11, 12))
#: Nothing but what an administrator numbered so has these: site-local (RFC 3879) and reserved (RFC 1112).
_UNUSUAL: Final = tuple(map(ip_network, ("fec0::/10", "240.0.0.0/4")))


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
        wire.check_certificate(remote.tls.certificates)
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
    AssociationError
        If the worker's settings exclude all addresses; none was tried then.
    """
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise PeerUnavailableError(
            f"Cannot connect to {name}: the host name has no address. {_CHECK_ADDRESS}"
        ) from None
    allowed, named = settings().remote_addresses, settings().names_host(host)
    # The very address that was checked is connected to: a name server may answer otherwise the next time.
    addresses = [each for each in addresses if may_be_called(str(each[4][0]), allowed, named=named)]
    if not addresses:
        raise AssociationError(
            f"{name} has an address that workers do not call. Correct it, or see PACS_TASKS_REMOTE_ADDRESSES."
        )
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


def may_be_called(text: str, allowed: RemoteAddresses, *, named: bool = False) -> bool:
    """Whether an address, as the system resolved it, may be called.

    Parameters
    ----------
    text
        The address, of an IPv6 link perhaps with its zone.
    named
        Whether the settings name a remote with this host. Site-local and reserved addresses are called only then.
    """
    written = ip_address(text.partition("%")[0])
    address = _plain(written)
    if any(each.is_link_local or each in _METADATA for each in _elsewhere(written)):
        return False
    if address.is_link_local or address.is_multicast or address.is_unspecified or address in _METADATA:
        return False
    if address.version == 4 and (address.packed[0] == 0 or address.packed == b"\xff" * 4):
        return False
    if not named and any(address in network for network in _UNUSUAL):
        return False
    return allowed is RemoteAddresses.ANY or any(address in network for network in _PRIVATE)


def _plain(address: _Address) -> _Address:
    """The IPv4 address within one of IPv6: a system or a gateway connects to that."""
    if isinstance(address, IPv4Address):
        return address
    if (within := address.ipv4_mapped or address.sixtofour) is not None:
        return within
    if int(address) > 1 and any(address in network for network in _TRANSLATED):
        return IPv4Address(address.packed[-4:])
    return address


def _elsewhere(address: _Address) -> tuple[IPv4Address, ...]:
    """The other addresses of IPv4 that a gateway may read in one of IPv6: only it knows the length of its prefix."""
    if address not in _LOCAL_PREFIX:
        return ()
    return tuple(IPv4Address(bytes(address.packed[at] for at in places)) for places in _ELSEWHERE)
