-- Returns whether a lease shall be given back to others, and marks it as going if so: no other holder need go then.
-- ARGV also: seconds for which it has been held, seconds to give it back
-- include fleet/leases

local age, grace = tonumber(ARGV[6]), tonumber(ARGV[7])

for _, seconds in ipairs(claims()[group_of(lease)] or {}) do
  if age >= seconds then
    hold(going, lease, grace)
    return 1
  end
end
return 0
