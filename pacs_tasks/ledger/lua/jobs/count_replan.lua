-- Counts that lost parts are planned again. Returns how often that happened since the last outcome.
-- KEYS: job (hash)
-- include ledger/job

local job = KEYS[1]

local recorded = counter(job, 'recorded')
if counter(job, 'replanned_at') ~= recorded then
  redis.call('HSET', job, 'replans', 0, 'replanned_at', recorded)
end
return redis.call('HINCRBY', job, 'replans', 1)
