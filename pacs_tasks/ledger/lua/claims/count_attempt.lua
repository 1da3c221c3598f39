-- Counts that a line was put on the wire and has no outcome yet. Returns how often it was.
-- KEYS: attempts (hash: index to number), job (hash)
-- ARGV: index, seconds to keep the numbers

local attempts, job = KEYS[1], KEYS[2]
local index, keep = ARGV[1], ARGV[2]

if redis.call('EXISTS', job) == 1 then
  redis.call('HINCRBY', job, 'retries', 1)
end
local count = redis.call('HINCRBY', attempts, index, 1)
redis.call('EXPIRE', attempts, keep)
return count
