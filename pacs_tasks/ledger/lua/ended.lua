-- Keeps the end of a job whose deliveries are not planned. Included after ledger/job by what changes an ended job.

-- Before a member of ENDED: the fields of the job at that end (hash).
local KEPT_END = 'pacs_tasks:webhooks:end:'

local function keep_end(job)
  local member = counter(job, 'attempt') .. ' ' .. job
  if not redis.call('ZSCORE', ENDED, member) or redis.call('EXISTS', KEPT_END .. member) == 1 then
    return
  end
  local fields = redis.call('HGETALL', job)
  if #fields > 0 then
    redis.call('HSET', KEPT_END .. member, unpack(fields))
    redis.call('EXPIRE', KEPT_END .. member, ENDED_KEPT)
  end
end
