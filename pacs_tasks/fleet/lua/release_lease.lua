-- Releases a lease, or stops waiting for it.
-- include fleet/leases

redis.call('ZREM', held, lease)
redis.call('ZREM', going, lease)
redis.call('HDEL', waiting, lease)
redis.call('DEL', wake .. lease)
hand_over()
update_index()
return 1
