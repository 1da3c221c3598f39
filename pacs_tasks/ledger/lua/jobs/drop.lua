-- Drops the outcomes of lines that failed or are missing, unless the job is unfinished.
-- KEYS: job (hash), recorded (bitmap), problems (hash), attempts (hash: index to number), matches (hash)
-- ARGV: indices
-- include ledger/job
-- include ledger/ended

local job, recorded, problems, attempts, matches = unpack(KEYS)

if unfinished(job) then
  return 0
end
keep_end(job)
for _, index in ipairs(ARGV) do
  local text = redis.call('HGET', problems, index)
  local outcome = text and cjson.decode(text) or {}
  local category = outcome['category']
  if category == 'failed' or category == 'missing' then
    redis.call('HDEL', problems, index)
    redis.call('HDEL', matches, index)
    redis.call('SETBIT', recorded, index, 0)
    if outcome['attempts'] then
      redis.call('HSET', attempts, index, outcome['attempts'])
    end
    redis.call('HINCRBY', job, category, -1)
    redis.call('HINCRBY', job, 'recorded', -1)
  end
end
return 1
