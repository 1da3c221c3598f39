-- Gives a job its manifest, unless it has one. Returns 1 if this call did.
-- KEYS: job (hash), manifest (list), new lines (list), studies (hash), new studies (hash)
-- ARGV: total, how many lines come before the tail

local job, manifest, new_lines, studies, new_studies = unpack(KEYS)
local total, resolved = ARGV[1], ARGV[2]

if redis.call('HGET', job, 'planned') == '1' then
  redis.call('DEL', new_lines, new_studies)
  return 0
end
if redis.call('EXISTS', new_lines) == 1 then
  redis.call('RENAME', new_lines, manifest)
end
if redis.call('EXISTS', new_studies) == 1 then
  redis.call('RENAME', new_studies, studies)
end
redis.call('HSET', job, 'planned', '1', 'total', total, 'resolved', resolved)
return 1
