-- Appends lines to a manifest that is being written. A repeated call appends nothing.
-- KEYS: new lines (list)
-- ARGV: number of lines before, seconds to keep the list, lines

local lines = KEYS[1]
local before, keep = tonumber(ARGV[1]), ARGV[2]

if redis.call('LLEN', lines) == before then
  redis.call('RPUSH', lines, unpack(ARGV, 3))
  redis.call('EXPIRE', lines, keep)
end
return 1
