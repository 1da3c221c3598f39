"""Callers that the Storage SCP accepts: by calling AE title, address and certificate, and by the AE title they call."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from pacs_tasks.dimse.upper_layer.negotiation import AssociateRequest

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: As AE title: any.
ANY = "*"
#: Where callers on the same machine come from (RFC 6890).
LOOPBACK: tuple[Network, ...] = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
_OWN = "127.0.0.1"
#: Addresses that are remembered; without a limit, strangers would decide how many there are.
_MOST_REMEMBERED = 4096


class Rejection(NamedTuple):
    """The numbers of an A-ASSOCIATE-RJ (PS3.8 section 9.3.4), and the reason for the log."""

    result: int
    source: int
    diagnostic: int
    reason: str


CALLING_AET_NOT_RECOGNISED = Rejection(
    1, 1, 3, "it is not a caller that the settings name. Name it in [receiver.allow] if it may call"
)
OTHER_CERTIFICATE = Rejection(1, 1, 3, "its certificate is not the one that the settings bind to this AE title")
CALLED_AET_NOT_RECOGNISED = Rejection(
    1, 1, 7, "it calls another AE title. Correct that at the caller, or set PACS_TASKS_RECEIVER_ANY_CALLED_AE_TITLE"
)
#: Temporary congestion: Redis does not answer, so nobody knows whether a job expects this caller.
UNCERTAIN = Rejection(2, 3, 1, "it cannot be checked in Redis whether a job expects it")


@dataclass(frozen=True)
class Caller:
    """A caller that is accepted.

    Attributes
    ----------
    ae_title
        Its calling AE title, or :data:`ANY`.
    networks
        Its addresses; none means any.
    certificates
        The certificates of which it must present one, as :meth:`SecureWire.certificate_names` gives them; none means
        that it need not present any.
    known
        Whether it is a remote for which places are kept.
    """

    ae_title: str
    networks: tuple[Network, ...] = ()
    certificates: frozenset[str] = frozenset()
    known: bool = True

    def is_at(self, host: str) -> bool:
        """Whether an address is one of its addresses."""
        return not self.networks or _is_within(host, self.networks)


class Callers:
    """Who may call. One thread may replace the callers while others read them.

    Parameters
    ----------
    named
        Callers that the settings name.
    everybody
        Whether others may call too. Only the certificates of named callers are checked then.
    called
        The AE title that they must call; None accepts any.
    """

    def __init__(self, named: Iterable[Caller] = (), *, everybody: bool = True, called: str | None = None) -> None:
        self.everybody, self.called = everybody, called
        self._callers: tuple[Caller, ...] = tuple(named)
        self._at: dict[str, bool] = {}

    def replace(self, callers: Iterable[Caller]) -> None:
        """Accept these callers from now on."""
        self._callers, self._at = tuple(callers), {}

    def refresh(self) -> bool:
        """Look for callers that are accepted since; false if nobody knows. It is called for each unknown one."""
        return True

    def has_at(self, host: str) -> bool:
        """Whether a known caller has this address."""
        at = self._at
        if host not in at:
            if len(at) >= _MOST_REMEMBERED:
                at.clear()
            at[host] = any(each.known and each.networks and each.is_at(host) for each in self._callers)
        return at[host]

    def knows(self, ae_title: str, host: str) -> bool:
        """Whether a known caller has this AE title and this address."""
        return any(each.known and each.networks for each in self._matching(ae_title, host))

    def rejection(
        self, request: AssociateRequest, host: str, certificates: frozenset[str], *, own: bool = False
    ) -> Rejection | None:
        """Give the reason to reject a request, if there is one.

        Parameters
        ----------
        certificates
            The names of the caller's certificate; none if it presented none.
        own
            Whether it calls from this machine, by whatever address.
        """
        title, hosts = request.calling_aet, (host, _OWN) if own else (host,)
        found = self._matching(title, *hosts)
        if not found and not self.everybody:
            certain = self.refresh()
            found = self._matching(title, *hosts)
            if not found:
                return CALLING_AET_NOT_RECOGNISED if certain else UNCERTAIN
        # An AE title that is bound to certificates is not open to callers that match by less.
        bound = [each for each in self._callers if each.ae_title == title and each.certificates]
        if any(each.certificates for each in found) or bound:
            accepted = (each for each in found if not bound or each.certificates)
            if not any(not each.certificates or each.certificates & certificates for each in accepted):
                return OTHER_CERTIFICATE
        if self.called is not None and request.called_aet != self.called:
            return CALLED_AET_NOT_RECOGNISED
        return None

    def note_failed_handshake(self, host: str) -> None:
        """Note that a connection from an address did not become one over TLS."""

    def _matching(self, ae_title: str, *hosts: str) -> list[Caller]:
        titled = (each for each in self._callers if each.ae_title in {ae_title, ANY})
        return [each for each in titled if any(each.is_at(host) for host in hosts)]


def _is_within(host: str, networks: tuple[Network, ...]) -> bool:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return any(address in each for each in networks)
