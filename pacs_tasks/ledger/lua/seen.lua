-- Returns where an unfinished job stands.
-- KEYS: job (hash), claims (hash)
-- include ledger/standing

return standing(KEYS[1], KEYS[2])
