-- Releases a claim if the owner still has it.
-- KEYS: claims (hash: name to a mark with the owner)
-- ARGV: name, owner
-- include ledger/marks

local claims = KEYS[1]
local name, owner = ARGV[1], ARGV[2]

local text = redis.call('HGET', claims, name)
if text and read_mark(text) == owner then
  redis.call('HDEL', claims, name)
end
return 1
