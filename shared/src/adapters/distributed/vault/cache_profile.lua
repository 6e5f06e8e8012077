#!lua flags=allow-oom
-- Keeps a profile, unless the person changed since its reader asked.
-- KEYS: the profile, the number of its changes of late
-- ARGV: the number that its reader saw, the profile, milliseconds to keep it
-- Returns 1, or 0: it changed.
if (redis.call('GET', KEYS[2]) or '0') ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
