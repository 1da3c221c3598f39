-- Has a job wait for a remote. Returns 0 if the remote is not down any more.
-- ARGV also: job id, seconds of patience, prefix of the key of a job
-- include fleet/outage

local id, patience, prefix = ARGV[2], tonumber(ARGV[3]), ARGV[4]

if not redis.call('ZSCORE', index, name) then
  return 0
end
redis.call('HSETNX', jobs, id, now + patience)
redis.call('EXPIRE', jobs, redis.call('TTL', outage))
local since, reason = unpack(redis.call('HMGET', outage, 'since', 'reason'))
redis.call('HSET', prefix .. id, 'waiting', name, 'waiting_since', since, 'waiting_reason', reason)
redis.call('HDEL', prefix .. id, 'waiting_until')
return 1
