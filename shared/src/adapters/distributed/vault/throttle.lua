#!lua flags=allow-oom
-- Invariant: within any window at most `limit` tries are let through; the list holds their times (us), oldest first, and
-- never more than were let through.
-- KEYS tries. ARGV limit, window (us). Returns 0 if let through, else how long to wait (us).
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local limit, window = tonumber(ARGV[1]), tonumber(ARGV[2])
while true do
  local first = redis.call('LINDEX', KEYS[1], 0)
  if not first or tonumber(first) > now - window then
    break
  end
  redis.call('LPOP', KEYS[1])
end
local tries = redis.call('LLEN', KEYS[1])
if tries < limit then
  redis.call('RPUSH', KEYS[1], string.format('%.0f', now))
  redis.call('PEXPIRE', KEYS[1], math.ceil(window / 1000))
  return 0
end
-- There is room again when this one has left the window.
local blocking = redis.call('LINDEX', KEYS[1], tries - limit)
if not blocking then
  return window
end
return math.max(1, tonumber(blocking) + window - now)
