-- Returns what follows the prefix in each member that begins with one of the prefixes and has not expired.
-- KEYS: expected (sorted set: member by expiry)
-- ARGV: prefixes
-- include ledger/marks

local expected, found = KEYS[1], {}

for _, member in ipairs(redis.call('ZRANGEBYSCORE', expected, string.format('%.3f', now), '+inf')) do
  for _, prefix in ipairs(ARGV) do
    if string.sub(member, 1, #prefix) == prefix then
      table.insert(found, string.sub(member, #prefix + 1))
      break
    end
  end
end
return found
