-- Returns 1 if a member with one of the prefixes has not expired.
-- KEYS: expected (sorted set: member by expiry)
-- ARGV: prefixes
-- include ledger/marks

local expected = KEYS[1]

for _, member in ipairs(redis.call('ZRANGEBYSCORE', expected, string.format('%.3f', now), '+inf')) do
  for _, prefix in ipairs(ARGV) do
    if string.sub(member, 1, #prefix) == prefix then
      return 1
    end
  end
end
return 0
