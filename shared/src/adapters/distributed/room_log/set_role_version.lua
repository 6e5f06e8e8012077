#!lua flags=allow-oom
-- Raises the role version of a loaded room, never lowers it. Fencing must work when memory is full, hence the flag.
-- KEYS: meta
-- ARGV: role_version
local known = redis.call('HGET', KEYS[1], 'role_version')
if known and tonumber(known) and tonumber(known) < tonumber(ARGV[1]) then
  redis.call('HSET', KEYS[1], 'role_version', ARGV[1])
end
return 1
