-- Claims a name within a scope, or renews the claim of the same owner. The name '' is the whole scope: its owner must be
-- alone there and keeps others out. Returns 0 if another owner holds it, else 1 + the owners that died with it.
-- KEYS: claims (hash: name to a mark with the owner), losses (hash: name to the number of owners that died)
-- ARGV: name, owner, lifetime in seconds
-- include ledger/job

local claims, losses = KEYS[1], KEYS[2]
local name, owner, lifetime = ARGV[1], ARGV[2], tonumber(ARGV[3])

local before = redis.call('HGET', claims, name)
local conflicting = name == '' and redis.call('HVALS', claims) or {before, redis.call('HGET', claims, '')}

local function of_another(text)
  return text and read_mark(text) ~= owner
end

-- Returns whether the owner of a claim may be alive: it holds, or no worker was seen since it did. Redis was silent then,
-- or all died, and the next renewal of a presence tells which.
local function may_be_alive(text)
  if claim_holds(text) then
    return true
  end
  local _, _, expiry = read_mark(text)
  local last = last_seen()
  return expiry > last and now - last > LATE
end

for _, text in ipairs(conflicting) do
  if of_another(text) and may_be_alive(text) then
    return 0
  end
end
if of_another(before) then
  redis.call('HINCRBY', losses, name, 1)
  redis.call('EXPIRE', losses, 86400)
end
redis.call('HSET', claims, name, mark(lifetime, owner))
redis.call('EXPIRE', claims, 86400)
return 1 + counter(losses, name)
