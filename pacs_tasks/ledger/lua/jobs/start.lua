-- Starts a queued job. Returns the state of the job.
-- KEYS: job (hash), claims (hash)
-- ARGV: worker
-- include ledger/job

local job, claims = KEYS[1], KEYS[2]
local worker = ARGV[1]

if redis.call('HGET', job, 'state') == 'queued' then
  redis.call('HSET', job, 'state', 'running', 'worker', worker)
  redis.call('HSETNX', job, 'started', stamp())
end
if settle(job, claims) == 0 and unfinished(job) then
  redis.call('ZADD', RUNNING, now, job)
end
return redis.call('HGET', job, 'state')
