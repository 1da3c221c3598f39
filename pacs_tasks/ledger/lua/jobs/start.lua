-- Starts a queued job. Returns the state of the job.
-- KEYS: job (hash), claims (hash)
-- ARGV: worker, what the job is about for those who watch the fleet, or ''
-- include ledger/job

local job, claims = KEYS[1], KEYS[2]
local worker, about = ARGV[1], ARGV[2]

if redis.call('HGET', job, 'state') == 'queued' then
  redis.call('HSET', job, 'state', 'running', 'worker', worker)
  redis.call('HSETNX', job, 'started', stamp())
end
if about ~= '' and unfinished(job) then
  redis.call('HSET', job, 'about', about)
  redis.call('SADD', OPEN, job)
  redis.call('EXPIRE', OPEN, KEPT)
end
if settle(job, claims) == 0 and unfinished(job) then
  redis.call('ZADD', RUNNING, now, job)
end
return redis.call('HGET', job, 'state')
