-- Records the outcome of one line of the manifest; a second outcome for the same line changes nothing.
-- Returns whether it is new, whether the job was cancelled, and whether this call ended the job.
-- KEYS: job (hash), claims (hash), recorded (bitmap: lines with an outcome), receipts (list: short outcomes),
--   problems (hash: index to any other outcome), series (hash: study\series to its number),
--   present (bitmap: lines of which the instance was already there)
-- ARGV: index, outcome, category, bytes, '1' if no association was had, '1' for a receipt, seconds to keep it,
--   study\series or '', text before the number of study and series, '1' if it was sent in another transfer syntax
-- include ledger/job

local job, claims, recorded, receipts, problems, series, present = unpack(KEYS)
local index, outcome, category, bytes, unreachable, short, keep, study_series, before_number, converted = unpack(ARGV)

if redis.call('EXISTS', job) == 0 then
  return {0, 1, 0}  -- The job has expired: nobody reads its outcomes.
end
local new = 1 - redis.call('SETBIT', recorded, index, 1)
if new == 1 then
  -- Many instances share study and series: each pair has a number, which goes into the outcome.
  if study_series ~= '' then
    local number = redis.call('HGET', series, study_series)
    if not number then
      number = redis.call('HLEN', series)
      redis.call('HSET', series, study_series, number)
      redis.call('EXPIRE', series, keep)
    end
    outcome = string.sub(outcome, 1, -2) .. before_number .. number .. string.sub(outcome, -1)
  end
  if short == '1' then
    if redis.call('RPUSH', receipts, outcome) == 1 then
      redis.call('EXPIRE', receipts, keep)
    end
  else
    redis.call('HSET', problems, index, outcome)
    redis.call('EXPIRE', problems, keep)
  end
  if category == 'present' and redis.call('SETBIT', present, index, 1) == 0 then
    redis.call('EXPIRE', present, keep)
  end
  redis.call('HINCRBY', job, category, 1)
  redis.call('HINCRBY', job, 'bytes', bytes)
  if category == 'warning' then
    redis.call('HINCRBY', job, 'warning_bytes', bytes)
  end
  if converted == '1' then
    redis.call('HINCRBY', job, 'converted', 1)
  end
  if unreachable == '1' then
    redis.call('HINCRBY', job, 'unreachable', 1)
  end
  if redis.call('HINCRBY', job, 'recorded', 1) == 1 then
    redis.call('EXPIRE', recorded, keep)
  end
end
local total, cancel, about, state = unpack(redis.call('HMGET', job, 'total', 'cancel', 'about', 'state'))
if new == 1 and about and state ~= 'running' and state ~= 'queued' then
  -- The job ended with an error while its parts were at work.
  count_for(about, category, 1)
  count_for(about, 'bytes', bytes)
  if category == 'warning' then
    count_for(about, 'warning_bytes', bytes)
  end
end
local ended = 0
if cancel == '1' or counter(job, 'recorded') >= tonumber(total or '0') then
  ended = settle(job, claims)
end
return {new, tonumber(cancel or '0'), ended}
