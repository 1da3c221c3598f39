-- Moves the next messages of a list to its tail as long as their jobs had their turn in this round. A round ends when all
-- had. Returns whether more than one job runs.
-- KEYS: queue (list: the next message is the last), running (sorted set: the jobs that run), served (set: the roots of
--   the messages that were taken in this round)
-- ARGV: root of the message that was taken, most messages to move

local queue, running, served = KEYS[1], KEYS[2], KEYS[3]
local root, most = ARGV[1], tonumber(ARGV[2])

if redis.call('ZCARD', running) < 2 then
  return 0
end
-- Moves messages until one is of a job that may go first; returns whether there is one.
local function move(may_go, most)
  for _ = 1, most do
    -- As kombu writes it.
    local next_root = string.match(redis.call('LINDEX', queue, -1), '"root_id": "([^"]*)"')
    if not next_root or may_go(next_root) then
      return true
    end
    redis.call('LPUSH', queue, redis.call('RPOP', queue))
  end
  return false
end

local length = redis.call('LLEN', queue)
redis.call('SADD', served, root)
redis.call('EXPIRE', served, 60)
local function is_due(next_root)
  return redis.call('SISMEMBER', served, next_root) == 0
end
if not move(is_due, math.min(most, length)) and length <= most then
  redis.call('DEL', served)
  move(function(next_root) return next_root ~= root end, length)
end
return 1
