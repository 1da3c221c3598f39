"""From whom a job expects its instances at a receiver: the PACS that it asked, and nobody else.

C-STORE sub-operations of a C-MOVE come on an association that the PACS opens (PS3.4 section C.4.2.3), so anybody who
knows the UIDs could send instances in its place. The worker says who may; the receiver compares.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from pacs_tasks.ae import is_loopback, plain_address

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from pacs_tasks.ae import RemoteAE
    from pacs_tasks.dimse.scp.c_store import Originator, Sender

#: Any port will do to find out which address the system would use; nothing is sent.
_PORT = 9


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


class Stranger(_Value):
    """Somebody who sent what a job expects from another AE, and the settings that would accept it."""

    ae_title: str
    address: str
    #: Each with its value, as in the table of the remote.
    settings: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.ae_title} at {self.address}"


class Expectation(_Value):
    """What one owner accepts for a series: who may send it, and which C-MOVE may have caused that.

    Attributes
    ----------
    addresses
        IP addresses and networks.
    certificates
        Marks of certificates, one of which a sender over TLS must have; with none, any certificate is accepted that
        the receiver trusts.
    originator, message_id
        Our own AE title, and the id of our C-MOVE request. A sender that names no Move Originator is accepted too.
    originators
        AE titles that are accepted as Move Originator with any message id: nodes that pass our request on to another.
    """

    owner: str
    addresses: tuple[str, ...]
    ae_titles: tuple[str, ...]
    certificates: tuple[str, ...] = ()
    originator: str
    message_id: int
    originators: tuple[str, ...] = ()

    def accepts(self, sender: Sender, originator: Originator | None) -> bool:
        """Return whether an instance may count for the owner."""
        return (
            sender.calling_aet in self.ae_titles
            and self._accepts_address(sender)
            and self._accepts_certificate(sender)
            and self._accepts_originator(originator)
        )

    def stranger(self, sender: Sender, originator: Originator | None) -> Stranger:
        """Name a sender that is not accepted, with the settings that would accept it."""
        wanted: list[str] = []
        if not self._accepts_address(sender):
            wanted.append(f'receive_from = ["{sender.address}"]')
        titles = [] if sender.calling_aet in self.ae_titles else [sender.calling_aet]
        if originator is not None and not self._accepts_originator(originator):
            titles.append(originator.ae_title)
        if titles:
            named = ", ".join(f'"{title}"' for title in dict.fromkeys(titles))
            wanted.append(f"receive_from_ae_titles = [{named}]")
        if not self._accepts_certificate(sender):
            wanted.append(f'receive_from_certificates = ["{sender.certificate[0]}"]')
        return Stranger(ae_title=sender.calling_aet, address=sender.address, settings=tuple(wanted))

    def _accepts_address(self, sender: Sender) -> bool:
        if sender.address in self.addresses:
            return True
        return any(_covers(each, sender) for each in self.addresses)

    def _accepts_certificate(self, sender: Sender) -> bool:
        if not self.certificates or not sender.certificate:
            return True
        return not set(self.certificates).isdisjoint(sender.certificate)

    def _accepts_originator(self, originator: Originator | None) -> bool:
        """Whether our own request caused the sending, or that of a node that passed it on."""
        if originator is None:
            return True
        ours = (originator.ae_title, originator.message_id) == (self.originator, self.message_id)
        return ours or originator.ae_title in self.originators


def _covers(address: str, sender: Sender) -> bool:
    """Whether a network holds the address of a sender, or both are on this machine."""
    try:
        if "/" in address:
            return ipaddress.ip_address(sender.address) in ipaddress.ip_network(address)
    except ValueError:
        return False
    return sender.local and _is_here(address)


def expectation(
    owner: str,
    remotes: Sequence[RemoteAE],
    receiver_host: str,
    certificates: Collection[str],
    request: tuple[str, int],
) -> Expectation:
    """Say from whom the instances of a C-MOVE may come.

    Parameters
    ----------
    remotes
        The PACS that is asked, and what else the settings say of it.
    receiver_host
        Where the receiver listens.
    certificates
        The marks of the certificate that the PACS showed when it was called; none without TLS.
    request
        Our AE title, and the message id of the C-MOVE request.
    """
    remote = remotes[0]
    addresses = dict.fromkeys(_addresses_of(remote.host, receiver_host))
    others, marks = dict[str, None](), dict.fromkeys(certificates)
    for each in remotes:
        addresses |= dict.fromkeys(each.receive_from or ())
        others |= dict.fromkeys(each.receive_from_ae_titles or ())
        marks |= dict.fromkeys(each.receive_from_certificates or ())
    originator, message_id = request
    return Expectation(
        owner=owner,
        addresses=tuple(addresses),
        ae_titles=(remote.ae_title, *others),
        certificates=tuple(marks),
        originator=originator,
        message_id=message_id,
        originators=tuple(others),
    )


def _addresses_of(host: str, receiver_host: str) -> list[str]:
    """Give the addresses of a host as a receiver sees them; none if its name is unknown by now."""
    try:
        found = list(dict.fromkeys(plain_address(str(each[4][0])) for each in socket.getaddrinfo(host, _PORT)))
    except (OSError, UnicodeError):
        return []
    if not any(map(_is_here, found)):
        return found
    # The PACS runs on this machine, and calls the receiver from the address from which this machine reaches it. The
    # loopback address means another machine there, unless the receiver is on this one.
    source = _source_towards(receiver_host)
    here = not source or is_loopback(source) or source == plain_address(receiver_host)
    return [*(each for each in found if here or not is_loopback(each)), *filter(None, (source,))]


def _is_here(address: str) -> bool:
    """Whether an address is one of this machine."""
    return is_loopback(address) or _source_towards(address) == address


def _source_towards(host: str) -> str:
    """Give the address of this machine from which it reaches a host; empty if it does not.

    Connecting a datagram socket sends nothing. An address of this machine is reached from itself.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, _PORT, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0]).partition("%")[0]
    except (OSError, UnicodeError):
        return ""
