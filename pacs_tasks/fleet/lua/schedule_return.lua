-- Returns the seconds after which a task that was granted no lease shall request one again.
-- KEYS: away (sorted set: task by the time of its return)
-- ARGV: task, fewest seconds, seconds after the last return, most seconds
-- include ledger/marks

local away = KEYS[1]
local task, fewest, spacing, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

redis.call('ZREMRANGEBYSCORE', away, '-inf', now)
local last = tonumber(redis.call('ZRANGE', away, -1, -1, 'WITHSCORES')[2] or '0')
local seconds = math.min(math.max(fewest, last + spacing - now), most)
hold(away, task, seconds)
return string.format('%.3f', seconds)
