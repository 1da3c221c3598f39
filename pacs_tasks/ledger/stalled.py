"""The jobs that are queued or running: which they are, and whether anything happens to them.

Each method is one step inside Redis, in Lua, at the end of this file.
"""

from __future__ import annotations

from typing import cast

import redis

from pacs_tasks.ledger.keys import JOBS, key, touch
from pacs_tasks.ledger.scripts import COMMON, Scripts


class Unfinished:
    """The unfinished jobs of one Redis.

    Parameters
    ----------
    client
        As :func:`pacs_tasks.connection.connect` gives it.
    keep
        Seconds that a job is kept after somebody has looked at it.
    """

    def __init__(self, client: redis.Redis, keep: int) -> None:
        self._redis, self._keep = client, keep
        self._run = Scripts(client).run

    def jobs(self) -> list[str]:
        """The ids of the jobs that are queued or running."""
        return cast("list[str]", self._run(_UNFINISHED, [JOBS], [key("")]))

    def standstill(self, job_id: str, patience: float) -> str:
        """Look at an unfinished job, which keeps it from expiring; nothing as long as it moves or is worked on.

        Where nothing has changed for ``patience`` seconds: what it looks like, once, and again after twice the time.
        A cancelled job whose last worker died ends here.
        """
        touch(self._redis, job_id, self._keep)
        return str(self._run(_STANDSTILL, [key(job_id), key(job_id, "claims")], [patience]))

    def waits(self, job_id: str) -> None:
        """Note that a job waits for its peer: that is no standstill."""
        self._redis.hdel(key(job_id), "seen")

    def stands_still(self, job_id: str, seen: str) -> bool:
        """Whether a job still looks as :meth:`standstill` told, and nobody is at it."""
        return seen == str(self._run(_STILL, [key(job_id), key(job_id, "claims")], []))


_LOOK = (
    COMMON
    + """
-- What would be another if somebody had done something; nothing if somebody is at it, or it has ended, or it waits for
-- a peer that is down: whoever asks that peer sees to it.
local function look(job, claims)
  settle(job, claims)
  if not unfinished(job) or live_claims(claims) > 0 or redis.call('HEXISTS', job, 'waiting') == 1 then
    return ''
  end
  local state, attempt = unpack(redis.call('HMGET', job, 'state', 'attempt'))
  return table.concat({state, attempt, counter(job, 'planned'), recorded(job)}, ' ')
end
"""
)

#: job, claims. What it looks like.
_STILL = _LOOK + "return look(KEYS[1], KEYS[2])"

#: job, claims; seconds. What it looks like if it has stood still for so long, and again after twice as long each time.
_STANDSTILL = (
    _LOOK
    + """
if not unfinished(KEYS[1]) then
  return ''
end
local seen = look(KEYS[1], KEYS[2])
local times = tonumber(redis.call('HGET', KEYS[1], 'seen_times') or '1')
if seen == '' or redis.call('HGET', KEYS[1], 'seen') ~= seen then
  redis.call('HSET', KEYS[1], 'seen', seen, 'seen_at', stamp(), 'seen_times', 1)
elseif now - tonumber(redis.call('HGET', KEYS[1], 'seen_at')) >= times * tonumber(ARGV[1]) then
  redis.call('HSET', KEYS[1], 'seen_at', stamp(), 'seen_times', 2 * times)
  return seen
end
return ''
"""
)

#: index of jobs; the prefix of a job's key. The jobs that are queued or running; forgets those that have expired.
_UNFINISHED = (
    COMMON
    + """
local found = {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local job = ARGV[1] .. id
  if redis.call('EXISTS', job) == 0 then
    redis.call('ZREM', KEYS[1], id)
  elseif unfinished(job) then
    found[#found + 1] = id
  end
end
return found
"""
)
