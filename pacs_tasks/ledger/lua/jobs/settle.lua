-- Ends a job if nothing is left to do. Returns 1 if this call ended it.
-- KEYS: job (hash), claims (hash)
-- include ledger/job

return settle(KEYS[1], KEYS[2])
