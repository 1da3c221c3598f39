-- Included by the scripts about leases of associations, whose first keys and arguments these are.
-- KEYS: held (sorted set: lease by expiry), waiting (hash: lease to a mark `since limit`), index (sorted set: remote by
--   limit), refusing (string: since when), wanted (string), going (sorted set: lease that its holder ends now, by expiry),
--   turns (sorted set: lease that a lower class got, by the time of that), tuning (hash: see tune.lua)
-- ARGV: remote, limit, lifetime of a lease in seconds, prefix of the lists that wake waiting tasks, lease
-- include ledger/marks

local held, waiting, index, refusing, wanted, going, turns, tuning = unpack(KEYS)
local remote, limit, lifetime, wake, lease = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5]

-- Associations with a remote of which nothing is known.
local START = 4
-- Associations beyond the number in force for whoever waits for a single answer: holders that a silent remote keeps from
-- the end of a file give none back.
local SPARE = 4
-- Seconds for which a lower class keeps an association while a higher one waits, and seconds between two such turns for
-- each association: a little more than a twentieth, since opening an association takes a part of it.
local TURN, BETWEEN_TURNS = 1, 14

local tuned = tonumber(redis.call('HGET', tuning, 'limit') or START)

-- Returns how many associations there may be now, of so many at most.
local function in_force(most)
  return math.max(1, math.min(most, tuned))
end

-- Returns how many associations there may be now for a lease of the highest class whose job has none yet: a few more, but
-- no number that the remote has just refused.
local function in_force_for_single(most)
  local refused, till = unpack(redis.call('HMGET', tuning, 'refused', 'until'))
  if refused and now < tonumber(till) then
    most = math.min(most, tonumber(refused) - 1)
  end
  return math.max(in_force(most), math.min(most, tuned + SPARE))
end

-- Returns the class of a lease (0 is the highest) and its job, which share one text: its group.
local function group_of(name)
  return string.match(name, '^([012] .+) %S+ %S+ %S+$') or '1 ' .. name
end

local function class_of(group)
  return tonumber(string.sub(group, 1, 1))
end

-- Returns the leases that tasks wait for.
local function queue()
  local found, entries = {}, redis.call('HGETALL', waiting)
  for i = 1, #entries, 2 do
    local value, alive = read_mark(entries[i + 1])
    if alive then
      local since, most = string.match(value, '^(%S+) (%S+)$')
      found[#found + 1] = {lease = entries[i], since = since, limit = tonumber(most), group = group_of(entries[i])}
    else
      redis.call('HDEL', waiting, entries[i])
    end
  end
  return found
end

-- Returns who holds leases: how many in all, how many by group, and how many of these by group may be claimed back.
-- Those that their holders end now do not count.
local function holders()
  redis.call('ZREMRANGEBYSCORE', held, '-inf', now)
  redis.call('ZREMRANGEBYSCORE', going, '-inf', now)
  redis.call('ZREMRANGEBYSCORE', turns, '-inf', now - 4 * BETWEEN_TURNS)
  local all, by_group, movable = 0, {}, {}
  local ending = {}
  for _, name in ipairs(redis.call('ZRANGE', going, 0, -1)) do
    ending[name] = true
  end
  for _, name in ipairs(redis.call('ZRANGE', held, 0, -1)) do
    if not ending[name] then
      local group = group_of(name)
      all, by_group[group] = all + 1, (by_group[group] or 0) + 1
      local turn = tonumber(redis.call('ZSCORE', turns, name) or '-inf')
      movable[group] = (movable[group] or 0) + (now - turn < TURN and 0 or 1)
    end
  end
  return all, by_group, movable
end

-- Returns the class whose turn it is although a higher one waits or holds leases; nothing if it is none's.
local function class_due(waiters, by_group)
  local waits, has, highest = {}, {}, 2
  for _, each in ipairs(waiters) do
    waits[class_of(each.group)] = true
  end
  for group, count in pairs(by_group) do
    has[class_of(group)] = has[class_of(group)] or count > 0
  end
  for class = 0, 2 do
    if waits[class] or has[class] then
      highest = math.min(highest, class)
    end
  end
  for class = 2, highest + 1, -1 do
    if waits[class] and not has[class] then
      local last = redis.call('ZSCORE', turns, class)
      if not last then
        redis.call('ZADD', turns, now, class)
        redis.call('EXPIRE', turns, 4 * BETWEEN_TURNS)
      elseif now - last >= BETWEEN_TURNS / in_force(limit) then
        return class
      end
    end
  end
end

-- Takes out the waiting task that is next: of the class that is due or else of the highest, of the job that holds the
-- fewest leases, the longest wait first.
local function take_next(waiters, by_group, due)
  local best
  for place, each in ipairs(waiters) do
    local class = class_of(each.group)
    each.order = {class == due and -1 or class, by_group[each.group] or 0, each.since, each.lease}
    local first = best and waiters[best].order
    for field = 1, 4 do
      if not best or each.order[field] < first[field] then
        best = place
        break
      elseif each.order[field] > first[field] then
        break
      end
    end
  end
  return table.remove(waiters, best)
end

-- Grants free leases to waiting tasks. The lease of a dead task expires.
local function hand_over()
  local waiters = queue()
  if #waiters == 0 then
    return
  end
  local _, by_group = holders()
  -- Those that end now still have their associations.
  local taken = redis.call('ZCARD', held)
  while #waiters > 0 do
    local due = class_due(waiters, by_group)
    local next = take_next(waiters, by_group, due)
    local single = class_of(next.group) == 0 and not by_group[next.group]
    if taken >= (single and in_force_for_single or in_force)(next.limit) then
      break
    end
    hold(held, next.lease, lifetime)
    redis.call('HDEL', waiting, next.lease)
    taken, by_group[next.group] = taken + 1, (by_group[next.group] or 0) + 1
    if class_of(next.group) == due then
      redis.call('ZADD', turns, now, due, now, next.lease)
      redis.call('EXPIRE', turns, 4 * BETWEEN_TURNS)
    end
    if next.lease ~= lease then
      redis.call('RPUSH', wake .. next.lease, 1)
      redis.call('PEXPIRE', wake .. next.lease, 5000)
    end
  end
end

-- Returns the group with the most movable leases in a lower class than `above`, the lowest class first.
local function lowest_group(movable, above)
  local found
  for group, count in pairs(movable) do
    local class = class_of(group)
    if count > 0 and class > above then
      local before = found and class_of(found)
      if not found or class > before or (class == before and (count > movable[found] or
          (count == movable[found] and group < found))) then
        found = group
      end
    end
  end
  return found
end

-- Returns the group that shall give a lease back to a waiting task, and after how many seconds of holding it.
local function group_for(each, by_group, movable, due)
  local class = class_of(each.group)
  local group = lowest_group(movable, class)
  if group then
    return group, 0
  end
  local most = class == due and 0 or (by_group[each.group] or 0) + 1
  for other, count in pairs(movable) do
    local comparable = class == due and class_of(other) < class or class_of(other) == class
    if comparable and count > 0 and by_group[other] >= most and (not group or by_group[other] > by_group[group]) then
      group = other
    end
  end
  return group, TURN
end

-- Returns, by group, the seconds of holding after each of which somebody in it shall give a lease back.
local function claims()
  local waiters, found = queue(), {}
  local all, by_group, movable = holders()
  local function claim(group, seconds)
    found[group] = found[group] or {}
    table.insert(found[group], seconds)
    by_group[group], movable[group] = by_group[group] - 1, movable[group] - 1
  end
  local free = in_force(limit) - all
  while free < 0 do
    local group = lowest_group(movable, -1)
    if not group then
      break
    end
    claim(group, 0)
    free = free + 1
  end
  local due = class_due(waiters, by_group)
  while #waiters > 0 do
    local next = take_next(waiters, by_group, due)
    if free > 0 then
      free = free - 1
    else
      local group, seconds = group_for(next, by_group, movable, due)
      if not group then
        break
      end
      claim(group, seconds)
    end
    if class_of(next.group) == due then
      due = nil
    end
    by_group[next.group] = (by_group[next.group] or 0) + 1
  end
  return found
end

-- Keeps the remote in the index as long as anybody holds a lease or waits for one.
local function update_index()
  if redis.call('EXISTS', held, waiting) == 0 then
    redis.call('ZREM', index, remote)
    redis.call('DEL', turns, going)
  else
    redis.call('ZADD', index, limit, remote)
    redis.call('EXPIRE', index, math.ceil(lifetime) + 1)
  end
end
