-- Returns of each job its state, '' if it has no record; '1' if its cancellation is requested; and a text that changes
-- whenever somebody works on it.
-- KEYS: jobs (hashes)
-- include ledger/job

local found = {}
for i, job in ipairs(KEYS) do
  local state, cancel, attempt, waiting = unpack(redis.call('HMGET', job, 'state', 'cancel', 'attempt', 'waiting'))
  local mark = table.concat({attempt or '', counter(job, 'total'), counter(job, 'recorded'), waiting or ''}, ' ')
  found[i] = {state or '', cancel or '', mark}
end
return found
