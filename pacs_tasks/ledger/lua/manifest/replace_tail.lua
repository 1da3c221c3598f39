-- Replaces the tail of a manifest and drops its outcomes. Returns 1 if the tail is replaced, also by an earlier try of
-- this call.
-- KEYS: job (hash), new lines (list), new studies (hash), manifest (list), studies (hash), recorded (bitmap),
--   problems (hash)
-- ARGV: first line of the tail, total before, total afterwards, how many of these come before the tail, unique id of
--   this call, seconds to keep the manifest
-- include ledger/job

local job, new_lines, new_studies, manifest, studies, recorded, problems = unpack(KEYS)
local start, before, total, resolved, call, keep = unpack(ARGV)

if redis.call('HGET', job, 'replanned_by') == call then
  return 1
end
if counter(job, 'resolved') ~= tonumber(start) or counter(job, 'total') ~= tonumber(before) then
  redis.call('DEL', new_lines, new_studies)
  return 0
end
for index = start, before - 1 do
  local outcome = redis.call('HGET', problems, index)
  if outcome and redis.call('SETBIT', recorded, index, 0) == 1 then
    redis.call('HDEL', problems, index)
    redis.call('HINCRBY', job, cjson.decode(outcome)['category'], -1)
    redis.call('HINCRBY', job, 'recorded', -1)
  end
end
if start == '0' then
  redis.call('DEL', manifest)
else
  redis.call('LTRIM', manifest, 0, start - 1)
end
for first = 0, redis.call('LLEN', new_lines) - 1, 1000 do
  redis.call('RPUSH', manifest, unpack(redis.call('LRANGE', new_lines, first, first + 999)))
end
redis.call('EXPIRE', manifest, keep)
redis.call('DEL', new_lines)
redis.call('RENAME', new_studies, studies)
redis.call('HSET', job, 'total', total, 'resolved', resolved, 'replanned_by', call)
return 1
