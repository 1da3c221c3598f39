-- Expects a study or series at a receiver, or renews that.
-- KEYS: expected (sorted set: member by expiry)
-- ARGV: member, seconds
-- include ledger/marks

hold(KEYS[1], ARGV[1], tonumber(ARGV[2]))
return 1
