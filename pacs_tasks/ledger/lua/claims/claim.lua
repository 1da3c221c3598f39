-- Claims a name within a scope, or renews the claim of the same owner. The name '' is the whole scope: its owner must be
-- alone there and keeps others out. Returns 0 if another owner holds it, else 1 + the owners that died with it.
-- KEYS: claims (hash: name to a mark with the owner), losses (hash: name to the number of owners that died)
-- ARGV: name, owner, lifetime in seconds
-- include ledger/job

local claims, losses = KEYS[1], KEYS[2]
local name, owner, lifetime = ARGV[1], ARGV[2], tonumber(ARGV[3])

-- Returns whether no worker was seen since a claim held: Redis was silent, or all died, and the next renewal of a presence
-- tells which.
local function unknown(expiry)
  local last = last_seen()
  return expiry > last and now - last > LATE
end

-- Returns whether another owner has this claim, and whether that owner may be alive.
local function of_another(text)
  if not text then
    return false, false
  end
  local held_by, _, expiry = read_mark(text)
  return held_by ~= owner, claim_holds(text) or unknown(expiry)
end

local conflicting = {redis.call('HGET', claims, '')}
if name == '' then
  conflicting = redis.call('HVALS', claims)
end
for _, text in ipairs(conflicting) do
  local other, alive = of_another(text)
  if other and alive then
    return 0
  end
end
local other, alive = of_another(redis.call('HGET', claims, name))
if other then
  if alive then
    return 0
  end
  redis.call('HINCRBY', losses, name, 1)
  redis.call('EXPIRE', losses, 86400)
end
redis.call('HSET', claims, name, mark(lifetime, owner))
redis.call('EXPIRE', claims, 86400)
return 1 + counter(losses, name)
