-- Pauses all requests of an exchange and egress.
--
-- KEYS[1]  pause: no request before this time, microseconds since 1970, by the clock of Redis
-- ARGV[1]  microseconds from now
-- Result   1. A later end that is already set stays: the longest pause holds.

assert(#KEYS == 1, 'pause.lua takes 1 key')
assert(#ARGV == 1, 'pause.lua takes 1 argument')
local length = tonumber(ARGV[1])
assert(length and length >= 0, 'a pause must not be negative')

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local ends = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now + length)
redis.call('SET', KEYS[1], string.format('%.0f', ends), 'PX', math.ceil((ends - now) / 1000) + 1)
return 1
