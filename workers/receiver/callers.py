"""Who may call the receiver: named callers and remotes, this machine, and the remotes that jobs expect to call."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Iterable, Iterator

import redis

from pacs_tasks.ae import plain_address
from pacs_tasks.connection import QUICK, LateConnection
from pacs_tasks.dimse.scp.admission import Sparing
from pacs_tasks.dimse.scp.callers import ANY, LOOPBACK, UNCERTAIN, Caller, Callers, Network, Rejection
from pacs_tasks.dimse.upper_layer.negotiation import AssociateRequest
from pacs_tasks.errors import BrokerUnavailableError
from pacs_tasks.fleet.audits import Audits
from pacs_tasks.fleet.receivers import ExpectedCallers
from pacs_tasks.journal.audit import NODE_AUTHENTICATION, Event, Kind, Party
from pacs_tasks.settings import Settings

logger = logging.getLogger("pacs_tasks.receiver")

#: Seconds between two reads of what jobs expect, and after a Redis that did not answer.
_ROUND = 1.0
_AWAY = 5.0
#: Seconds after which the addresses of a host name are looked up again.
_NAMES_KEPT = 60.0
#: Callers that the line at the start names, and addresses and AE titles of each.
_MOST_NAMED, _MOST_OF_EACH = 8, 4
#: Seconds for which one Security Alert stands for all that is rejected from an address, and addresses that have one.
_ALERT_COVERS = 60.0
_MOST_ALERTED = 1000


def is_restricted(config: Settings) -> bool:
    """Whether only named callers may call: once any caller or remote is named."""
    return bool(config.receiver_allow or config.remotes)


def describe(config: Settings) -> str:
    """Say who may call, in one line of the log."""
    if not is_restricted(config):
        return (
            "Anybody may call this receiver, because the settings name no remote. Name remotes, or callers in "
            "[receiver.allow], to reject all others"
        )
    allowed = config.receiver_allow.items()
    named = [f"{title} at {_few(each.addresses) or 'any address'}" for title, each in allowed]
    for each in config.remotes.values():
        titles, places = (each.ae_title, *(each.receive_from_ae_titles or ())), (each.host, *(each.receive_from or ()))
        named.append(f"{_few(titles)} at {_few(places)}")
    if not config.receiver_allow:
        named.insert(0, "this machine")
    more = f" and {len(named) - _MOST_NAMED} more" if len(named) > _MOST_NAMED else ""
    called = "any AE title" if config.receiver_any_called_ae_title else config.receiver_ae_title
    return (
        f"These may call {called}: {'; '.join(named[:_MOST_NAMED])}{more}; and each PACS from which a running job "
        "expects instances or a report. All others are rejected"
    )


def _few(names: Iterable[str]) -> str:
    """Name the first of some, each once, and say how many more there are."""
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - _MOST_OF_EACH} more" if len(names) > _MOST_OF_EACH else ""
    return f"{', '.join(names[:_MOST_OF_EACH])}{more}"


class KnownCallers(Callers):
    """The callers that the settings name, and those that running jobs expect. A thread keeps both up to date."""

    def __init__(self, config: Settings, redis_url: str) -> None:
        restricted = is_restricted(config)
        any_called = config.receiver_any_called_ae_title or not restricted
        super().__init__(everybody=not restricted, called=None if any_called else config.receiver_ae_title)
        self._config, self._redis = config, LateConnection(redis_url, min(config.redis_timeout, QUICK))
        self._expected: set[tuple[str, str]] = set()
        self._addresses: dict[str, tuple[tuple[Network, ...], float]] = {}
        self._lock = threading.Lock()
        self._read = float("-inf")
        self._certain = False
        # The events of callers that were rejected since the last round, and when the last one was made, by address.
        self._alerts: dict[str, Event] = {}
        self._alerted: dict[str, float] = {}
        self._sparing = Sparing(logger)
        self._ending = threading.Event()
        # A name server may hang; the receiver must be able to end all the same.
        self._thread = threading.Thread(target=self._run, name="callers", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._ending.set()
        self._redis.close()

    def refresh(self) -> bool:
        """Read what jobs expect now. Of several threads, one reads for all that have waited meanwhile."""
        wanted = time.monotonic()
        with self._lock:
            if self._read < wanted:
                self._update()
            return self._certain

    def rejection(
        self, request: AssociateRequest, host: str, certificates: frozenset[str], *, own: bool = False
    ) -> Rejection | None:
        """Give the reason to reject a request, if there is one, and have the audit trail tell of it."""
        found = super().rejection(request, host, certificates, own=own)
        if found is not None and found != UNCERTAIN:
            self._alert(Party(request.calling_aet, host), host, found.reason)
        return found

    def note_failed_handshake(self, host: str) -> None:
        """Have the audit trail tell of a TLS handshake that failed."""
        self._alert(Party("unknown", host), host, "its TLS handshake failed")

    def _alert(self, caller: Party, host: str, detail: str) -> None:
        """Prepare an event, unless one of the address stands for it."""
        if not self._config.audit or len(self._alerted) >= _MOST_ALERTED:
            return
        now = time.time()
        if self._alerted.setdefault(host, now) == now:
            self._alerts[host] = Event(
                Kind.ALERT, now, category="failed", type=NODE_AUTHENTICATION, source=caller, detail=detail
            )

    def _put_alerts(self, client: redis.Redis) -> None:
        """Hand the events of rejected callers to the workers, one of which writes them."""
        audits = Audits(client)
        for host in list(self._alerts):
            audits.put(self._alerts[host].as_json())
            del self._alerts[host]
        over = time.time() - _ALERT_COVERS
        for host in [host for host, since in self._alerted.copy().items() if since < over]:
            del self._alerted[host]

    def _run(self) -> None:
        while True:
            certain = self.refresh()
            with contextlib.suppress(BrokerUnavailableError, redis.RedisError, OSError):
                if certain:
                    self._put_alerts(self._redis.client())
            if self._ending.wait(_ROUND if certain else _AWAY):
                return

    def _update(self) -> None:
        began = time.monotonic()
        try:
            self._expected = ExpectedCallers(self._redis.client()).all()
            self._certain = True
        except (BrokerUnavailableError, redis.RedisError, OSError) as error:
            if self._certain:
                logger.warning("The receiver cannot check which callers jobs expect: %s", error)
            self._certain = False
        self._read = began
        self.replace(self._all())

    def _all(self) -> Iterator[Caller]:
        config = self._config
        for title, each in config.receiver_allow.items():
            yield from self._caller(title, each.addresses, each.certificates)
        for remote in config.remotes.values():
            # Where callers present no certificate, none can be compared.
            bound = remote.tls.certificates if remote.tls is not None and config.receiver_tls_ca is not None else ()
            if bound and remote.receive_from_certificates:
                bound = (*bound, *remote.receive_from_certificates)
            for title in (remote.ae_title, *(remote.receive_from_ae_titles or ())):
                yield from self._caller(title, [remote.host, *(remote.receive_from or ())], bound)
        for title, host in self._expected:
            yield from self._caller(title, [host], ())
        if not config.receiver_allow:
            yield Caller(ANY, LOOPBACK, known=False)

    def _caller(self, title: str, addresses: Iterable[str], certificates: Iterable[str]) -> Iterator[Caller]:
        """Give a caller, unless it has host names only and none of them has an address now."""
        addresses = list(addresses)
        networks = tuple(network for each in addresses for network in self._networks(each))
        if networks or not addresses:
            yield Caller(title, networks, frozenset(certificates))

    def _networks(self, address: str) -> tuple[Network, ...]:
        """Give the networks of an address, a network or a host name."""
        with contextlib.suppress(ValueError):
            return (ipaddress.ip_network(plain_address(address)),)
        found, until = self._addresses.get(address, ((), 0.0))
        if time.monotonic() >= until:
            try:
                answers = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)
                found = tuple({ipaddress.ip_network(plain_address(str(each[4][0]))) for each in answers})
            except (OSError, UnicodeError):
                self._sparing.warning(address, "The host name %s of a caller has no address at present.", address)
            self._addresses[address] = found, time.monotonic() + _NAMES_KEPT
        return found
