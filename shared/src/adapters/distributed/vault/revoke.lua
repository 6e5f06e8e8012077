#!lua flags=allow-oom
-- Invariant: the family is gone, marked and announced in one step; a mark is only ever prolonged.
-- KEYS family, replaced, revoked. ARGV until (us), forget at (ms), channel, family id. Returns whose it was.
local user = redis.call('HGET', KEYS[1], 'user')
redis.call('DEL', KEYS[1], KEYS[2])
local marked = redis.call('GET', KEYS[3])
if not marked or tonumber(marked) < tonumber(ARGV[1]) then
  redis.call('SET', KEYS[3], ARGV[1], 'PXAT', ARGV[2])
end
redis.call('PUBLISH', ARGV[3], ARGV[4])
return user
