#!lua flags=allow-oom
-- Invariant: of all callers that present the current token exactly one replaces it, and the others find it replaced; a
-- token that was replaced longer ago than the grace, or whose successor was replaced too, ends the family in the same
-- step that notices it.
-- KEYS family, replaced, revoked.
-- ARGV token, successor, now (us), grace (us), most replaced tokens kept, revoked until (us, at least), clock slack (ms),
-- channel, family id.
local found = redis.call('HMGET', KEYS[1], 'user', 'expires', 'current')
local user, expires, current = found[1], found[2], found[3]
local now = tonumber(ARGV[3])
if not user or tonumber(expires) <= now then
  return {'unknown'}
end
local slack = tonumber(ARGV[7])
if current == ARGV[1] then
  redis.call('HSET', KEYS[1], 'current', ARGV[2])
  redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
  redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -1 - tonumber(ARGV[5]))
  redis.call('PEXPIREAT', KEYS[2], math.floor(tonumber(expires) / 1000) + slack)
  return {'rotated', user, expires}
end
local replaced_at = redis.call('ZSCORE', KEYS[2], ARGV[1])
if not replaced_at then
  return {'unknown'}
end
if now - tonumber(replaced_at) < tonumber(ARGV[4]) and current == ARGV[2] then
  return {'grace', user, expires}
end
local till = ARGV[6]
if tonumber(expires) > tonumber(till) then
  till = expires
end
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('SET', KEYS[3], till, 'PXAT', math.floor(tonumber(till) / 1000) + slack)
redis.call('PUBLISH', ARGV[8], ARGV[9])
return {'reused', user, expires}
