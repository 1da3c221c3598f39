-- Renews the presence of a worker, and forgets those that died long ago. A worker that was present before the others were
-- late as well has seen that Redis was silent: the claims that held then hold for a lifetime from now.
-- ARGV: name of the worker, lifetime of a claim in seconds
-- include ledger/marks
-- include ledger/presence

local name, lifetime = ARGV[1], tonumber(ARGV[2])
-- Seconds after its expiry for which a worker that was not seen again is remembered.
local REMEMBERED = 600

local last = last_seen()
if redis.call('HEXISTS', WORKERS, name) == 1 and now - last > LATE then
  redis.call('SET', SILENT_SINCE, string.format('%.3f', last), 'PX', math.floor(1000 * lifetime))
end
for _, member in ipairs(redis.call('HKEYS', WORKERS)) do
  local _, _, expiry = read_mark(redis.call('HGET', WORKERS, member))
  if expiry < now - REMEMBERED then
    redis.call('HDEL', WORKERS, member)
  end
end
redis.call('HSET', WORKERS, name, mark(PRESENCE, ''))
redis.call('EXPIRE', WORKERS, PRESENCE + REMEMBERED)
return 1
