#!lua flags=allow-oom
-- KEYS: one beat of the clock. ARGV: milliseconds it is remembered. Returns 1 for the first that claims it, else 0.
return redis.call('SET', KEYS[1], 1, 'NX', 'PX', ARGV[1]) and 1 or 0
