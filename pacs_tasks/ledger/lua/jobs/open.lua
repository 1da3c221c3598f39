-- Begins the record of a job. Returns 1 if the job is new.
-- KEYS: job (hash), jobs (sorted set: id by creation time), bulk (string: the large field of the request),
--       callers (hash: what follows the task of a job, by its id)
-- ARGV: job id, task, request, bulk or '', seconds to keep the bulk, what follows the task or '', the key of the job or '',
--   who requested it or ''
-- include ledger/job

local job, jobs, bulk_key, callers = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, task, request, bulk, keep, follows, sealed_key, requester = unpack(ARGV)

if redis.call('EXISTS', job) == 1 then
  return 0
end
redis.call('HSET', job, 'task', task, 'request', request, 'state', 'queued', 'created', stamp(), 'attempt', 1)
if sealed_key ~= '' then
  redis.call('HSET', job, 'sealed_key', sealed_key)
end
if requester ~= '' then
  redis.call('HSET', job, 'requester', requester)
end
redis.call('ZADD', jobs, stamp(), id)
if bulk ~= '' then
  redis.call('SET', bulk_key, bulk, 'EX', keep)
end
if follows ~= '' then
  redis.call('HSET', callers, id, follows)
end
return 1
