-- Queues a finished job again. Returns 1 if the job was finished.
-- KEYS: job (hash)
-- include ledger/job

local job = KEYS[1]

if unfinished(job) then
  return 0
end
redis.call('HSET', job, 'state', 'queued', 'unreachable', 0, 'replans', 0)
redis.call('HDEL', job, 'cancel', 'started', 'finished', 'error', 'error_type', 'error_subject', 'outcome',
           'worker', 'waiting', 'waiting_since', 'waiting_reason')
redis.call('HINCRBY', job, 'attempt', 1)
return 1
