"""What the ledger does in one step inside Redis, in Lua, so that no two processes can disagree.

The keys of a job are ``job`` (a hash: state, request, counters), ``recorded`` (a bitmap: what has an outcome),
``present`` (a bitmap: what of it was there already), ``receipts`` (a list: successes, see
:mod:`pacs_tasks.ledger.encoding`), ``problems`` (a hash: index to any other outcome) and ``claims``
(a hash: part to ``expiry owner``).
Times are Unix seconds, taken from the server so that clocks of workers do not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis


class Scripts:
    """Runs scripts in one Redis, which learns each when it is first run."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._known: dict[str, Any] = {}

    def run(self, script: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        known = self._known.get(script)
        if known is None:
            known = self._known[script] = self._redis.register_script(script)
        return known(keys=list(keys), args=list(arguments))


#: The server's time, so that clocks of workers do not matter.
NOW = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
"""

#: What every script about a job begins with.
COMMON = (
    NOW
    + """
local function stamp()
  return string.format('%.6f', now)
end

local function counter(job, name)
  return tonumber(redis.call('HGET', job, name) or '0')
end

local function recorded(job)
  return counter(job, 'recorded')
end

-- A claim that has run out stays: who takes it over sees that its owner died.
local function live_claims(claims)
  local live = 0
  for _, held in ipairs(redis.call('HVALS', claims)) do
    if tonumber(string.match(held, '^(%S+)')) > now then
      live = live + 1
    end
  end
  return live
end

local function unfinished(job)
  local state = redis.call('HGET', job, 'state')
  return state == 'queued' or state == 'running'
end

-- Ends the job if there is nothing left to do: 1 if this call ended it.
local function settle(job, claims)
  if not unfinished(job) then
    return 0
  end
  if redis.call('HGET', job, 'planned') == '1' and recorded(job) >= counter(job, 'total') then
    redis.call('HSET', job, 'state', 'done', 'finished', stamp())
    return 1
  end
  if redis.call('HGET', job, 'cancel') == '1' and live_claims(claims) == 0 then
    redis.call('HSET', job, 'state', 'cancelled', 'finished', stamp())
    redis.call('HDEL', job, 'waiting', 'waiting_since', 'waiting_reason')
    return 1
  end
  return 0
end
"""
)

#: job, index of jobs, bulk of the request; job id, task, request, its bulk, seconds to keep that. 1 if the job is new.
OPEN = (
    COMMON
    + """
if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
redis.call('HSET', KEYS[1], 'task', ARGV[2], 'request', ARGV[3], 'state', 'queued', 'created', stamp(), 'attempt', 1)
redis.call('ZADD', KEYS[2], stamp(), ARGV[1])
if ARGV[4] ~= '' then
  redis.call('SET', KEYS[3], ARGV[4], 'EX', ARGV[5])
end
return 1
"""
)

#: job, claims; worker. The job's state now.
START = (
    COMMON
    + """
if redis.call('HGET', KEYS[1], 'state') == 'queued' then
  redis.call('HSET', KEYS[1], 'state', 'running', 'worker', ARGV[1])
  redis.call('HSETNX', KEYS[1], 'started', stamp())
end
settle(KEYS[1], KEYS[2])
return redis.call('HGET', KEYS[1], 'state')
"""
)

#: job, claims; state, 1 if only a cancelled job shall end, the attempt that shall end or 0 for any, then pairs of field
#: and value. 1 if this call ended the job.
END = (
    COMMON
    + """
if not unfinished(KEYS[1]) or (ARGV[2] == '1' and redis.call('HGET', KEYS[1], 'cancel') ~= '1') then
  return 0
end
if ARGV[3] ~= '0' and ARGV[3] ~= redis.call('HGET', KEYS[1], 'attempt') then
  return 0
end
redis.call('HSETNX', KEYS[1], 'started', stamp())
redis.call('HSET', KEYS[1], 'state', ARGV[1], 'finished', stamp())
for i = 4, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
end
return 1
"""
)

#: job, claims, recorded, receipts, problems, series, present; index, outcome, category, bytes, unreachable, whether it
#: is kept short, seconds to keep it, study and series, what stands before their number. New or not, cancelled or not,
#: ended or not. Study and series are the same for many instances: each pair has a number, which goes into the outcome.
RECORD = (
    COMMON
    + """
if redis.call('EXISTS', KEYS[1]) == 0 then
  return {0, 1, 0}  -- It has expired, and with it everybody's interest.
end
local new = 1 - redis.call('SETBIT', KEYS[3], ARGV[1], 1)
if new == 1 then
  local text = ARGV[2]
  if ARGV[8] ~= '' then
    local number = redis.call('HGET', KEYS[6], ARGV[8])
    if not number then
      number = redis.call('HLEN', KEYS[6])
      redis.call('HSET', KEYS[6], ARGV[8], number)
      redis.call('EXPIRE', KEYS[6], ARGV[7])
    end
    text = string.sub(text, 1, -2) .. ARGV[9] .. number .. string.sub(text, -1)
  end
  if ARGV[6] == '1' then
    if redis.call('RPUSH', KEYS[4], text) == 1 then
      redis.call('EXPIRE', KEYS[4], ARGV[7])
    end
  else
    redis.call('HSET', KEYS[5], ARGV[1], text)
    redis.call('EXPIRE', KEYS[5], ARGV[7])
  end
  if ARGV[3] == 'present' and redis.call('SETBIT', KEYS[7], ARGV[1], 1) == 0 then
    redis.call('EXPIRE', KEYS[7], ARGV[7])
  end
  redis.call('HINCRBY', KEYS[1], ARGV[3], 1)
  redis.call('HINCRBY', KEYS[1], 'bytes', ARGV[4])
  if ARGV[5] == '1' then
    redis.call('HINCRBY', KEYS[1], 'unreachable', 1)
  end
  if redis.call('HINCRBY', KEYS[1], 'recorded', 1) == 1 then
    redis.call('EXPIRE', KEYS[3], ARGV[7])
  end
end
local total, cancel = unpack(redis.call('HMGET', KEYS[1], 'total', 'cancel'))
local ended = 0
if cancel == '1' or recorded(KEYS[1]) >= tonumber(total or '0') then
  ended = settle(KEYS[1], KEYS[2])
end
return {new, tonumber(cancel or '0'), ended}
"""
)

#: recorded; start, stop. The indices in this range that have an outcome.
RECORDED = """
local found = {}
for index = ARGV[1], ARGV[2] - 1 do
  if redis.call('GETBIT', KEYS[1], index) == 1 then
    found[#found + 1] = index
  end
end
return found
"""

#: job, claims. 1 if this call ended the job.
SETTLE = COMMON + "return settle(KEYS[1], KEYS[2])"

#: job, claims. The job's state after a cancel was asked for.
CANCEL = (
    COMMON
    + """
if unfinished(KEYS[1]) then
  redis.call('HSET', KEYS[1], 'cancel', '1')
  settle(KEYS[1], KEYS[2])
end
return redis.call('HGET', KEYS[1], 'state')
"""
)

#: job, recorded, problems, attempts, matches; indices whose outcomes are dropped if they failed, unless the
#: job is at work.
DROP = (
    COMMON
    + """
if unfinished(KEYS[1]) then
  return 0
end
for _, index in ipairs(ARGV) do
  local outcome = redis.call('HGET', KEYS[3], index)
  outcome = outcome and cjson.decode(outcome) or {}
  local category = outcome['category']
  if category == 'failed' or category == 'missing' then
    redis.call('HDEL', KEYS[3], index)
    redis.call('HDEL', KEYS[5], index)
    redis.call('SETBIT', KEYS[2], index, 0)
    if outcome['attempts'] then
      redis.call('HSET', KEYS[4], index, outcome['attempts'])
    end
    redis.call('HINCRBY', KEYS[1], category, -1)
    redis.call('HINCRBY', KEYS[1], 'recorded', -1)
  end
end
return 1
"""
)

#: job, claims. 1 if the job was finished and is queued again.
REOPEN = (
    COMMON
    + """
if unfinished(KEYS[1]) then
  return 0
end
redis.call('HSET', KEYS[1], 'state', 'queued', 'unreachable', 0, 'replans', 0)
redis.call('HDEL', KEYS[1], 'cancel', 'started', 'finished', 'error', 'error_type', 'error_subject', 'outcome',
           'worker', 'waiting', 'waiting_since', 'waiting_reason')
redis.call('HINCRBY', KEYS[1], 'attempt', 1)
return 1
"""
)
