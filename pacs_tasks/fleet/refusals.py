"""Which ways of retrieving a remote has refused, so that ``auto`` does not find it out anew for each part.

One hash in Redis for each remote and who calls it. What was refused is forgotten after an hour, so that a PACS whose
administrator has done something is noticed, and at once when that way works.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import cast

import redis

from pacs_tasks.ledger.scripts import Scripts

_PREFIX = "pacs_tasks:ways:"
#: Seconds for which a refusal is remembered.
LIFETIME = 3600


class Way(StrEnum):
    """The DIMSE service by which instances come."""

    MOVE = "C-MOVE"
    GET = "C-GET"


def move_to(receiver_ae_title: str) -> str:
    """What is refused where a remote does not know a receiver."""
    return f"{Way.MOVE} to {receiver_ae_title}"


def get_of(sop_class_uid: str) -> str:
    """What is refused where a remote will not send a SOP class to us."""
    return f"{Way.GET} of {sop_class_uid}"


class Ways:
    """What one remote has refused.

    Parameters
    ----------
    client
        As :func:`pacs_tasks.connection.connect` gives it.
    remote, calling_aet
        The name of the remote, and who calls it: what is refused to one may be granted to another.
    """

    def __init__(self, client: redis.Redis, remote: str, calling_aet: str) -> None:
        self._redis, self._key = client, f"{_PREFIX}{remote} for {calling_aet}"
        self._run = Scripts(client).run

    def refused(self) -> Mapping[str, str]:
        """What was refused within the last hour, with the reason."""
        found = cast("list[str]", self._run(_REFUSED, [self._key], [LIFETIME]))
        return dict(zip(found[::2], found[1::2], strict=True))

    def note(self, whats: Collection[str], reason: str) -> None:
        """Note that the remote refuses these: :class:`Way`, :func:`move_to` or :func:`get_of`."""
        self._run(_NOTE, [self._key], [LIFETIME, reason, *whats])

    def works(self, whats: Collection[str]) -> None:
        """Note that these work."""
        self._redis.hdel(self._key, *whats)


#: refused (a hash: what, to when and why); lifetime. What and why, of those that have not run out.
_REFUSED = """
local now = tonumber(redis.call('TIME')[1])
local found, entries = {}, redis.call('HGETALL', KEYS[1])
for i = 1, #entries, 2 do
  local noted, why = string.match(entries[i + 1], '^(%d+) (.*)$')
  if now - tonumber(noted) < tonumber(ARGV[1]) then
    found[#found + 1] = entries[i]
    found[#found + 1] = why
  else
    redis.call('HDEL', KEYS[1], entries[i])
  end
end
return found
"""

#: refused; lifetime, why, what. The hash lives as long as the last of its entries.
_NOTE = """
local now = redis.call('TIME')[1]
for i = 3, #ARGV do
  redis.call('HSET', KEYS[1], ARGV[i], now .. ' ' .. ARGV[2])
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
return 1
"""
