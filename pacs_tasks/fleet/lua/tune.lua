-- Records what was moved over associations with a remote, and adapts how many there may be. Returns that number, and by
-- group the seconds of holding after each of which somebody in it shall give a lease back.
--
-- The number in force is the base, the best that is known, or a candidate that is measured against it: twice the base as
-- long as that brings more (slow start), later a quarter more; half or a quarter less where more brought nothing.
-- Measured is a window in which the associations were in use. Trouble, and a remote that turns slow, halve the base.
--
-- tuning (hash): limit (in force), base, rate, byte_rate, cycle and used (of the base; rates by second, seconds by
--   instance, associations in use), last (cycle of the last window), response (seconds, usual), shown (instances by second, last), since (of the window),
--   settled (when the window may begin), probe (1 up, -1 down), next (the same of the next probe), coarse (1: steps by
--   two), again (when to probe next), pause (seconds between probes), idle (windows without use in a row), reached (most
--   associations in use at this number), slow (windows in which the remote was slow), cut, aborted (times of the last),
--   refused (number that the remote refused), until (when that is forgotten), seen (last report)
-- ARGV also: worker process, seconds since its last report, seconds of associations in use in these, instances, bytes,
--   seconds of their cycles, seconds of their responses, seconds for which the remote let associations wait, trouble or ''
-- KEYS also: window (hash: sums)
-- include fleet/leases

local window = KEYS[9]
local process, elapsed, used = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
local instances, bytes, cycles, responses = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])
local unaccepted, trouble = tonumber(ARGV[13]), ARGV[14]

-- Seconds to remember a remote that nobody uses, and after which the rate of its base is out of date.
local KEPT, STALE = 30 * 86400, 10
-- The least seconds and cycles of a window, and its most seconds.
local LEAST, CYCLES, MOST = 0.3, 3, 5
-- Seconds until a new number of associations is in use: cycles and at least, at most.
local SETTLE_CYCLES, SETTLE_LEAST, SETTLE_MOST = 1.5, 0.2, 2
-- The share of the associations that must be in use for a window to count, windows without until a probe ends, and the
-- growth of those in use within which another window is waited for: workers take seconds to open many.
local IN_USE, PATIENCE, STILL_OPENING = 0.7, 3, 1.02
-- The same share where there is one association: tasks that each open it anew use it for a part of the time.
local ONE_IN_USE = 0.2
-- The share of what a larger number adds that must be in use, too: else it would be judged by the base alone. Where the
-- rate falls below this share of that of the base meanwhile, it is judged at once.
local ADDED_IN_USE, WORSE = 0.5, 0.85
-- A larger number counts as better if the rate grows by this power of its growth, a smaller one if it loses less.
local GAIN, LOSS = 0.12, 0.05
-- A remote whose rates both fall below this share of what they were has turned slow: at once, or in two windows in a
-- row, since a machine that is busy for a moment shows the same.
local VERY_SLOW, SLOW = 0.35, 0.6
-- Seconds until the first probe after others that failed, the most, after a cut, after a refusal, and between two cuts.
local PAUSE, LONGEST_PAUSE, AFTER_CUT, AFTER_REFUSAL, BETWEEN_CUTS = 5, 60, 5, 2, 1
-- Seconds within which a second abort is no accident, and for which a number that was refused is not tried again.
local ABORTS, REFUSED = 10, 60

-- The most in force: of a large ceiling a few are left to whoever waits for a single answer, who need ask nobody for one.
local MOST_IN_FORCE = limit - math.min(SPARE, math.floor(limit / 16))

local function numbers(hash)
  local found, entries = {}, redis.call('HGETALL', hash)
  for i = 1, #entries, 2 do
    found[entries[i]] = tonumber(entries[i + 1])
  end
  return found
end

local state = numbers(tuning)

-- Begins a new window once what changed has taken effect.
local function restart(settle)
  redis.call('DEL', window)
  state.since, state.settled = nil, now + settle
end

-- Sets the number in force.
local function set(number, probe)
  number = math.max(1, math.min(number, MOST_IN_FORCE))
  if number ~= state.limit then
    restart(math.min(math.max(SETTLE_LEAST, SETTLE_CYCLES * (state.last or state.cycle or 0)), SETTLE_MOST))
  else
    restart(0)
  end
  state.limit, state.probe, state.idle, state.reached = number, probe, 0, 0
end

-- Takes another base, with what was measured of it, or {} if nothing was.
local function rebase(number, measured)
  state.base, state.rate, state.byte_rate = number, measured.rate, measured.byte_rate
  state.cycle, state.used = measured.cycle, measured.used
end

-- Halves the number. What made that necessary may pass: it is tried again later, by twos.
local function cut()
  if now - state.cut < BETWEEN_CUTS then
    return
  end
  rebase(math.max(1, math.min(state.base, math.floor(state.limit / 2))), {})
  state.cut, state.again, state.pause, state.coarse = now, now + AFTER_CUT, PAUSE, 1
  set(state.base, 0)
end

-- Forgets a candidate that the remote refuses; halves a base that it refuses.
local function refuse()
  if now - state.cut < BETWEEN_CUTS then
    return
  end
  state.refused, state['until'] = math.max(state.limit, 2), now + REFUSED
  if state.probe == 1 then
    state.cut, state.again = now, now + AFTER_REFUSAL
    set(state.base, 0)
  else
    cut()
  end
end

-- Returns the next number to measure in a direction; nothing if there is none.
local function candidate(direction)
  local number
  if direction > 0 then
    number = state.coarse == 1 and 2 * state.base or math.ceil(1.25 * state.base)
    if state.refused and now < state['until'] then
      number = math.min(number, state.refused - 1)
    end
    number = math.min(number, MOST_IN_FORCE)
  else
    number = math.floor((state.coarse == 1 and 0.5 or 0.75) * state.base)
  end
  return number ~= state.base and number >= 1 and (number > state.base) == (direction > 0) and number or nil
end

-- Probes in a direction, or in the other one if that is not possible; else waits.
local function probe(direction, other)
  local number = candidate(direction)
  if not number and other then
    direction = other
    number = candidate(direction)
  end
  if number then
    set(number, direction)
  else
    state.coarse, state.again = 0, now + state.pause
    set(state.base, 0)
  end
end

-- Judges a window of the base.
local function judge_base(measured)
  local left = state.rate and math.max(measured.rate / state.rate, measured.byte_rate / state.byte_rate) or 1
  state.slow = left < SLOW and state.limit > 1 and (state.slow or 0) + 1 or 0
  if state.slow > 0 then
    restart(0)
    return (left < VERY_SLOW or state.slow > 1) and cut()
  end
  local share = state.rate and 0.5 or 0
  measured.rate = share * (state.rate or 0) + (1 - share) * measured.rate
  measured.byte_rate = share * (state.byte_rate or 0) + (1 - share) * measured.byte_rate
  rebase(state.limit, measured)
  if now >= state.again then
    local direction = state.next == -1 and -1 or 1
    probe(direction, state.coarse ~= 1 and -direction or nil)
  else
    restart(0)
  end
end

-- Judges a window of a candidate.
local function judge_candidate(measured)
  local direction, gained = state.probe, math.sqrt(measured.rate / state.rate * measured.byte_rate / state.byte_rate)
  local grown = state.limit / state.base
  if gained >= math.pow(grown, direction > 0 and GAIN or LOSS) then
    rebase(state.limit, measured)
    state.pause, state.next = PAUSE, direction
    return probe(direction)
  end
  state.next = -direction
  if direction > 0 and state.coarse == 1 then
    -- More brings nothing: perhaps less is enough. The base is measured again first.
    state.again = now
  else
    state.coarse, state.again = 0, now + state.pause
    state.pause = math.min(2 * state.pause, LONGEST_PAUSE)
  end
  set(state.base, 0)
end

-- Judges a window in which fewer associations were in use than there may be: others were still being opened, there was
-- not more to do, or the remote lets the others wait until one of these ends.
local function judge_few(concurrency, waiting)
  local opening = concurrency > STILL_OPENING * (state.reached or 0)
  state.idle, state.reached = opening and 0 or (state.idle or 0) + 1, math.max(state.reached or 0, concurrency)
  local few = state.limit > 1 and concurrency < IN_USE * state.limit
  if few and not opening and concurrency + waiting >= IN_USE * state.limit then
    local accepted = math.max(1, math.floor(concurrency + 0.5))
    if accepted < state.base then
      rebase(accepted, {})
    end
    state.refused, state['until'], state.coarse, state.again = accepted + 1, now + REFUSED, 0, now + REFUSED
    set(state.base, 0)
  elseif state.probe ~= 0 and state.idle > PATIENCE then
    state.again = now + state.pause
    set(state.base, 0)
  else
    restart(0)
  end
end

-- Returns how many associations must be in use for a window with this rate to count.
local function enough_in_use(rate)
  local least = state.limit == 1 and ONE_IN_USE or IN_USE * state.limit
  if state.probe == 1 and state.used and rate >= WORSE * state.rate then
    least = math.max(least, state.used * (1 + ADDED_IN_USE * (state.limit / state.base - 1)))
  end
  return least
end

-- Closes the window if it says enough.
local function close()
  local sums, concurrency, waiting = numbers(window), 0, 0
  for name, seconds in pairs(sums) do
    local of = string.match(name, '^elapsed (.*)$')
    if of and seconds > 0 then
      concurrency = concurrency + (sums['used ' .. of] or 0) / seconds
      waiting = waiting + (sums['unaccepted ' .. of] or 0) / seconds
    end
  end
  local took, count = now - state.since, sums.instances or 0
  local enough = took >= math.max(LEAST, CYCLES * (state.cycle or 0)) and count >= math.max(3, state.limit / 2)
  if (not enough and took < MOST) or count < 2 or sums.cycles <= 0 then
    return
  end
  local cycle = sums.cycles / count
  local rate = concurrency / cycle
  state.shown, state.last = count / took, cycle
  if concurrency < enough_in_use(rate) then
    return judge_few(concurrency, waiting)
  end
  local measured = {rate = rate, byte_rate = rate * math.max(sums.bytes / count, 1), cycle = cycle, used = concurrency}
  if state.probe ~= 0 and state.rate then
    judge_candidate(measured)
  else
    judge_base(measured)
  end
end

local function add()
  if now < state.settled then
    return
  end
  state.since = state.since or now - elapsed
  for name, value in pairs({instances = instances, bytes = bytes, cycles = cycles,
      ['used ' .. process] = used, ['unaccepted ' .. process] = unaccepted, ['elapsed ' .. process] = elapsed}) do
    local sum = tonumber(redis.call('HGET', window, name) or '0') + value
    redis.call('HSET', window, name, string.format('%.6f', sum))
  end
  redis.call('EXPIRE', window, STALE)
  if instances > 0 then
    local usual = responses / instances
    state.response = state.response and 0.8 * state.response + 0.2 * usual or usual
    close()
  end
end

if not state.base or now - (state.seen or 0) > STALE then
  -- Rates of another time say nothing.
  state.limit = state.base or state.limit or START
  rebase(state.limit, {})
  state.next, state.coarse, state.again, state.pause, state.cut = 1, 1, now, PAUSE, state.cut or 0
  set(state.limit, 0)
  state.settled = now - elapsed
end
state.seen = now
if state.limit > MOST_IN_FORCE or state.base > MOST_IN_FORCE then
  state.base = math.min(state.base, MOST_IN_FORCE)
  set(state.base, 0)
end
if trouble == 'aborted' then
  if now - (state.aborted or 0) < ABORTS then
    cut()
  end
  state.aborted = now
elseif trouble == 'refused' then
  refuse()
elseif trouble ~= '' then
  cut()
end
add()

local written = {}
for name, value in pairs(state) do
  written[#written + 1] = name
  written[#written + 1] = string.format('%.6f', value)
end
redis.call('DEL', tuning)
redis.call('HSET', tuning, unpack(written))
redis.call('EXPIRE', tuning, KEPT)
tuned = state.limit
hand_over()
update_index()

local reply = {in_force(limit)}
for group, each in pairs(claims()) do
  reply[#reply + 1] = group
  reply[#reply + 1] = cjson.encode(each)
end
return reply
