-- Takes tokens of a remote. Returns whether they are granted, and seconds: until the work may begin, or until the next
-- request for tokens that are not granted.
-- KEYS: bucket (hash: instances, bytes, away, each to the Unix seconds from which the next one is due)
-- ARGV: seconds that the instances and that the bytes are worth, the same of what was done without tokens, or negative
--   of tokens that were not used, most seconds until the work may begin, seconds of lateness that are caught up, most
--   seconds until the next request, seconds between two next requests
-- include ledger/marks

local bucket = KEYS[1]
local worth = {instances = tonumber(ARGV[1]), bytes = tonumber(ARGV[2])}
local owed = {instances = tonumber(ARGV[3]), bytes = tonumber(ARGV[4])}
local patience, late, longest, spacing = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])

local due, wait = {}, 0
for name in pairs(worth) do
  due[name] = math.max(tonumber(redis.call('HGET', bucket, name) or now), now - late) + owed[name]
  wait = math.max(wait, due[name] - now)
end
local granted = wait <= patience
if granted then
  for name, seconds in pairs(worth) do
    due[name] = math.max(due[name], now + wait - late) + seconds
  end
else
  -- Those that go away return one after the other.
  local away = math.max(tonumber(redis.call('HGET', bucket, 'away') or '0'), now + wait)
  wait = math.min(away - now, longest)
  due.away = math.min(away + spacing, now + longest)
end
local last = now
for name, at in pairs(due) do
  redis.call('HSET', bucket, name, string.format('%.6f', at))
  last = math.max(last, at)
end
redis.call('EXPIRE', bucket, math.ceil(last - now) + 1)
return {granted and 1 or 0, string.format('%.6f', wait)}
