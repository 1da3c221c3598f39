-- Releases a claim if the owner still has it.
-- KEYS: claims (hash: name to a mark with the owner), losses (hash: `at <name>` to the line that the owner has begun)
-- ARGV: name, owner
-- include ledger/marks

local claims, losses = KEYS[1], KEYS[2]
local name, owner = ARGV[1], ARGV[2]

local text = redis.call('HGET', claims, name)
if text and read_mark(text) == owner then
  redis.call('HDEL', claims, name)
  -- The owner has not died of it.
  redis.call('HDEL', losses, 'at ' .. name)
end
return 1
