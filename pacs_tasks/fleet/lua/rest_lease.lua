-- Keeps a lease from others after the remote refused the association.
-- ARGV also: seconds to keep it, seconds for which the refusal is remembered
-- include fleet/leases

local rest, remembered = tonumber(ARGV[6]), ARGV[7]

hold(held, lease, rest)
redis.call('SET', refusing, string.format('%.3f', now), 'NX')
redis.call('EXPIRE', refusing, remembered)
update_index()
return 1
