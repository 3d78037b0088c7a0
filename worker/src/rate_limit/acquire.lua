-- Reserves one request under a limit that all workers share (GCRA), by the clock of Redis.
--
-- KEYS[1]  theoretical arrival time of the next request, microseconds since 1970
-- KEYS[2]  pause: no request before this time, microseconds since 1970
-- KEYS[3]  sorted set of workers by the time they last asked
-- (all three share a hash tag, so that a cluster keeps them on one node)
-- ARGV[1]  microseconds between two requests at the current rate
-- ARGV[2]  burst: requests that may follow each other without a pause
-- ARGV[3]  horizon: a request further ahead than this many microseconds is not reserved
-- ARGV[4]  name of the worker that asks
-- ARGV[5]  microseconds after which a worker that did not ask counts as gone
--
-- Result   {granted 0 or 1, microseconds to wait, number of workers}
--   granted: the request is reserved and may be sent after the wait.
--   not granted: nothing was reserved; ask again after the wait.

assert(#KEYS == 3, 'acquire.lua takes 3 keys')
assert(#ARGV == 5, 'acquire.lua takes 5 arguments')
local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local horizon, gone = tonumber(ARGV[3]), tonumber(ARGV[5])
assert(interval and interval >= 1, 'interval must be at least 1 microsecond')
assert(burst and burst >= 1, 'burst must be at least 1')
assert(horizon and horizon >= 0, 'horizon must not be negative')
assert(gone and gone > 0, 'the time after which a worker is gone must be positive')

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
-- Numbers are written without exponent: the default would lose the last digits.
local function text(number) return string.format('%.0f', number) end

redis.call('ZADD', KEYS[3], text(now), ARGV[4])
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', text(now - gone))
redis.call('PEXPIRE', KEYS[3], math.ceil(gone / 1000))
local workers = redis.call('ZCARD', KEYS[3])

local pause = tonumber(redis.call('GET', KEYS[2]) or '0')
local arrival = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now)
local wait = math.max(arrival - (burst - 1) * interval, pause, now) - now
if wait > horizon then
  return {0, wait - horizon, workers}
end
-- After a pause the limit begins anew: what was paused is not caught up in a burst.
local next_arrival = math.max(arrival, pause) + interval
redis.call('SET', KEYS[1], text(next_arrival), 'PX', math.ceil((next_arrival - now) / 1000) + 1000)
return {1, wait, workers}
