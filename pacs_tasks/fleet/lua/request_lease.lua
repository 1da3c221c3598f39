-- Requests a lease. Returns whether it is granted, seconds until the next lease expires, and whether the remote refuses
-- associations.
-- ARGV also: '1' to wait if no lease is free, seconds after which a waiting task counts as dead, seconds to remember an
--   unmet request (0: not at all)
-- include fleet/leases

local wait, patience, remembered = ARGV[6] == '1', tonumber(ARGV[7]), ARGV[8]

if not redis.call('ZSCORE', held, lease) then
  local text = redis.call('HGET', waiting, lease)
  local since = text and string.match(read_mark(text), '^%S+') or string.format('%.6f', now)
  redis.call('HSET', waiting, lease, mark(patience, since .. string.format(' %d', limit)))
  hand_over()
end
local granted = redis.call('ZSCORE', held, lease) and 1 or 0
if granted == 1 then
  redis.call('DEL', wake .. lease)
elseif wait then
  redis.call('PEXPIRE', waiting, math.ceil(patience * 1000))
else
  redis.call('HDEL', waiting, lease)
  if remembered ~= '0' then
    redis.call('SET', wanted, 1, 'EX', remembered)
  end
end
update_index()
local first = redis.call('ZRANGE', held, 0, 0, 'WITHSCORES')[2]
return {granted, string.format('%.3f', first and math.max(0, first - now) or 0), redis.call('EXISTS', refusing)}
