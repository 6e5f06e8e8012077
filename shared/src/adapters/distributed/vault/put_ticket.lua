#!lua flags=allow-oom
-- KEYS ticket. ARGV claims, milliseconds it may be taken.
return redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
