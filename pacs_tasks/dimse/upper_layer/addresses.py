"""The addresses that a request may have called: never those that no remote has, such as a cloud's metadata service."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

from pacs_tasks.settings import RemoteAddresses

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
