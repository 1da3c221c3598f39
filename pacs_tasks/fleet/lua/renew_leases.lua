-- Renews leases, expired ones as well.
-- ARGV also: more leases
-- include fleet/leases

for i = 5, #ARGV do
  hold(held, ARGV[i], lifetime)
end
update_index()
return 1
