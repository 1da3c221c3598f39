"""The association budget: how many associations with one remote the whole fleet may have open at once.

Each association needs a lease. Leases live in Redis and run out ``LIFETIME`` seconds after their last renewal, so
those of a worker that died come back by themselves. Who finds none free stands in line: what becomes free goes to the
one who waits longest, who is woken at once. Each method is one step inside Redis, and may be repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import redis
from pydantic import BaseModel, ConfigDict

from pacs_tasks.ae import RemoteAE
from pacs_tasks.ledger.scripts import NOW

#: Seconds that a lease outlives its last renewal.
LIFETIME = 15.0
#: Seconds that one who waits keeps its place in the line without a word. It asks again every half second.
_WAITER_LIFETIME = 3.0
#: Seconds for which a remote is remembered as one for whom somebody came in vain, or as one that refuses.
_WANTED_LIFETIME = 1
_REFUSAL_LIFETIME = 90
#: Seconds between two parts that come back for one remote, and the longest that one stays away.
_SPACING = 0.05
_LONGEST_AWAY = 30.0

_PREFIX = "pacs_tasks:associations"


class Associations(BaseModel):
    """How many associations with a remote are in use, how many may be, and how many tasks wait for one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    remote: str
    in_use: int
    limit: int
    waiting: int


class Answer(NamedTuple):
    """What asking for a lease told."""

    granted: bool
    #: Seconds until the next lease runs out.
    patience: float
    #: The remote has refused associations for now, and accepted none since.
    refusing: bool


def name_of(remote: RemoteAE) -> str:
    """What the budget knows a remote by: who is called, and where."""
    return f"{remote.ae_title} at {remote.host.lower()}:{remote.port}"


class Budget:
    """The leases of all remotes in one Redis. A remote goes by its :func:`name_of`, a lease by any unique text."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._ask = client.register_script(_ASK)
        self._release = client.register_script(_RELEASE)
        self._renew = client.register_script(_RENEW)
        self._rest = client.register_script(_REST)
        self._refused_for = client.register_script(_REFUSED_FOR)
        self._come_back = client.register_script(_COME_BACK)
        self._in_use = client.register_script(_IN_USE)

    def ask(self, remote: str, lease: str, limit: int, *, wait: bool) -> Answer:
        """Ask for a lease.

        Parameters
        ----------
        limit
            How many there may be.
        wait
            Stand in line where none is free, until it is granted, released, or not asked for any more.
        """
        granted, patience, refusing = self._run(self._ask, remote, limit, lease, int(wait), _WAITER_LIFETIME)
        return Answer(bool(granted), float(patience), bool(refusing))

    def await_turn(self, lease: str, seconds: float) -> bool:
        """Wait until a lease that one stands in line for is granted; false if it was not in that time."""
        return self._redis.blpop([_key("wake", lease)], timeout=seconds) is not None

    def release(self, remote: str, lease: str, limit: int) -> None:
        """Give a lease back, or leave the line. The next in line gets it."""
        self._run(self._release, remote, limit, lease)

    def renew(self, remote: str, leases: Sequence[str], limit: int) -> None:
        """Keep leases for another ``LIFETIME`` seconds. One that ran out meanwhile is taken again: it is in use."""
        self._run(self._renew, remote, limit, *leases)

    def refused(self, remote: str, lease: str, limit: int, seconds: float) -> None:
        """Note that the remote refused the association for now: nobody else gets this lease for so long."""
        self._run(self._rest, remote, limit, lease, seconds, _REFUSAL_LIFETIME)

    def accepted(self, remote: str) -> None:
        """Note that the remote has accepted an association after it refused some."""
        self._redis.delete(_key("refusing", remote))

    def refused_for(self, remote: str, since: float) -> float:
        """Seconds for which a remote has refused associations without accepting one.

        Parameters
        ----------
        since
            What was before does not count: Unix seconds.
        """
        return float(self._refused_for(keys=[_key("refusing", remote)], args=[since]))

    def want(self, remote: str) -> None:
        """Note that somebody waits for the remote itself, which may have to end another association first."""
        self._redis.set(_key("wanted", remote), 1, ex=_WANTED_LIFETIME)

    def wanted(self, remote: str) -> bool:
        """Whether somebody waits for a lease or for the remote, or came in vain in the last second."""
        return bool(self._redis.exists(_key("waiting", remote), _key("wanted", remote)))

    def come_back(self, remote: str, task_id: str, soonest: float, *, one_of_many: bool = False) -> float:
        """Seconds after which a task that found no association should come again, ``soonest`` at least.

        Of many parts each comes a twentieth of a second after the one before: much work is seldom in the way, little
        work is soon back, and what becomes free is soon taken.
        """
        spacing = _SPACING if one_of_many else -_LONGEST_AWAY
        arguments: list[str | float] = [task_id, soonest, spacing, _LONGEST_AWAY]
        return float(self._come_back(keys=[_key("away", remote)], args=arguments))

    def in_use(self) -> list[Associations]:
        """Every remote with which an association is open or waited for, by name."""
        found = self._in_use(keys=[_PREFIX], args=[_key(kind, "") for kind in ("held", "waiting", "away")])
        names = ("remote", "in_use", "limit", "waiting")
        return sorted(
            (Associations.model_validate(dict(zip(names, each, strict=True))) for each in found),
            key=lambda each: each.remote,
        )

    def _run(self, script: Any, remote: str, limit: int, *arguments: Any) -> Any:
        keys = [_key("held", remote), _key("waiting", remote), _PREFIX, _key("refusing", remote)]
        keys.append(_key("wanted", remote))
        return script(keys=keys, args=[remote, limit, LIFETIME, _key("wake", ""), *arguments])


def _key(kind: str, name: str) -> str:
    return f"{_PREFIX}:{kind}:{name}"


# Leases (lease -> expiry), the line (lease -> `expiry since limit`), the index of remotes (remote -> limit), two marks.
_COMMON = (
    NOW
    + """
local held, waiting, index, refusing, wanted = unpack(KEYS)
local remote, limit, lifetime, wake, lease = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5]

local function hold(name, seconds)
  redis.call('ZADD', held, string.format('%.3f', now + seconds), name)
end

local function line()
  local found, entries = {}, redis.call('HGETALL', waiting)
  for i = 1, #entries, 2 do
    local expiry, since, most = string.match(entries[i + 1], '^(%S+) (%S+) (%S+)$')
    if tonumber(expiry) > now then
      found[#found + 1] = {lease = entries[i], since = since, limit = tonumber(most)}
    else
      redis.call('HDEL', waiting, entries[i])
    end
  end
  table.sort(found, function(a, b) return a.since .. a.lease < b.since .. b.lease end)
  return found
end

-- What is free goes to those in line, the first first. Whoever is dead lives on for a moment: its lease runs out.
local function hand_over()
  redis.call('ZREMRANGEBYSCORE', held, '-inf', now)
  for _, first in ipairs(line()) do
    if redis.call('ZCARD', held) >= first.limit then
      break
    end
    hold(first.lease, lifetime)
    redis.call('HDEL', waiting, first.lease)
    if first.lease ~= lease then
      redis.call('RPUSH', wake .. first.lease, 1)
      redis.call('PEXPIRE', wake .. first.lease, 5000)
    end
  end
end

-- Nothing outlives those who use it.
local function tidy()
  if redis.call('EXISTS', held, waiting) == 0 then
    redis.call('ZREM', index, remote)
  else
    redis.call('ZADD', index, limit, remote)
    for _, key in ipairs({held, index}) do
      redis.call('EXPIRE', key, math.ceil(lifetime) + 1)
    end
  end
end
"""
)

#: And: whether to wait, seconds that one who waits is believed to live. Granted or not; seconds until the next lease
#: runs out; whether the remote refuses.
_ASK = (
    _COMMON
    + f"""
local wait, patience = ARGV[6] == '1', tonumber(ARGV[7])
if not redis.call('ZSCORE', held, lease) then
  local stands = redis.call('HGET', waiting, lease)
  local since = stands and string.match(stands, '^%S+ (%S+)') or string.format('%.6f', now)
  redis.call('HSET', waiting, lease, string.format('%.3f %s %d', now + patience, since, limit))
  hand_over()
end
local granted = redis.call('ZSCORE', held, lease) and 1 or 0
if granted == 1 then
  redis.call('DEL', wake .. lease)
elseif wait then
  redis.call('PEXPIRE', waiting, math.ceil(patience * 1000))
else
  redis.call('HDEL', waiting, lease)
  redis.call('SET', wanted, 1, 'EX', {_WANTED_LIFETIME})
end
tidy()
local first = redis.call('ZRANGE', held, 0, 0, 'WITHSCORES')[2]
return {{granted, string.format('%.3f', first and math.max(0, first - now) or 0), redis.call('EXISTS', refusing)}}
"""
)

_RELEASE = (
    _COMMON
    + """
redis.call('ZREM', held, lease)
redis.call('HDEL', waiting, lease)
redis.call('DEL', wake .. lease)
hand_over()
tidy()
return 1
"""
)

#: And: more leases.
_RENEW = (
    _COMMON
    + """
for i = 5, #ARGV do
  hold(ARGV[i], lifetime)
end
tidy()
return 1
"""
)

#: And: seconds that the lease rests, seconds that a refusal is remembered.
_REST = (
    _COMMON
    + """
hold(lease, tonumber(ARGV[6]))
redis.call('SET', refusing, string.format('%.3f', now), 'NX')
redis.call('EXPIRE', refusing, ARGV[7])
tidy()
return 1
"""
)

#: The mark of a remote that refuses; Unix seconds.
_REFUSED_FOR = (
    NOW
    + """
local since = redis.call('GET', KEYS[1])
return since and string.format('%.3f', math.max(0, now - math.max(tonumber(since), tonumber(ARGV[1])))) or '0'
"""
)

#: When tasks come again (task -> time); the task, seconds: the least, from the last one to this, the most.
_COME_BACK = (
    NOW
    + """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local last = tonumber(redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2] or '0')
local due = math.min(math.max(now + tonumber(ARGV[2]), last + tonumber(ARGV[3])), now + tonumber(ARGV[4]))
redis.call('ZADD', KEYS[1], string.format('%.3f', due), ARGV[1])
redis.call('PEXPIRE', KEYS[1], math.ceil((math.max(due, last) - now) * 1000))
return string.format('%.3f', due - now)
"""
)

#: The index; prefixes of the leases, of the line and of those who come again. For each remote: name, in use, limit,
#: waiting.
_IN_USE = (
    NOW
    + """
local found = {}
local remotes = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for i = 1, #remotes, 2 do
  local in_use = redis.call('ZCOUNT', ARGV[1] .. remotes[i], string.format('(%.3f', now), '+inf')
  local waiting = redis.call('HLEN', ARGV[2] .. remotes[i]) + redis.call('ZCOUNT', ARGV[3] .. remotes[i], now, '+inf')
  if in_use + waiting > 0 then
    found[#found + 1] = {remotes[i], in_use, tonumber(remotes[i + 1]), waiting}
  end
end
return found
"""
)
