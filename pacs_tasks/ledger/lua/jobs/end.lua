-- Ends a job in a given state. Returns 1 if this call ended it.
-- KEYS: job (hash)
-- ARGV: state, '1' to end only a cancelled job, attempt to end ('0' for any), then pairs of field and value
-- include ledger/job

local job = KEYS[1]
local state, only_cancelled, attempt = ARGV[1], ARGV[2] == '1', ARGV[3]

if not unfinished(job) or (only_cancelled and redis.call('HGET', job, 'cancel') ~= '1') then
  return 0
end
if attempt ~= '0' and attempt ~= redis.call('HGET', job, 'attempt') then
  return 0
end
redis.call('HSETNX', job, 'started', stamp())
for i = 4, #ARGV, 2 do
  redis.call('HSET', job, ARGV[i], ARGV[i + 1])
end
end_job(job, state)
return 1
