-- Ends an outage. Returns the ids of the jobs that waited.
-- ARGV also: prefix of the key of a job
-- include fleet/outage

local prefix = ARGV[2]

local found = {}
for _, id in ipairs(redis.call('HKEYS', jobs)) do
  if waits(prefix .. id) then
    redis.call('HDEL', prefix .. id, 'waiting', 'waiting_since', 'waiting_reason', 'waiting_until')
    redis.call('HSET', prefix .. id, 'queued', string.format('%.6f', now))
    found[#found + 1] = id
  end
end
redis.call('DEL', outage, jobs)
redis.call('ZREM', index, name)
return found
