-- Adds numbers to what the fleet has measured of a remote.
-- ARGV: the direction, the remote; then for each number the service, what it counts, and the number
-- include ledger/marks
-- include ledger/metrics

local direction, remote = ARGV[1], ARGV[2]

for place = 3, #ARGV, 3 do
  local service, what, number = unpack(ARGV, place, place + 2)
  count_for(table.concat({service, direction, remote}, '\t'), what, number)
end
redis.call('EXPIRE', METRICS, KEPT)
return 1
