-- Keeps the matches of a row of a batch query, unless the job has expired: they are patient data.
-- KEYS: job (hash), matches (hash: index to JSON)
-- ARGV: index, matches, seconds to keep them

local job, matches = KEYS[1], KEYS[2]
local index, text, keep = ARGV[1], ARGV[2], ARGV[3]

if redis.call('EXISTS', job) == 0 then
  return 0
end
redis.call('HSET', matches, index, text)
redis.call('EXPIRE', matches, keep)
return 1
