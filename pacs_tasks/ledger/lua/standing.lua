-- Included by other scripts.
-- include ledger/job

-- Returns a text that changes whenever somebody works on the job. It is empty if somebody has a claim, if the job has
-- ended, or if it waits for a remote that is down: the probe of that remote takes care of it.
local function standing(job, claims)
  settle(job, claims)
  if not unfinished(job) or live_claims(claims) > 0 or redis.call('HEXISTS', job, 'waiting') == 1 then
    return ''
  end
  local state, attempt = unpack(redis.call('HMGET', job, 'state', 'attempt'))
  return table.concat({state, attempt, counter(job, 'planned'), counter(job, 'recorded')}, ' ')
end
