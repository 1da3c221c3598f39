-- Ends the wait of a job for the hours of its remote. Returns whether the caller shall go on with the job: it does not
-- if another worker does, or if the job was cancelled, has expired, or waits for something else.
-- KEYS: waits (hash: id of a job to when and for whom), job (hash)
-- ARGV: id
-- include ledger/job

local waits, job = KEYS[1], KEYS[2]
local id = ARGV[1]

if redis.call('HDEL', waits, id) == 0 or redis.call('HEXISTS', job, 'waiting_until') == 0 or not unfinished(job) then
  return 0
end
redis.call('HDEL', job, 'waiting', 'waiting_since', 'waiting_reason', 'waiting_until')
redis.call('HSET', job, 'queued', stamp())
return 1
