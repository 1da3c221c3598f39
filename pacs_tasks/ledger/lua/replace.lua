-- Replaces a field of a hash if it still has the expected value. Returns 1 if it had.
-- KEYS: hash
-- ARGV: field, expected value, new value

local hash = KEYS[1]
local field, expected, new = ARGV[1], ARGV[2], ARGV[3]

if redis.call('HGET', hash, field) ~= expected then
  return 0
end
redis.call('HSET', hash, field, new)
return 1
