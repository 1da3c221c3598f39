-- Forgets the failures of a remote that is not down.
-- include fleet/outage

if not redis.call('ZSCORE', index, name) then
  redis.call('DEL', outage)
end
return 1
