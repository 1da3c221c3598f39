-- Returns name, local and remote AE of the remotes to probe now, and gives the caller some seconds to do so.
-- ARGV also: seconds for a probe, prefix of the key of an outage
-- include fleet/outage

local limit, prefix = tonumber(ARGV[2]), ARGV[3]

local found = {}
for _, remote in ipairs(redis.call('ZRANGEBYSCORE', index, '-inf', now, 'LIMIT', 0, 16)) do
  local about = redis.call('HGET', prefix .. remote, 'about')
  if about then
    redis.call('ZADD', index, now + limit, remote)
    found[#found + 1] = {remote, about}
  else
    redis.call('ZREM', index, remote)
  end
end
return found
