-- Records a probe without an answer. Returns the ids of the jobs that give up. Once no job waits, the outage is
-- forgotten: the next job finds out for itself.
-- ARGV also: most seconds until the next probe, seconds to remember the outage, prefix of the key of a job
-- include fleet/outage

local longest, keep, prefix = tonumber(ARGV[2]), ARGV[3], ARGV[4]

local given_up, entries = {}, redis.call('HGETALL', jobs)
for i = 1, #entries, 2 do
  local id, patience_ends = entries[i], tonumber(entries[i + 1])
  if not waits(prefix .. id) then
    redis.call('HDEL', jobs, id)
  elseif patience_ends <= now then
    redis.call('HDEL', jobs, id)
    redis.call('HDEL', prefix .. id, 'waiting', 'waiting_since', 'waiting_reason', 'waiting_until')
    given_up[#given_up + 1] = id
  end
end
if redis.call('HLEN', jobs) == 0 then
  redis.call('DEL', outage)
  redis.call('ZREM', index, name)
  return given_up
end
local pause = math.min(2 * tonumber(redis.call('HGET', outage, 'pause') or '1'), longest)
redis.call('HSET', outage, 'pause', pause)
redis.call('EXPIRE', outage, keep)
redis.call('EXPIRE', jobs, keep)
redis.call('ZADD', index, now + pause, name)
redis.call('EXPIRE', index, keep)
return given_up
