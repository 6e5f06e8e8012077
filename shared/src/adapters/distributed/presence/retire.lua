#!lua flags=allow-oom
-- Ends a pod's lease now. Its record stays a while, as any lapsed pod's: should it have left members, they are reaped.
-- KEYS: pods, steady, claims
-- ARGV: pod
local time = redis.call('TIME')
redis.call('ZADD', KEYS[1], 'XX', time[1] * 1000 + math.floor(time[2] / 1000), ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
return 1
