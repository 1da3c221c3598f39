"""Who is at what of a job, and what went wrong with it: claims, deaths, losses, attempts.

Each method is one step inside Redis, in Lua, at the end of this file.
"""

from __future__ import annotations

from typing import cast

import redis

from pacs_tasks.ledger.keys import key
from pacs_tasks.ledger.scripts import COMMON, Scripts

#: Seconds that a claim outlives the last sign of its owner.
CLAIM_LIFETIME = 15.0


class Claims:
    """The claims of all jobs in one Redis.

    Parameters
    ----------
    client
        As :func:`pacs_tasks.connection.connect` gives it.
    keep
        Seconds that what went wrong is remembered.
    """

    def __init__(self, client: redis.Redis, keep: int) -> None:
        self._redis, self._keep = client, keep
        self._run = Scripts(client).run

    def take(self, scope: str, name: str, owner: str) -> int:
        """Claim ``name`` within ``scope`` (a job's id) for ``CLAIM_LIFETIME`` seconds, or prolong one's own claim.

        The empty name is all of the scope: it goes to one who is alone there, and keeps the others out.

        Returns
        -------
        0 if another holds it, else 1 and the number of owners that have died with it in this attempt.
        """
        keys = [key(scope, "claims"), key(scope, "losses")]
        return int(self._run(_CLAIM, keys, [name, owner, CLAIM_LIFETIME]))

    def release(self, scope: str, name: str, owner: str) -> None:
        self._run(_RELEASE, [key(scope, "claims")], [name, owner])

    def live(self, scope: str) -> int:
        """How many workers are at this job now."""
        return int(self._run(_LIVE, [key(scope, "claims")], []))

    def mark(self, job_id: str, name: str, index: int) -> None:
        """Note which entry of the manifest is begun next under a claim: if the worker dies, that one is suspected."""
        self._redis.hset(key(job_id, "losses"), f"at {name}", str(index))

    def suspect(self, job_id: str, name: str) -> tuple[int, int] | None:
        """The entry that was marked when the last owner of a claim died, and how many have died at it; counts it."""
        found = self._run(_SUSPECT, [key(job_id, "losses")], [name])
        return (int(found[0]), int(found[1])) if found else None

    def count_loss(self, job_id: str, index: int) -> int:
        """Count that an association was lost at this entry of the manifest; how many were in this attempt."""
        return self._count(key(job_id, "losses"), index)

    def count_attempt(self, job_id: str, index: int) -> None:
        """Count that this entry was put on the wire and has no outcome for it."""
        self._count(key(job_id, "attempts"), index)

    def attempts(self, job_id: str, start: int, stop: int) -> list[int]:
        """How often each entry from ``start`` up to ``stop`` was put on the wire without an outcome."""
        counts = cast(
            "list[str | None]", self._redis.hmget(key(job_id, "attempts"), [str(i) for i in range(start, stop)])
        )
        return [int(count or 0) for count in counts]

    def _count(self, counts: str, index: int) -> int:
        count = int(self._redis.hincrby(counts, str(index), 1))
        self._redis.expire(counts, self._keep)
        return count

    def replans(self, job_id: str) -> int:
        """Count that lost parts of this job are planned again; how often since the last outcome."""
        return int(self._run(_REPLAN, [key(job_id)], []))


#: claims, losses; name, owner, lifetime. 0 if another holds it, else 1 and how many owners have died with it.
_CLAIM = (
    COMMON
    + """
-- Whether another has it, and whether that one is alive.
local function of_another(held)
  local expiry, owner = string.match(held or '0 ' .. ARGV[2], '^(%S+) (.*)$')
  return owner ~= ARGV[2], tonumber(expiry) > now
end

local in_the_way = {redis.call('HGET', KEYS[1], '')}
if ARGV[1] == '' then
  in_the_way = redis.call('HVALS', KEYS[1])
end
for _, held in ipairs(in_the_way) do
  local other, alive = of_another(held)
  if other and alive then
    return 0
  end
end
local other, alive = of_another(redis.call('HGET', KEYS[1], ARGV[1]))
if other then
  if alive then
    return 0
  end
  redis.call('HINCRBY', KEYS[2], ARGV[1], 1)
  redis.call('EXPIRE', KEYS[2], 86400)
end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.3f ', now + tonumber(ARGV[3])) .. ARGV[2])
redis.call('EXPIRE', KEYS[1], 86400)
return 1 + counter(KEYS[2], ARGV[1])
"""
)

#: losses; name of a claim. The index that was marked under it and how many workers died at that, with this one.
_SUSPECT = """
local index = redis.call('HGET', KEYS[1], 'at ' .. ARGV[1])
if not index then
  return false
end
redis.call('HDEL', KEYS[1], 'at ' .. ARGV[1])
return {index, redis.call('HINCRBY', KEYS[1], 'deaths ' .. index, 1)}
"""

#: claims; name, owner.
_RELEASE = (
    COMMON
    + """
local held = redis.call('HGET', KEYS[1], ARGV[1])
if held and string.match(held, '^%S+ (.*)$') == ARGV[2] then
  redis.call('HDEL', KEYS[1], ARGV[1])
end
return 1
"""
)

#: claims. How many are held now.
_LIVE = COMMON + "return live_claims(KEYS[1])"

#: job. How often lost parts have been planned again since the last outcome, with this time.
_REPLAN = (
    COMMON
    + """
if counter(KEYS[1], 'replanned_at') ~= recorded(KEYS[1]) then
  redis.call('HSET', KEYS[1], 'replans', 0, 'replanned_at', recorded(KEYS[1]))
end
return redis.call('HINCRBY', KEYS[1], 'replans', 1)
"""
)
