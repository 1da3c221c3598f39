"""Receivers: each announces itself in Redis, shows a worker that they share storage, and learns what jobs expect.

A receiver writes a random token to the file :data:`MARKER` in its directory and announces the same token. A worker
that reads the token there shares the storage, so it can check what a C-MOVE to that receiver delivers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pydantic import BaseModel, ConfigDict

from pacs_tasks.ae import AETitle, RemoteAE
from pacs_tasks.fleet.senders import Expectation, Stranger
from pacs_tasks.ledger.keys import Scripts, server_time
from pacs_tasks.sealing import sealing_of

if TYPE_CHECKING:
    import redis

MARKER = ".pacs-tasks-receiver"
#: Below the directory of a receiver: expected instances, until jobs collect them, and unexpected ones.
INCOMING = "incoming"
UNSOLICITED = "unsolicited"
_PREFIX = "pacs_tasks:receiver:"
_EXPECTED = "pacs_tasks:expected:"
_CALLERS = "pacs_tasks:expected_callers"
_STRANGERS = "pacs_tasks:strangers:"
#: What all receivers were sent: numbers by AE title, a tab, and what is counted; and seconds to keep it after the last.
_RECEPTION = "pacs_tasks:metrics:received"
_RECEPTION_FOR = 30 * 86_400
#: Seconds after which an announcement expires; a receiver repeats it every third of that.
LIFETIME = 15
#: Seconds after the last renewal at which an expectation expires.
EXPECTED_FOR = 60.0
#: Seconds for which a worker can read who else sent what it expects.
_STRANGERS_FOR = 3600


class Receiver(BaseModel):
    """A running Storage SCP, which stores instances below ``directory``, a path on its own machine.

    With ``tls`` it accepts only TLS connections.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    ae_title: AETitle
    host: str
    port: int
    directory: str
    token: str
    tls: bool = False

    def __str__(self) -> str:
        return f"{self.ae_title} at {self.host}:{self.port}{' over TLS' if self.tls else ''}"

    @property
    def incoming(self) -> Path:
        """Where expected instances are stored, as ``<study>/<series>/<instance>.dcm``."""
        return Path(self.directory) / INCOMING

    @property
    def shared(self) -> bool:
        """Whether this machine shares the receiver's storage."""
        try:
            return (Path(self.directory) / MARKER).read_text(encoding="ascii").strip() == self.token
        except (OSError, UnicodeDecodeError):
            return False


def announce(client: redis.Redis, receiver: Receiver) -> None:
    """Announce a receiver for the next ``LIFETIME`` seconds."""
    client.set(_PREFIX + receiver.ae_title, receiver.model_dump_json(), ex=LIFETIME)


def withdraw(client: redis.Redis, receiver: Receiver) -> None:
    """Withdraw the announcement of a receiver that ends."""
    client.delete(_PREFIX + receiver.ae_title)


def running(client: redis.Redis) -> list[Receiver]:
    """Read the receivers that run now, by AE title."""
    keys = sorted(cast("list[str]", list(client.scan_iter(match=f"{_PREFIX}*"))))
    if not keys:
        return []
    return [
        Receiver.model_validate_json(text) for text in cast("list[str | None]", client.mget(keys)) if text is not None
    ]


def count_reception(client: redis.Redis, ae_title: str, counts: Mapping[str, int]) -> None:
    """Add to what a receiver was sent: ``bytes``, and instances by category."""
    with client.pipeline() as pipe:
        for name, number in counts.items():
            if number:
                pipe.hincrby(_RECEPTION, f"{ae_title}\t{name}", number)
        pipe.expire(_RECEPTION, _RECEPTION_FOR)
        pipe.execute()


def reception(client: redis.Redis) -> list[tuple[str, str, int]]:
    """Read what receivers were sent: AE title, what is counted, and its number."""
    fields = cast("dict[str, str]", client.hgetall(_RECEPTION))
    split = ((*field.partition("\t"), number) for field, number in sorted(fields.items()))
    return [(ae_title, name, int(number)) for ae_title, _, name, number in split]


class ExpectedSeries:
    """The studies and series that jobs expect at the receivers of one Redis; any other instance is unsolicited.

    With a key, their UIDs are hashed: they are only compared. Each expectation says from whom. It has an owner, so that
    one owner withdraws only its own, and an expiry, so that those of a dead worker end.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._run = Scripts(client, "fleet").run
        self._sealing = sealing_of(client)

    def expect(
        self, receiver_ae_title: str, study_uid: str, series_uid: str, expectation: Expectation, seconds: float
    ) -> None:
        """Expect a series for so many seconds from now; ``series_uid`` is empty for the whole study."""
        member = f"{self._sealing.hashed(_series(study_uid, series_uid))} {expectation.model_dump_json()}"
        self._run("expect", [_EXPECTED + receiver_ae_title], [member, seconds])

    def withdraw(self, receiver_ae_title: str, study_uid: str, series_uid: str, expectation: Expectation) -> None:
        """Withdraw an expectation."""
        member = f"{self._sealing.hashed(_series(study_uid, series_uid))} {expectation.model_dump_json()}"
        self._redis.zrem(_EXPECTED + receiver_ae_title, member)

    def expectations(self, receiver_ae_title: str, study_uid: str, series_uid: str) -> tuple[Expectation, ...]:
        """Read all expectations of this series, or of its whole study."""
        named = (_series(study_uid, series_uid), _series(study_uid, ""))
        prefixes = [f"{text} " for each in named for text in self._sealing.hashes(each)]
        texts = self._run("expectations", [_EXPECTED + receiver_ae_title], prefixes)
        # A worker of an older version does not say from whom, so nobody is accepted for it.
        return tuple(Expectation.model_validate_json(text) for text in texts if text.startswith("{"))

    def record_stranger(self, owner: str, stranger: Stranger) -> None:
        """Record that somebody else sent what this owner expects."""
        self._redis.sadd(_STRANGERS + owner, stranger.model_dump_json())
        self._redis.expire(_STRANGERS + owner, _STRANGERS_FOR)

    def strangers(self, owner: str) -> tuple[Stranger, ...]:
        """Read who else has sent what this owner expects."""
        texts = cast("set[str]", self._redis.smembers(_STRANGERS + owner))
        return tuple(Stranger.model_validate_json(text) for text in sorted(texts))


def _series(study_uid: str, series_uid: str) -> str:
    """Name a series, which the owner follows in a member."""
    return f"{study_uid} {series_uid}"


class ExpectedCallers:
    """Remotes that jobs expect to call the receivers of one Redis: to deliver by C-MOVE, or to report commitment.

    Each has an owner and an expiry, as expected series have.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._run = Scripts(client, "fleet").run

    def expect(self, remote: RemoteAE, owner: str, seconds: float) -> None:
        """Expect a remote for so many seconds from now."""
        self._run("expect", [_CALLERS], [_member(remote, owner), seconds])

    def withdraw(self, remote: RemoteAE, owner: str) -> None:
        """Withdraw the expectation of one owner."""
        self._redis.zrem(_CALLERS, _member(remote, owner))

    def all(self) -> set[tuple[str, str]]:
        """Read the AE titles and hosts of all expected remotes."""
        members = self._redis.zrangebyscore(_CALLERS, server_time(self._redis), "+inf")
        return {(each[0], each[1]) for each in map(json.loads, cast("list[str]", members))}


def _member(remote: RemoteAE, owner: str) -> str:
    return json.dumps([remote.ae_title, remote.host, owner])
