-- Returns how many claims hold.
-- KEYS: claims (hash)
-- include ledger/job

return live_claims(KEYS[1])
