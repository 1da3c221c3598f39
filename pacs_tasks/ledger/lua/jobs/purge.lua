-- Deletes a job that has ended, with everything about it. Returns 1 if this call deleted it.
-- KEYS: job (hash), index of jobs (sorted set), callers (hash), then the other keys of the job
-- ARGV: id of the job
-- include ledger/job

local job, jobs, callers = KEYS[1], KEYS[2], KEYS[3]
local id = ARGV[1]

if redis.call('EXISTS', job) == 0 or unfinished(job) then
  return 0
end
redis.call('DEL', job)
for i = 4, #KEYS do
  redis.call('DEL', KEYS[i])
end
redis.call('ZREM', jobs, id)
redis.call('HDEL', callers, id)
return 1
