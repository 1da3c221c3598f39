-- Counts the lines of a job that wait for another try because an association was lost at them.
-- KEYS: job (hash)
-- ARGV: the change

local job = KEYS[1]
local change = ARGV[1]

if redis.call('EXISTS', job) == 1 then
  redis.call('HINCRBY', job, 'retrying', change)
end
return 1
