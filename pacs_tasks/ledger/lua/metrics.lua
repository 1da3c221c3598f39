-- What jobs have done, for those who watch the fleet. Included by ledger/job.
-- A job's field `about` is its operation, direction and remote, with tabs between them. The hash METRICS has numbers of
-- ended attempts by `about`, a tab, and what is counted; OPEN is the set of the jobs whose attempt is not yet in it.

local METRICS = 'pacs_tasks:metrics'
local OPEN = 'pacs_tasks:metrics:open'
-- Strangers decide how many remotes there are: later ones are counted together.
local MOST_FIELDS = 20000
-- Seconds to keep the numbers after the last job.
local KEPT = 30 * 86400

local function count_for(about, what, number)
  local field = about .. '\t' .. what
  if redis.call('HLEN', METRICS) >= MOST_FIELDS and redis.call('HEXISTS', METRICS, field) == 0 then
    field = string.gsub(about, '[^\t]*$', '(others)', 1) .. '\t' .. what
  end
  redis.call('HINCRBY', METRICS, field, number)
end

-- Returns what the attempt that runs has done so far: numbers by name.
local function measured(job)
  -- Here, since every file would pay for a table outside.
  local MEASURED = {'success', 'warning', 'failed', 'missing', 'present', 'skipped', 'bytes', 'warning_bytes',
    'retries'}
  local names = {}
  for _, name in ipairs(MEASURED) do
    names[#names + 1] = name
    names[#names + 1] = 'before_' .. name
    names[#names + 1] = 'measured_' .. name
  end
  local values, found = redis.call('HMGET', job, unpack(names)), {}
  for place, name in ipairs(MEASURED) do
    local total, before, single = unpack(values, 3 * place - 2, 3 * place)
    found[name] = math.max(tonumber(total or 0) - tonumber(before or 0), 0) + tonumber(single or 0)
  end
  return found
end

-- The category of the outcome of a job that ends in this state, as TransferOutcome gives it.
local function category_of(job, state)
  local known, total, success, warning, present, failed, missing, skipped = unpack(redis.call(
    'HMGET', job, 'measured_category', 'total', 'success', 'warning', 'present', 'failed', 'missing', 'skipped'))
  if state ~= 'done' or known then
    return state == 'done' and known or state
  end
  local done = tonumber(success or 0) + tonumber(warning or 0) + tonumber(present or 0)
  local lost = tonumber(failed or 0) + tonumber(missing or 0)
  if done == 0 then
    return 'failed'
  elseif lost > 0 or done + lost + tonumber(skipped or 0) < tonumber(total or 0) then
    return 'partial'
  end
  return tonumber(warning or 0) > 0 and 'warning' or 'success'
end

-- Adds the attempt that ends now.
local function add_up(job, state)
  -- Upper bounds of the seconds of a job, in pacs_tasks/metrics.py as well.
  local BOUNDS = {0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10000}
  local about, started = unpack(redis.call('HMGET', job, 'about', 'started'))
  if redis.call('SREM', OPEN, job) == 0 or not about then
    return
  end
  for name, number in pairs(measured(job)) do
    if number > 0 then
      count_for(about, name, number)
    end
  end
  local seconds = now - tonumber(started or now)
  local place = 1
  while BOUNDS[place] and seconds > BOUNDS[place] do
    place = place + 1
  end
  count_for(about, 'within ' .. place, 1)
  count_for(about, 'milliseconds', math.floor(seconds * 1000))
  count_for(about, 'ended ' .. category_of(job, state), 1)
  redis.call('EXPIRE', METRICS, KEPT)
end
