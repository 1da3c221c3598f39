-- Included by the scripts about outages, whose keys and first argument these are.
-- KEYS: outage (hash: failures, since, reason, pause, about), jobs (hash: id of a job that waits to the end of its
--   patience), index (sorted set: remote that is down by the time of its next probe)
-- ARGV: name of the remote
-- include ledger/marks

local outage, jobs, index = unpack(KEYS)
local name = ARGV[1]

-- Returns whether a job still waits: a job that was cancelled or has expired does not.
local function waits(job)
  local state, waiting = unpack(redis.call('HMGET', job, 'state', 'waiting'))
  return waiting and (state == 'queued' or state == 'running')
end
