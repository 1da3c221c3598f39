-- Marks: members that expire unless somebody renews them. Included by other scripts.
-- In a hash, the field is the member and the value is `expiry value`. In a sorted set, the score is the expiry.

-- Unix seconds of the server, so that the clocks of workers do not matter.
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000

local function mark(seconds, value)
  return string.format('%.3f ', now + seconds) .. value
end

-- Returns the value of a mark, whether it still holds, and its expiry.
local function read_mark(text)
  local expiry, value = string.match(text, '^(%S+) (.*)$')
  return value, tonumber(expiry) > now, tonumber(expiry)
end

-- Adds a member to a sorted set, or renews it. The set lives as long as its last member.
local function hold(set, member, seconds)
  redis.call('ZREMRANGEBYSCORE', set, '-inf', string.format('(%.3f', now))
  redis.call('ZADD', set, string.format('%.3f', now + seconds), member)
  local last = redis.call('ZREVRANGE', set, 0, 0, 'WITHSCORES')
  redis.call('EXPIRE', set, math.ceil(tonumber(last[2]) - now) + 1)
end
