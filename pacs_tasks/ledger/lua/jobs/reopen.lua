-- Queues a finished job again. Returns 1 if the job was finished.
-- KEYS: job (hash)
-- ARGV: names of counters
-- include ledger/job
-- include ledger/ended

local job = KEYS[1]

if unfinished(job) then
  return 0
end
keep_end(job)
redis.call('HSET', job, 'state', 'queued', 'queued', stamp(), 'unreachable', 0, 'replans', 0, 'retrying', 0)
redis.call('HDEL', job, 'cancel', 'started', 'finished', 'error', 'error_type', 'error_subject', 'error_whole', 'outcome',
           'worker', 'waiting', 'waiting_since', 'waiting_reason', 'waiting_until', 'pace')
-- What this attempt does is what is counted beyond this.
for _, name in ipairs({'retries', 'warning_bytes', unpack(ARGV)}) do
  redis.call('HSET', job, 'before_' .. name, redis.call('HGET', job, name) or 0)
  redis.call('HDEL', job, 'measured_' .. name)
end
redis.call('HDEL', job, 'measured_category')
redis.call('HINCRBY', job, 'attempt', 1)
return 1
