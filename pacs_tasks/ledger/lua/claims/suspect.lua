-- Returns the index that the last owner of a claim had begun, and how many owners have died at it, this one included.
-- KEYS: losses (hash: `at <name>` to an index, `deaths <index>` to a number)
-- ARGV: name of the claim

local losses = KEYS[1]
local name = ARGV[1]

local index = redis.call('HGET', losses, 'at ' .. name)
if not index then
  return false
end
redis.call('HDEL', losses, 'at ' .. name)
return {index, redis.call('HINCRBY', losses, 'deaths ' .. index, 1)}
