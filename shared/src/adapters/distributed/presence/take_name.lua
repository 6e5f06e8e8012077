-- Holds a name for one person until ttl from now on, if nobody else holds it. Judged by the clock of Redis.
-- KEYS: holders of the name (as in hold_name.lua)
-- ARGV: person, ttl_ms (more than 0)
-- Returns 1, or 0: somebody else holds it.
local now = redis.call('TIME')
local now_ms = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now_ms)
for _, holder in ipairs(redis.call('ZRANGE', KEYS[1], 0, 1)) do
  if holder ~= ARGV[1] then
    return 0
  end
end
redis.call('ZADD', KEYS[1], 'GT', now_ms + tonumber(ARGV[2]), ARGV[1])
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', last[2]))
return 1
