-- The workers that run, and how long claims hold where nobody could renew them. Included by other scripts, after marks.

-- A hash: name of a worker to a mark.
local WORKERS = 'pacs_tasks:workers'
-- Seconds from a renewal of a worker's presence to its expiry, as a busy machine may be late with several; and without any
-- renewal after which nobody could renew.
local PRESENCE, LATE = 20, 8
-- When a worker was last seen before Redis itself was silent; kept for the lifetime of a claim from the end of that.
local SILENT_SINCE = 'pacs_tasks:silent_since'

-- Returns when a worker was last seen; now if none is known.
local function last_seen()
  local last
  for _, text in ipairs(redis.call('HVALS', WORKERS)) do
    local _, _, expiry = read_mark(text)
    last = math.max(last or 0, expiry - PRESENCE)
  end
  return last or now
end

-- Returns whether a claim holds: it was renewed in time, or could not be while Redis was silent.
local function claim_holds(text)
  local _, holds, expiry = read_mark(text)
  local since = not holds and redis.call('GET', SILENT_SINCE)
  return holds or (since and expiry > (tonumber(since) or math.huge))
end
