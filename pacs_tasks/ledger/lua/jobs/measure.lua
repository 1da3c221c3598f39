-- Returns what all attempts have done: the hash METRICS, then for each job whose attempt runs the same fields and numbers.
-- KEYS: any key of a job
-- include ledger/job

local found = redis.call('HGETALL', METRICS)
for _, job in ipairs(redis.call('SMEMBERS', OPEN)) do
  local about = redis.call('HGET', job, 'about')
  if about then
    for name, number in pairs(measured(job)) do
      found[#found + 1] = about .. '\t' .. name
      found[#found + 1] = string.format('%d', number)
    end
  else
    redis.call('SREM', OPEN, job)
  end
end
return found
