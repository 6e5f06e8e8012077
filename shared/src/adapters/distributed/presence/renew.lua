#!lua flags=allow-oom
-- A pod is alive for `lease_ms` from now, on this server's clock. Also keeps since when it has renewed steadily: with
-- no gap longer than half a lease (presence.rs says what for). A clock that steps is a gap too, and so is another server, or
-- this one in another life: it may have come back with what it held a while ago.
-- KEYS: pods (sorted set: pod by lapse time), steady (hash: pod -> "renewed since lease server"), claims (sorted set)
-- ARGV: pod, lease_ms
-- Returns for how long it has renewed steadily, in milliseconds.
local time = redis.call('TIME')
local now, lease = time[1] * 1000 + math.floor(time[2] / 1000), tonumber(ARGV[2])
local since, known = now, redis.call('HGET', KEYS[2], ARGV[1])
local told, info = pcall(redis.call, 'INFO', 'server')
local server = told and type(info) == 'string' and string.match(info, 'run_id:(%w+)') or ''
if known then
  local renewed, steady, before = string.match(known, '^(%d+) (%d+) %d+ ?(%w*)$')
  local gap = renewed and before == server and now - tonumber(renewed)
  if gap and gap >= 0 and gap <= lease / 2 then
    since = tonumber(steady)
  end
end
redis.call('HSET', KEYS[2], ARGV[1], string.format('%d %d %d %s', now, since, lease, server))
redis.call('ZADD', KEYS[1], now + lease, ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
return now - since
