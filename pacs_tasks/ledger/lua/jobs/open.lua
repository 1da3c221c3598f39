-- Begins the record of a job. Returns 1 if the job is new.
-- KEYS: job (hash), jobs (sorted set: id by creation time), bulk (string: the large field of the request),
--       callers (hash: what follows the task of a job, by its id)
-- ARGV: job id, task, request, bulk or '', seconds to keep the bulk, what follows the task or ''
-- include ledger/job

local job, jobs, bulk_key, callers = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, task, request, bulk, keep, follows = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]

if redis.call('EXISTS', job) == 1 then
  return 0
end
redis.call('HSET', job, 'task', task, 'request', request, 'state', 'queued', 'created', stamp(), 'attempt', 1)
redis.call('ZADD', jobs, stamp(), id)
if bulk ~= '' then
  redis.call('SET', bulk_key, bulk, 'EX', keep)
end
if follows ~= '' then
  redis.call('HSET', callers, id, follows)
end
return 1
