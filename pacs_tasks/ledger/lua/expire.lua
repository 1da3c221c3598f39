-- Keeps a job, all of its keys, for so many seconds from now.
-- KEYS: those that may be there
-- ARGV: seconds

for _, key in ipairs(KEYS) do
  redis.call('EXPIRE', key, ARGV[1])
end
