-- Requests that a job be cancelled. Returns the state of the job, nothing if it does not exist.
-- KEYS: job (hash), claims (hash)
-- include ledger/job

local job, claims = KEYS[1], KEYS[2]

if unfinished(job) then
  redis.call('HSET', job, 'cancel', '1')
  settle(job, claims)
end
return redis.call('HGET', job, 'state')
