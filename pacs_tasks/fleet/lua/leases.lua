-- Included by the scripts about leases of associations, whose first keys and arguments these are.
-- KEYS: held (sorted set: lease by expiry), waiting (hash: lease to a mark `since limit`), index (sorted set: remote by
--   limit), refusing (string: since when), wanted (string)
-- ARGV: remote, limit, lifetime of a lease in seconds, prefix of the lists that wake waiting tasks, lease
-- include ledger/marks

local held, waiting, index, refusing, wanted = unpack(KEYS)
local remote, limit, lifetime, wake, lease = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5]

-- Returns the leases that tasks wait for, the longest wait first.
local function queue()
  local found, entries = {}, redis.call('HGETALL', waiting)
  for i = 1, #entries, 2 do
    local value, alive = read_mark(entries[i + 1])
    if alive then
      local since, most = string.match(value, '^(%S+) (%S+)$')
      found[#found + 1] = {lease = entries[i], since = since, limit = tonumber(most)}
    else
      redis.call('HDEL', waiting, entries[i])
    end
  end
  table.sort(found, function(a, b) return a.since .. a.lease < b.since .. b.lease end)
  return found
end

-- Grants free leases to waiting tasks. The lease of a dead task expires.
local function hand_over()
  redis.call('ZREMRANGEBYSCORE', held, '-inf', now)
  for _, first in ipairs(queue()) do
    if redis.call('ZCARD', held) >= first.limit then
      break
    end
    hold(held, first.lease, lifetime)
    redis.call('HDEL', waiting, first.lease)
    if first.lease ~= lease then
      redis.call('RPUSH', wake .. first.lease, 1)
      redis.call('PEXPIRE', wake .. first.lease, 5000)
    end
  end
end

-- Keeps the remote in the index as long as anybody holds a lease or waits for one.
local function update_index()
  if redis.call('EXISTS', held, waiting) == 0 then
    redis.call('ZREM', index, remote)
  else
    redis.call('ZADD', index, limit, remote)
    redis.call('EXPIRE', index, math.ceil(lifetime) + 1)
  end
end
