"""Remotes that are down, and the jobs that wait for them.

After a few associations in a row that could not be had, a remote counts as down: its jobs are parked, one probe looks
for its return at growing intervals, and they go on within seconds of it. Each method is one step inside Redis.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import redis

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.ledger.keys import key

#: Associations in a row that could not be had, over the whole fleet, until a remote counts as down.
MOST_FAILURES = 3
#: Seconds within which these must come to count together.
_MEMORY = 120
#: Seconds between two probes: the first, and the most. The return of a remote is noticed as late as that.
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 8.0
#: Seconds that a probe may take until another worker makes one in its place.
_PROBE_LIMIT = 30.0
#: Seconds that an outage is remembered after the last probe, if nobody probes any more.
_KEPT = 7 * 86_400

_PREFIX = "pacs_tasks:outage"
_INDEX = f"{_PREFIX}s"


class Probe(NamedTuple):
    """A remote that is due to be asked whether it is back."""

    name: str
    local: LocalAE
    remote: RemoteAE


class Outages:
    """The outages of all remotes in one Redis. A remote goes by its name, any text that is its own."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._scripts = {script: client.register_script(script) for script in _ALL}

    def failed(self, name: str, local: LocalAE, remote: RemoteAE, reason: str) -> bool:
        """Note that an association could not be had; whether the remote counts as down now."""
        about = json.dumps({"local": local.model_dump(mode="json"), "remote": remote.model_dump(mode="json")})
        return bool(self._run(_FAILED, name, MOST_FAILURES, _MEMORY, _KEPT, about, reason, _FIRST_PAUSE))

    def reached(self, name: str) -> None:
        """Note that an association could be had, before the remote counted as down."""
        self._run(_REACHED, name)

    def down(self, name: str) -> bool:
        """Whether a remote counts as down."""
        return self._redis.zscore(_INDEX, name) is not None

    def park(self, name: str, job_id: str, patience: float) -> bool:
        """Have a job wait for the remote's return; false if it is back already.

        Parameters
        ----------
        patience
            Seconds after which it gives up, from its first wait in this outage.
        """
        return bool(self._run(_PARK, name, job_id, patience, key("")))

    def due(self) -> list[Probe]:
        """The remotes to be asked now, by the one who is told, and by nobody else meanwhile."""
        found = self._run(_DUE, "", _PROBE_LIMIT, _PREFIX)
        return [Probe(name, *_parties(text)) for name, text in found]

    def ask_soon(self, name: str) -> None:
        """Have a remote that is down asked at once."""
        self._redis.zadd(_INDEX, {name: 0}, xx=True)

    def still_down(self, name: str) -> list[str]:
        """Note that a probe found nobody; the jobs whose patience is at its end, which wait no longer."""
        return [str(each) for each in self._run(_STILL_DOWN, name, _LONGEST_PAUSE, _KEPT, key(""))]

    def back(self, name: str) -> list[str]:
        """Note that a remote is back; the jobs that waited for it."""
        return [str(each) for each in self._run(_BACK, name, key(""))]

    def since(self, name: str) -> float:
        """When a remote went down: Unix seconds."""
        return float(str(self._redis.hget(f"{_PREFIX}:{name}", "since") or 0))

    def _run(self, script: str, name: str, *arguments: Any) -> Any:
        keys = [f"{_PREFIX}:{name}", f"{_PREFIX}:{name}:jobs", _INDEX]
        return self._scripts[script](keys=keys, args=[name, *arguments])


def _parties(text: str) -> tuple[LocalAE, RemoteAE]:
    about = json.loads(text)
    return LocalAE.model_validate(about["local"]), RemoteAE.model_validate(about["remote"])


# The outage (a hash: failures, since, reason, pause, about), the jobs that wait (a hash: id to the end of patience),
# the index (a sorted set: remotes that are down by the time of their next probe); the remote's name.
_COMMON = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local outage, jobs, index = unpack(KEYS)
local name = ARGV[1]

local function stamp()
  return string.format('%.3f', now)
end

-- A job that was cancelled or has expired waits for nothing.
local function waits(job)
  local state, waiting = unpack(redis.call('HMGET', job, 'state', 'waiting'))
  return waiting and (state == 'queued' or state == 'running')
end
"""

#: Failures that make it down, seconds to remember one, seconds to remember all; who is who, reason, first pause.
_FAILED = (
    _COMMON
    + """
local failures = redis.call('HINCRBY', outage, 'failures', 1)
redis.call('HSET', outage, 'reason', ARGV[6])
if redis.call('ZSCORE', index, name) then
  return 1
end
if failures < tonumber(ARGV[2]) then
  redis.call('EXPIRE', outage, ARGV[3])
  return 0
end
redis.call('HSET', outage, 'since', stamp(), 'about', ARGV[5], 'pause', ARGV[7])
redis.call('EXPIRE', outage, ARGV[4])
redis.call('ZADD', index, now + tonumber(ARGV[7]), name)
redis.call('EXPIRE', index, ARGV[4])
return 1
"""
)

_REACHED = (
    _COMMON
    + """
if not redis.call('ZSCORE', index, name) then
  redis.call('DEL', outage)
end
return 1
"""
)

#: The job's id, seconds of patience, the prefix of a job's key.
_PARK = (
    _COMMON
    + """
if not redis.call('ZSCORE', index, name) then
  return 0
end
redis.call('HSETNX', jobs, ARGV[2], now + tonumber(ARGV[3]))
redis.call('EXPIRE', jobs, redis.call('TTL', outage))
local since, reason = unpack(redis.call('HMGET', outage, 'since', 'reason'))
redis.call('HSET', ARGV[4] .. ARGV[2], 'waiting', name, 'waiting_since', since, 'waiting_reason', reason)
return 1
"""
)

#: Seconds for a probe, the prefix of outages. The name and the parties of each remote that is due.
_DUE = (
    _COMMON
    + """
local found = {}
for _, each in ipairs(redis.call('ZRANGEBYSCORE', index, '-inf', now, 'LIMIT', 0, 16)) do
  local about = redis.call('HGET', ARGV[3] .. ':' .. each, 'about')
  if about then
    redis.call('ZADD', index, now + tonumber(ARGV[2]), each)
    found[#found + 1] = {each, about}
  else
    redis.call('ZREM', index, each)
  end
end
return found
"""
)

#: The longest pause, seconds to remember it, the prefix of a job's key. The jobs that give up. Once none is left, the
#: remote is forgotten: the next one that wants it finds out for itself.
_STILL_DOWN = (
    _COMMON
    + """
local given_up, entries = {}, redis.call('HGETALL', jobs)
for i = 1, #entries, 2 do
  local job = ARGV[4] .. entries[i]
  if not waits(job) then
    redis.call('HDEL', jobs, entries[i])
  elseif tonumber(entries[i + 1]) <= now then
    redis.call('HDEL', jobs, entries[i])
    redis.call('HDEL', job, 'waiting', 'waiting_since', 'waiting_reason')
    given_up[#given_up + 1] = entries[i]
  end
end
if redis.call('HLEN', jobs) == 0 then
  redis.call('DEL', outage)
  redis.call('ZREM', index, name)
  return given_up
end
local pause = math.min(2 * tonumber(redis.call('HGET', outage, 'pause') or '1'), tonumber(ARGV[2]))
redis.call('HSET', outage, 'pause', pause)
redis.call('EXPIRE', outage, ARGV[3])
redis.call('EXPIRE', jobs, ARGV[3])
redis.call('ZADD', index, now + pause, name)
redis.call('EXPIRE', index, ARGV[3])
return given_up
"""
)

#: The prefix of a job's key. The jobs that waited.
_BACK = (
    _COMMON
    + """
local found = {}
for _, id in ipairs(redis.call('HKEYS', jobs)) do
  local job = ARGV[2] .. id
  if waits(job) then
    redis.call('HDEL', job, 'waiting', 'waiting_since', 'waiting_reason')
    found[#found + 1] = id
  end
end
redis.call('DEL', outage, jobs)
redis.call('ZREM', index, name)
return found
"""
)

_ALL = (_FAILED, _REACHED, _PARK, _DUE, _STILL_DOWN, _BACK)
