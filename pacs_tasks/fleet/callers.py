"""Remotes that jobs expect to call the receivers of one Redis: to deliver by C-MOVE, or to report commitment."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

from pacs_tasks.ae import RemoteAE
from pacs_tasks.ledger.keys import Scripts, server_time

if TYPE_CHECKING:
    import redis

_KEY = "pacs_tasks:expected_callers"


class ExpectedCallers:
    """The remotes that jobs expect to call. Each has an owner and an expiry, as expected series have."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._run = Scripts(client, "fleet").run

    def expect(self, remote: RemoteAE, owner: str, seconds: float) -> None:
        """Expect a remote for so many seconds from now."""
        self._run("expect", [_KEY], [_member(remote, owner), seconds])

    def withdraw(self, remote: RemoteAE, owner: str) -> None:
        """Withdraw the expectation of one owner."""
        self._redis.zrem(_KEY, _member(remote, owner))

    def all(self) -> set[tuple[str, str]]:
        """Read the AE titles and hosts of all expected remotes."""
        members = self._redis.zrangebyscore(_KEY, server_time(self._redis), "+inf")
        return {(each[0], each[1]) for each in map(json.loads, cast("list[str]", members))}


def _member(remote: RemoteAE, owner: str) -> str:
    return json.dumps([remote.ae_title, remote.host, owner])
