-- Counts an association that could not be had. Returns 1 if the remote is down.
-- ARGV also: failures after which it is down, seconds to remember a failure, seconds to remember an outage, local and
--   remote AE as JSON, reason, seconds until the first probe
-- include fleet/outage

local most, memory, keep, about, reason = tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local pause = tonumber(ARGV[7])

local failures = redis.call('HINCRBY', outage, 'failures', 1)
redis.call('HSET', outage, 'reason', reason)
if redis.call('ZSCORE', index, name) then
  return 1
end
if failures < most then
  redis.call('EXPIRE', outage, memory)
  return 0
end
redis.call('HSET', outage, 'since', string.format('%.3f', now), 'about', about, 'pause', pause)
redis.call('EXPIRE', outage, keep)
redis.call('ZADD', index, now + pause, name)
redis.call('EXPIRE', index, keep)
return 1
