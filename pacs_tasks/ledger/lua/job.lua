-- Functions about a job (a hash: state, request, counters). Included by other scripts.
-- include ledger/marks
-- include ledger/presence
-- include ledger/metrics

local function stamp()
  return string.format('%.6f', now)
end

local function counter(job, name)
  return tonumber(redis.call('HGET', job, name) or '0')
end

-- Expired claims stay in the hash: the owner that takes one over sees that the previous owner died.
local function live_claims(claims)
  local live = 0
  for _, text in ipairs(redis.call('HVALS', claims)) do
    if claim_holds(text) then
      live = live + 1
    end
  end
  return live
end

local function unfinished(job)
  local state = redis.call('HGET', job, 'state')
  return state == 'queued' or state == 'running'
end

-- The jobs that workers have begun and that have not ended: a sorted set of their keys, by when that was noted.
local RUNNING = 'pacs_tasks:running'

-- Present where workers deliver webhooks; the ends that these still have to plan: attempt and key of the job, by time.
local WEBHOOKS, ENDED = 'pacs_tasks:webhooks', 'pacs_tasks:webhooks:ended'
local ENDED_KEPT = 30 * 86400

local function end_job(job, state)
  redis.call('HSET', job, 'state', state, 'finished', stamp())
  add_up(job, state)
  redis.call('ZREM', RUNNING, job)
  if redis.call('EXISTS', WEBHOOKS) == 1 then
    redis.call('ZADD', ENDED, stamp(), counter(job, 'attempt') .. ' ' .. job)
    redis.call('EXPIRE', ENDED, ENDED_KEPT)
  end
end

-- Ends the job if nothing is left to do. Returns 1 if this call ended it.
local function settle(job, claims)
  if not unfinished(job) then
    return 0
  end
  if redis.call('HGET', job, 'planned') == '1' and counter(job, 'recorded') >= counter(job, 'total') then
    end_job(job, 'done')
    return 1
  end
  if redis.call('HGET', job, 'cancel') == '1' and live_claims(claims) == 0 then
    end_job(job, 'cancelled')
    redis.call('HDEL', job, 'waiting', 'waiting_since', 'waiting_reason', 'waiting_until')
    return 1
  end
  return 0
end
