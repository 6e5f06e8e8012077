#!lua flags=allow-oom
-- A person changed: what is kept of the profile goes, and whoever is just reading it can't keep what they read.
-- KEYS: the profile, the number of its changes of late
-- ARGV: milliseconds for which the number is remembered
redis.call('DEL', KEYS[1])
local changes = redis.call('INCR', KEYS[2])
redis.call('PEXPIRE', KEYS[2], ARGV[1])
return changes
