#!lua flags=allow-oom
-- Invariant: what was spent in any stretch of one window is at most the limit, taking what was spent in the fixed window
-- before as spread evenly over it (a sliding counter: two numbers, whatever the limit).
-- KEYS counter (hash: w = number of the window, c = spent in it, p = spent in the one before).
-- ARGV limit, window (us). Returns {1 if let through else 0, what is left, us until it is known to be more}.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local limit, window = tonumber(ARGV[1]), tonumber(ARGV[2])
local index = math.floor(now / window)
local known = redis.call('HMGET', KEYS[1], 'w', 'c', 'p')
local at, current, previous = tonumber(known[1]) or -2, tonumber(known[2]) or 0, tonumber(known[3]) or 0
if at ~= index then
  previous = at == index - 1 and current or 0
  current = 0
end
local into = now - index * window
local used = current + previous * (window - into) / window
if used + 1 > limit then
  local wait
  if current + 1 <= limit then
    wait = window * (1 - (limit - 1 - current) / previous) - into
  else
    wait = window - into + window * (1 - (limit - 1) / current)
  end
  return { 0, 0, math.max(1, math.ceil(wait)) }
end
redis.call('HSET', KEYS[1], 'w', string.format('%.0f', index), 'c', current + 1, 'p', previous)
redis.call('PEXPIRE', KEYS[1], math.ceil(2 * window / 1000))
return { 1, math.floor(limit - used - 1), math.max(1, math.ceil(window - into)) }
