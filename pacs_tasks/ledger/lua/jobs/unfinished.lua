-- Returns the ids of the jobs that are queued or running, and forgets those that have expired or are no records.
-- Also corrects which jobs count as running: one may have expired, or wait for a remote that is down.
-- KEYS: jobs (sorted set: id by creation time)
-- ARGV: prefix of the key of a job
-- include ledger/job

local jobs = KEYS[1]
local prefix = ARGV[1]

local found = {}
redis.call('DEL', RUNNING)
for _, id in ipairs(redis.call('ZRANGE', jobs, 0, -1)) do
  if redis.call('TYPE', prefix .. id).ok ~= 'hash' then
    redis.call('ZREM', jobs, id)
  elseif unfinished(prefix .. id) then
    found[#found + 1] = id
    if redis.call('HGET', prefix .. id, 'state') == 'running' and redis.call('HEXISTS', prefix .. id, 'waiting') == 0 then
      redis.call('ZADD', RUNNING, now, prefix .. id)
    end
  end
end
return found
