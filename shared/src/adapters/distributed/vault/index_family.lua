#!lua flags=allow-oom
-- Invariant: a person's index names every family of theirs that has not ended (it is written before the family). What is
-- over is forgotten here; returns those beyond the bound, the first to end first, for the caller to revoke and unlist.
-- KEYS index. ARGV family id, expires (us), most families, clock slack (ms).
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local slack = tonumber(ARGV[4])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - slack * 1000)
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
redis.call('PEXPIREAT', KEYS[1], math.floor(tonumber(last[2]) / 1000) + slack)
local excess = redis.call('ZCARD', KEYS[1]) - tonumber(ARGV[3])
if excess <= 0 then
  return {}
end
return redis.call('ZRANGE', KEYS[1], 0, excess - 1)
