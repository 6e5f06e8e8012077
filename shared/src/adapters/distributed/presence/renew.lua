#!lua flags=allow-oom
-- A pod is alive for `lease_ms` from now, on this server's clock. Also keeps since when it has renewed steadily: with
-- no gap longer than half a lease (presence.rs says what for). A clock that steps is a gap too.
-- KEYS: pods (sorted set: pod by lapse time), steady (hash: pod -> "renewed since lease"), claims (sorted set)
-- ARGV: pod, lease_ms
-- Returns for how long it has renewed steadily, in milliseconds.
local time = redis.call('TIME')
local now, lease = time[1] * 1000 + math.floor(time[2] / 1000), tonumber(ARGV[2])
local since, known = now, redis.call('HGET', KEYS[2], ARGV[1])
if known then
  local renewed, steady = string.match(known, '^(%d+) (%d+) ')
  local gap = renewed and now - tonumber(renewed)
  if gap and gap >= 0 and gap <= lease / 2 then
    since = tonumber(steady)
  end
end
redis.call('HSET', KEYS[2], ARGV[1], string.format('%d %d %d', now, since, lease))
redis.call('ZADD', KEYS[1], now + lease, ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
return now - since
