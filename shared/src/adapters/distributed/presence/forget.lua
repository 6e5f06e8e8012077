#!lua flags=allow-oom
-- Drops the record of a pod that lapsed at least so long ago, unless it renewed meanwhile.
-- KEYS: pods, steady, claims
-- ARGV: pod, lapsed for at least ms
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lapses = redis.call('ZSCORE', KEYS[1], ARGV[1])
if lapses and now - lapses < tonumber(ARGV[2]) then
  return 0
end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
return 1
