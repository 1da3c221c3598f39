-- Returns where a job stands if that has not changed for some seconds, and again after twice as long each time.
-- KEYS: job (hash), claims (hash)
-- ARGV: seconds
-- include ledger/standing

local job, claims = KEYS[1], KEYS[2]
local patience = tonumber(ARGV[1])

if not unfinished(job) then
  return ''
end
local seen = standing(job, claims)
local times = tonumber(redis.call('HGET', job, 'seen_times') or '1')
if seen == '' or redis.call('HGET', job, 'seen') ~= seen then
  redis.call('HSET', job, 'seen', seen, 'seen_at', stamp(), 'seen_times', 1)
elseif now - tonumber(redis.call('HGET', job, 'seen_at')) >= times * patience then
  redis.call('HSET', job, 'seen_at', stamp(), 'seen_times', 2 * times)
  return seen
end
return ''
