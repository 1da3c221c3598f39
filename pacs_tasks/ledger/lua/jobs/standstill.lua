-- Returns where a job stands, a text that changes whenever somebody works on the job: at once without seconds, else if
-- it has not changed for so many seconds, and again after twice as long each time. The text is empty if somebody has a
-- claim, if the job has ended, or if it waits for a remote that is down: the probe of that remote takes care of it.
-- KEYS: job (hash), claims (hash)
-- ARGV: seconds or ''
-- include ledger/job

local job, claims = KEYS[1], KEYS[2]
local patience = tonumber(ARGV[1])

settle(job, claims)
if not unfinished(job) then
  return ''
end
local standing = ''
if live_claims(claims) == 0 and redis.call('HEXISTS', job, 'waiting') == 0 then
  local state, attempt = unpack(redis.call('HMGET', job, 'state', 'attempt'))
  standing = table.concat({state, attempt, counter(job, 'planned'), counter(job, 'recorded')}, ' ')
end
if not patience then
  return standing
end
local times = tonumber(redis.call('HGET', job, 'seen_times') or '1')
if standing == '' or redis.call('HGET', job, 'seen') ~= standing then
  redis.call('HSET', job, 'seen', standing, 'seen_at', stamp(), 'seen_times', 1)
elseif now - tonumber(redis.call('HGET', job, 'seen_at')) >= times * patience then
  redis.call('HSET', job, 'seen_at', stamp(), 'seen_times', 2 * times)
  return standing
end
return ''
