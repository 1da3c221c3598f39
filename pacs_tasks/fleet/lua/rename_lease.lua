-- Passes a lease on to another holder of the same process.
-- ARGV also: the new name
-- include fleet/leases

redis.call('ZREM', held, lease)
hold(held, ARGV[6], lifetime)
update_index()
return 1
