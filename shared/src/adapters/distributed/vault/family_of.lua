#!lua flags=no-writes
-- Invariant: the token is judged against one moment of the family (a rotation moves it from `current` to `replaced`).
-- KEYS family, replaced. ARGV token, now (us).
local found = redis.call('HMGET', KEYS[1], 'user', 'expires', 'current')
if not found[1] or tonumber(found[2]) <= tonumber(ARGV[2]) then
  return false
end
if found[3] == ARGV[1] or redis.call('ZSCORE', KEYS[2], ARGV[1]) then
  return {found[1], found[2]}
end
return false
