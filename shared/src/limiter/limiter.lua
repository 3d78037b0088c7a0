-- The limit of one egress at one exchange, shared by all workers behind it.
--
-- Permits are slots at even distances (GCRA). Who asks stands in a queue, by class and then by the time
-- of its first ask, and is told when to come again: at its slot, but after LOOK at the latest, so that
-- whatever changed meanwhile holds for everybody. Who is late is passed over until it comes. Nothing is
-- granted ahead, so pauses, cuts and an operator's word need to revoke nothing.
--
-- Times are microseconds since 1970 by the clock of Redis, rates are requests per minute.
--
-- KEYS     state, workers, queue, due, flight, sends: they share a hash tag, so that a cluster keeps
--          them on one node
--   state    hash: settings, rate, what was learnt, pauses, breaker
--   workers  sorted set: worker by the time it last asked
--   queue    sorted set: waiter (worker and class) by class and time of its first ask
--   due      sorted set: waiter by the time for which it was told to come
--   flight   sorted set: permit by the time when it counts as lost
--   sends    sorted set: permit by the time when it was sent, for the last window
-- ARGV[1]  operation: acquire, finish, show, control
-- ARGV[2]  now; 0: by the clock of Redis
-- ARGV[3]  arguments as JSON, see the operations
--
-- Results are told at each operation. Times in them are relative: they stay small and exact.

local MINUTE = 60000000
local DAY = 86400000000
-- A permit is given out at most so long before its slot, which hides the round trip; those on the way
-- to their slot count as in flight. At 200 requests per minute that is never more than one.
local AHEAD = 50000
-- Longest time for which a waiter does not look again.
local LOOK = 1000000
-- Who comes later than this is passed over; on a slow way to Redis that is everybody, and each keeps its
-- place. Up to it a slot keeps its time, or every hiccup of a worker would cost capacity.
local LATE = 250000
-- Who did not come for so long has lost its place.
local LOST = 5000000
-- A worker that did not ask for so long is gone.
local GONE = MINUTE
-- The rate settles at this part of the limit that was found: in a window of n requests, sent at even
-- distances, there is then room for requests that arrive late, and 98 % of the limit is used.
local SETTLE = 0.985
-- The memory is lowered by this part if a rate just below it is refused, by twice as much each further
-- time within RUN windows: more seldom it is chance.
local FIRST_STEP, LAST_STEP, RUN = 0.015, 0.25, 5
-- Of a full window this part is added before a send counts as gone from it.
local WINDOW_SLACK = 0.005
-- How long the breaker stays open at first and at last: well below the time between two batches, so that
-- each of them has a request that tries.
local FIRST_OPENING, LAST_OPENING = 30000000, 300000000
-- Two refusals at counts that differ by less than this part tell of the same limit.
local ALIKE = 0.05
-- Longest pause of our own making, after refusals that do not say how long.
local LAST_PAUSE = 300000000
-- The least that a refusal costs, whatever it says.
local FIRST_PAUSE = 1000000
-- Sends that are remembered at most: above this the count is no longer exact, which only matters at
-- rates that no exchange allows.
local MAX_SENDS = 20000
-- Permits that one call gives at most. More than one only at rates at which their slots lie within AHEAD.
local MOST = 32
-- Outcomes that one call tells at most.
local MOST_OUTCOMES = 1000
-- Stands for no end.
local FOREVER = 9000000000000000
local CLASSES = {high = 0, normal = 1, low = 2}
local OUTCOMES = {ok = true, refused = true, failed = true, neutral = true, unused = true}
-- Between two classes in the score of the queue; more than any time.
local CLASS_STEP = 2000000000000000

assert(#KEYS == 6, 'limiter.lua takes 6 keys')
assert(#ARGV == 3, 'limiter.lua takes 3 arguments')
local STATE, WORKERS, QUEUE, DUE, FLIGHT, SENDS = unpack(KEYS)
local now = tonumber(ARGV[2])
assert(now and now >= 0, 'the time must not be negative')
if now == 0 then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000000 + tonumber(time[2])
end
local args = cjson.decode(ARGV[3])

-- Numbers are written in full: the default would lose the last digits.
local function text(number) return string.format('%.17g', number) end

local function number(from, name, least, most)
  local value = from[name]
  assert(type(value) == 'number', name .. ' must be a number')
  assert(value >= least and value <= most, name .. ' is out of range')
  return value
end

-- A number that may be left out.
local function optional(from, name, least, most)
  if from[name] == nil or from[name] == cjson.null then return nil end
  return number(from, name, least, most)
end

local function name(from, field)
  local value = from[field]
  assert(type(value) == 'string' and value ~= '', field .. ' must be a name')
  return value
end

local state, stored = {}, {}
do
  local fields = redis.call('HGETALL', STATE)
  for i = 1, #fields, 2 do
    local value = tonumber(fields[i + 1])
    state[fields[i]], stored[fields[i]] = value, value
  end
end
-- A field that was never written is 0.
local s = setmetatable({}, {__index = function(_, field) return state[field] or 0 end, __newindex = state})

local is_new = next(state) == nil
-- Should the clock of Redis be set back, nothing waits for what was the future.
local TIMES = {
  'arrival', 'pause_until', 'held_until', 'open_until', 'probe_until', 'cut_at', 'raised_at', 'limit_at',
  'limit_until', 'low_at', 'opened_at',
}
if s.seen > now + LOOK then
  for _, field in ipairs(TIMES) do
    if s[field] > 0 and s[field] < FOREVER then s[field] = math.max(1, s[field] - (s.seen - now)) end
  end
  redis.call('DEL', WORKERS, QUEUE, DUE, FLIGHT, SENDS)
end
s.seen = now

local function save()
  local fields = {}
  for field, value in pairs(state) do
    if value ~= stored[field] then
      fields[#fields + 1] = field
      fields[#fields + 1] = text(value)
    end
  end
  if #fields > 0 then redis.call('HSET', STATE, unpack(fields)) end
  -- A pause must not be forgotten before its end, except one without end that nobody asks about.
  local longest = math.max(s.pause_until, s.held_until, s.open_until) - now
  local keep = DAY + math.min(math.max(longest, 0), 30 * DAY)
  for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, text(math.ceil(keep / 1000))) end
end

local function floor() return s.set_floor > 0 and s.set_floor or s.floor end
local function ceiling() return s.set_ceiling > 0 and s.set_ceiling or s.ceiling end
local function clamp(rate) return math.max(floor(), math.min(ceiling(), rate)) end
local function interval() return MINUTE / s.rate end
local function has_memory() return s.limit_until > now end

-- The settings of the worker that started last hold for all: while a fleet is replaced, old and new
-- ones do not set them to and fro. Another initial rate is a new start.
local function adopt(settings)
  -- In milliseconds, by the clock of the worker: should it be ahead, what it sets holds for as long as it runs, and
  -- not until its future has come.
  local now_ms = math.floor(now / 1000)
  local started = math.min(number(settings, 'started', 1, FOREVER), now_ms)
  s.started = math.min(s.started, now_ms)
  local known_rate = number(settings.known, 'rate_milli', 0, 1000000000) / 1000
  local known_limit = number(settings.known, 'limit_milli', 0, 1000000000) / 1000
  local known_for = number(settings.known, 'limit_left', 0, 30 * DAY)
  local blocked_for = number(settings.known, 'blocked', 0, 30 * DAY)
  if started > s.started then
    local differs = false
    local function set(field, least, most)
      local value = number(settings, field, least, most)
      if s[field] ~= value then s[field], differs = value, true end
    end
    local former = s.initial
    set('initial', 1, 1000000)
    set('floor', 1, 1000000)
    set('ceiling', s.floor, 1000000)
    set('burst', 1, 1000)
    set('max_in_flight', 1, 10000)
    set('window', 1000000, DAY)
    set('backoff', 0.01, 0.99)
    set('memory', 0, 30 * DAY)
    set('permit_life', 1000000, DAY)
    set('breaker_failures', 1, 10000)
    if former > 0 and former ~= s.initial then s.rate = s.initial end
    s.started = started
    if differs then s.raised_at = math.max(s.raised_at, now) end
  end
  -- After Redis lost everything the fleet goes on with what it knew.
  if s.rate == 0 then
    s.rate = known_rate > 0 and known_rate or s.initial
    if known_limit > 0 then s.limit, s.limit_at, s.limit_until = known_limit, now, now + known_for end
    if blocked_for > 0 then s.pause_until = now + blocked_for end
  end
  if has_memory() then s.rate = math.min(s.rate, s.limit * SETTLE) end
  s.rate = clamp(s.rate)
end

-- After a pause the limit begins anew: what was paused is not caught up in a burst.
local function begin_after(time)
  s.arrival = time + (s.burst - 1) * interval()
end

-- At a new rate, or sooner than it was to be: what was sent keeps its distance.
local function begin_now()
  if s.rate == 0 then return end
  local last = redis.call('ZRANGE', SENDS, -1, -1, 'WITHSCORES')
  begin_after(last[2] and math.max(now, tonumber(last[2]) + interval()) or now)
end

-- Quiet time raises the rate: while a limit is remembered quickly up to just below it and no further,
-- else slowly. One step at a time, and only as requests are sent: idle time is no evidence.
local function raise()
  local quiet = now - s.raised_at
  if has_memory() then
    local target = clamp(s.limit * SETTLE)
    local gap = target - s.rate
    if gap > 0 and quiet >= s.window / 6 then
      s.rate = gap < target / 100 and target or s.rate + gap / 4
      s.raised_at = now
    end
  elseif quiet >= s.window / 4 then
    s.rate = clamp(s.rate * 1.05)
    s.raised_at = now
  end
end

-- Microseconds from now, as a whole number: bounded.
local function left(time) return math.ceil(math.max(0, math.min(time - now, 30 * DAY))) end

-- What is to be known should Redis go away or lose everything: for how many microseconds nothing may be
-- sent, rate and limit in thousandths, and for how many microseconds more the limit is remembered.
local function known()
  local blocked, rate = left(math.max(s.pause_until, s.held_until, s.open_until)), math.floor(s.rate * 1000)
  if not has_memory() then return blocked, rate, 0, 0 end
  return blocked, rate, math.floor(s.limit * 1000), left(s.limit_until)
end

-- With a memory even a cut, when the window is still full, never lets it hold more than the limit.
local function window_is_free_at()
  if not has_memory() then return 0 end
  local most = math.max(1, math.floor(s.limit * s.window / MINUTE + 0.5))
  local oldest = redis.call('ZRANGE', SENDS, -most, -most, 'WITHSCORES')
  return oldest[2] and tonumber(oldest[2]) + s.window * (1 + WINDOW_SLACK) or 0
end

local function is_full(step)
  return redis.call('ZCARD', FLIGHT) >= s.max_in_flight + math.floor(AHEAD / step)
end

-- Gives a permit for a slot; its number, and the microseconds to wait before its use.
local function give(slot)
  -- Numbers of permits begin with the time, so that none comes twice after Redis lost everything.
  s.permit = (s.permit > 0 and s.permit or math.floor(now / 1000)) + 1
  local permit, at = text(s.permit), math.max(slot, now)
  s.arrival = math.max(s.arrival, slot) + interval()
  redis.call('ZADD', FLIGHT, text(at + s.permit_life), permit)
  redis.call('ZADD', SENDS, text(at), permit)
  return s.permit, math.ceil(at - now)
end

-- {permit, microseconds to wait before use, workers, known}, then as many as `more` further permits with
-- their waits: only if nobody waits for them, as if they were asked for one after the other
-- {0, microseconds after which to ask again, workers, known}
local function acquire()
  adopt(args.settings)
  local more = math.min(optional(args, 'more', 0, MOST) or 0, MOST - 1)
  local worker, class = name(args, 'worker'), CLASSES[args.class]
  assert(class, 'unknown class')
  local waiter = worker .. ':' .. args.class
  redis.call('ZADD', WORKERS, text(now), worker)
  redis.call('ZREMRANGEBYSCORE', WORKERS, '-inf', text(now - GONE))
  redis.call('ZREMRANGEBYSCORE', FLIGHT, '-inf', text(now))
  redis.call('ZREMRANGEBYSCORE', SENDS, '-inf', text(now - math.max(2 * s.window, MINUTE)))
  local due = tonumber(redis.call('ZSCORE', DUE, waiter) or now)
  for _, lost in ipairs(redis.call('ZRANGEBYSCORE', DUE, '-inf', text(now - LOST))) do
    redis.call('ZREM', QUEUE, lost)
    redis.call('ZREM', DUE, lost)
  end
  redis.call('ZADD', QUEUE, 'NX', text(class * CLASS_STEP + now), waiter)
  local place = redis.call('ZRANK', QUEUE, waiter)
  local rank = place
  for _, late in ipairs(redis.call('ZRANGEBYSCORE', DUE, '-inf', '(' .. text(now - LATE))) do
    if redis.call('ZRANK', QUEUE, late) < place then rank = rank - 1 end
  end
  -- A slot that was waited for keeps its time although the waiter comes a little late.
  local free_from = math.max(now - LATE, math.min(now, due))

  local step = interval()
  local token = s.arrival - (s.burst - 1) * step
  -- The low class leaves a token to the others: where there is but one it waits for a second, and alone
  -- it gets half of the rate.
  if class == CLASSES.low then token = token + step end
  local slot = math.max(token, free_from, s.pause_until, s.held_until, s.open_until)
  slot = math.max(slot, window_is_free_at())
  local must_wait = is_full(step)
  if must_wait then
    -- The oldest should be done after the time that requests take, and then one after the other.
    local oldest = redis.call('ZRANGE', FLIGHT, 0, 0, 'WITHSCORES')
    slot = math.max(slot, tonumber(oldest[2]) - s.permit_life + s.latency, now + 5000)
    step = math.max(step, s.latency / s.max_in_flight)
  end
  slot = slot + rank * step

  local come
  -- Also for who comes a little before its slot.
  local is_half_open = s.open_until > 0 and math.max(slot, now) >= s.open_until
  if is_half_open and s.probe_until > now then
    come = now + LOOK
  elseif must_wait then
    come = slot
  elseif rank > 0 or slot > now + AHEAD then
    come = math.max(slot - AHEAD / 2, now + (rank > 0 and 2000 or 1000))
  end
  local workers = redis.call('ZCARD', WORKERS)
  if come then
    come = math.min(come, now + LOOK)
    redis.call('ZADD', DUE, text(come), waiter)
    save()
    return {0, math.ceil(come - now), workers, known()}
  end

  raise()
  redis.call('ZREM', QUEUE, waiter)
  redis.call('ZREM', DUE, waiter)
  local permit, wait = give(slot)
  if is_half_open then s.probe, s.probe_until = permit, now + s.permit_life end
  local others = {}
  if more > 0 and not is_half_open and class ~= CLASSES.low and redis.call('ZCARD', QUEUE) == 0 then
    while #others < 2 * more do
      slot = math.max(s.arrival - (s.burst - 1) * interval(), now, window_is_free_at())
      if slot > now + AHEAD or is_full(interval()) then break end
      others[#others + 1], others[#others + 2] = give(slot)
    end
  end
  redis.call('ZREMRANGEBYRANK', SENDS, 0, -MAX_SENDS - 1)
  save()
  local blocked, rate, limit, limit_left = known()
  return {permit, wait, workers, blocked, rate, limit, limit_left, unpack(others)}
end

-- Requests per minute in the window before `time`.
local function rate_before(time)
  local count = redis.call('ZCOUNT', SENDS, '(' .. text(time - s.window), '(' .. text(time))
  return count * MINUTE / s.window
end

-- The first refusal after a success: the rate is cut, and what was refused is remembered.
local function cut(sent, retry_after)
  local lowered = s.rate * s.backoff
  local limit = math.max(rate_before(sent), lowered)
  local since_cut = now - s.cut_at
  s.rate = clamp(lowered)
  s.cut_at = now
  if has_memory() and limit <= s.limit * (1 - 2 * FIRST_STEP) then
    -- Far below what is remembered. By chance, for one request was refused whatever the rate; or the limit
    -- was lowered: then the next refusal comes at the same count.
    local is_second = math.abs(limit - s.low) <= ALIKE * s.low and now - s.low_at <= s.memory
    s.low, s.low_at = limit, now
    if not is_second then return end
    s.limit_step = FIRST_STEP
  elseif has_memory() then
    -- What was counted does not explain it: another limit, or requests that came late.
    local is_run = since_cut <= RUN * s.window
    s.limit_step = is_run and math.min(s.limit_step * 2, LAST_STEP) or FIRST_STEP
    limit = math.min(limit, s.limit * (1 - s.limit_step))
  else
    s.limit_step = FIRST_STEP
  end
  -- A window that was not filled yet, and an exchange that takes requests again sooner than the window
  -- could have moved: it counts otherwise, and the count proves little.
  local oldest = redis.call('ZRANGEBYSCORE', SENDS, '(' .. text(sent - s.window), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  local covered = oldest[2] and sent - tonumber(oldest[2]) or 0
  local is_weak = covered < 0.75 * s.window
  if retry_after then is_weak = 2 * retry_after < s.window - covered end
  s.limit = math.max(floor(), limit)
  s.limit_at = now
  s.limit_until = now + s.memory * (is_weak and 0.1 or 1)
end

local function refuse(sent, retry_after)
  local is_witness = sent <= s.cut_at
  if is_witness then
    -- It was on the way when another's refusal was told. Of several the first one knows best.
    local is_believed = has_memory() and s.limit_at == s.cut_at
    if is_believed then s.limit = math.min(s.limit, math.max(rate_before(sent), s.rate / SETTLE, floor())) end
  else
    if s.refusals == 0 then cut(sent, retry_after) end
    s.refusals = s.refusals + 1
  end
  -- Refused again and again without a success: it wants longer pauses. Where it says how long, not much
  -- longer than that.
  local short = math.max(s.window / 6, FIRST_PAUSE)
  local first, last = short, LAST_PAUSE
  if retry_after then first, last = FIRST_PAUSE, short end
  local pause = math.min(first * 2 ^ math.max(s.refusals - 1, 0), last)
  s.pause_until = math.max(s.pause_until, now + math.max(pause, retry_after or 0))
  s.raised_at = s.pause_until
  begin_after(s.pause_until)
end

local function fail(is_probe)
  s.failures = s.failures + 1
  local is_run = s.open_until == 0 and s.failures >= s.breaker_failures
  if is_run or is_probe then
    s.openings = s.openings + 1
    s.opened_at = now
    s.open_until = now + math.min(FIRST_OPENING * 2 ^ (s.openings - 1), LAST_OPENING)
    begin_after(s.open_until)
  end
end

-- A permit that is not known any more, after Redis lost everything, still tells its outcome.
local function finish_one(told)
  local permit = number(told, 'permit', 1, FOREVER)
  local outcome = name(told, 'outcome')
  assert(OUTCOMES[outcome], 'unknown outcome')
  local retry_after = optional(told, 'retry_after', 0, 30 * DAY)
  local member = text(permit)
  local lost_at = tonumber(redis.call('ZSCORE', FLIGHT, member) or 0)
  local sent = lost_at > 0 and lost_at - s.permit_life or tonumber(redis.call('ZSCORE', SENDS, member) or 0)
  redis.call('ZREM', FLIGHT, member)
  local is_probe = s.probe == permit
  if is_probe then s.probe, s.probe_until = 0, 0 end
  if lost_at > 0 and (outcome == 'ok' or outcome == 'refused') then
    s.latency = s.latency + (math.max(now - sent, 0) - s.latency) / 5
  end
  if outcome == 'unused' then
    if redis.call('ZRANGE', SENDS, -1, -1)[1] == member then s.arrival = s.arrival - interval() end
    redis.call('ZREM', SENDS, member)
  elseif outcome == 'ok' then
    s.failures = 0
    if sent > s.cut_at then s.refusals = 0 end
    if is_probe then s.openings, s.open_until = 0, 0 end
  elseif outcome == 'refused' then
    refuse(sent, retry_after)
    fail(is_probe)
  elseif outcome == 'failed' then
    -- Away for a while, as it says; that is nobody's rate.
    if retry_after then
      s.pause_until = math.max(s.pause_until, now + retry_after)
      begin_after(s.pause_until)
    end
    fail(is_probe)
  end
end

-- 1: taken, in their order.
local function finish()
  adopt(args.settings)
  assert(type(args.told) == 'table' and #args.told <= MOST_OUTCOMES, 'told must be a list that is not too long')
  for _, told in ipairs(args.told) do finish_one(told) end
  save()
  return 1
end

-- JSON, for a worker by its settings; empty: nobody asked for a day. A pause longer than 30 days is told as 30 days.
local function show()
  if args.settings then
    adopt(args.settings)
    save()
  end
  if is_new and not args.settings then return '' end
  local breaker = 'closed'
  if s.open_until > 0 then breaker = now < s.open_until and 'open' or 'half_open' end
  return cjson.encode({
    rate = s.rate,
    floor = floor(),
    ceiling = ceiling(),
    limit = has_memory() and s.limit or cjson.null,
    limit_age = has_memory() and left(2 * now - s.limit_at) or cjson.null,
    pause = left(math.max(s.pause_until, s.held_until)),
    is_held = s.held_until > now,
    breaker = breaker,
    open = left(s.open_until),
    since_opened = s.opened_at > 0 and left(2 * now - s.opened_at) or cjson.null,
    openings = s.openings,
    failures = s.failures,
    refusals = s.refusals,
    workers = redis.call('ZCOUNT', WORKERS, text(now - GONE), '+inf'),
    waiting = redis.call('ZCOUNT', DUE, text(now - LATE), '+inf'),
    in_flight = redis.call('ZCOUNT', FLIGHT, '(' .. text(now), '+inf'),
    max_in_flight = s.max_in_flight,
    -- The settings may keep a shorter window than a minute; this is what it says.
    sent = redis.call('ZCOUNT', SENDS, '(' .. text(now - MINUTE), text(now)),
  })
end

-- '': done, or would be; else why not. What an operator sets holds until it is set again or all is forgotten.
local function control()
  local what = name(args, 'what')
  if what == 'pause' then
    s.held_until = now + (optional(args, 'length', 0, 366 * DAY) or FOREVER - now)
  elseif what == 'resume' then
    s.held_until, s.pause_until, s.refusals = 0, 0, 0
    s.failures, s.openings, s.open_until, s.probe, s.probe_until = 0, 0, 0, 0, 0
    begin_now()
  else
    assert(what == 'set', 'unknown control')
    local rate = optional(args, 'rate', 1, 1000000)
    local low = optional(args, 'floor', 1, 1000000) or floor()
    local high = optional(args, 'ceiling', 1, 1000000) or ceiling()
    if high > 0 and low > high then
      return string.format('the floor %g would be above the ceiling %g', low, high)
    end
    if rate and (rate < low or high > 0 and rate > high) then
      return string.format('the rate %g is not between the floor %g and the ceiling %g', rate, low, high)
    end
    if args.floor then s.set_floor = low end
    if args.ceiling then s.set_ceiling = high end
    -- Whoever sets the rate knows better than what was remembered.
    if rate then s.rate, s.limit_until, s.raised_at = rate, 0, now end
    -- A floor above what was remembered says the same.
    if has_memory() and low > s.limit * SETTLE then s.limit_until = 0 end
    if s.rate > 0 and high > 0 then s.rate = clamp(s.rate) end
    begin_now()
  end
  if not args.is_trial then save() end
  return ''
end

local operations = {acquire = acquire, finish = finish, show = show, control = control}
local operation = operations[ARGV[1]]
assert(operation, 'unknown operation')
return operation()
