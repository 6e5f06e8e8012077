-- ARGV: lease in ms, in-flight cap per tenant.
-- Answers {id, token, payload, tenant, attempts, max, enqueued, trace, lapses, cancelled}, or the milliseconds until something
-- is due at the latest (-1: nothing is delayed or leased).
-- Every loop is bounded by CHUNK, so that a mountain of due jobs never holds Redis up: who comes next goes on with it.
local cap = math.max(1, tonumber(ARGV[2]))

for _, id in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', int(now), 'LIMIT', 0, CHUNK)) do
  local f = redis.call('HMGET', job_key(id), 'tenant', 'attempts', 'max', 'place')
  if f[1] then
    free(id, f[1])
    redis.call('HINCRBY', job_key(id), 'lapses', 1)
    if tonumber(f[2]) >= tonumber(f[3]) then die(id, LEASE_LAPSED) else make_ready(id, f[4]) end
  else
    redis.call('ZREM', leases, id)
  end
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', delayed, '-inf', int(now), 'LIMIT', 0, CHUNK)) do
  redis.call('ZREM', delayed, id)
  if redis.call('EXISTS', job_key(id)) == 1 then make_ready(id) end
end

local looked = 0
while looked < CHUNK do
  looked = looked + 1
  local tenant = redis.call('ZPOPMIN', ring)[1]
  if not tenant then break end
  local ready = ready_key(tenant)
  if tonumber(redis.call('HGET', inflight, tenant) or 0) >= cap then
    if redis.call('EXISTS', ready) == 1 then redis.call('SADD', parked, tenant) end
  else
    local member = redis.call('ZPOPMIN', ready)[1]
    if member then
      local id = string.sub(member, 18)
      redis.call('ZREM', waiting, id)
      if redis.call('EXISTS', ready) == 1 then queue_turn(tenant) end
      local job = job_key(id)
      if redis.call('EXISTS', job) == 1 then
        -- A store that was emptied gives higher tokens than it ever gave before: the count starts at the clock.
        redis.call('HSETNX', counters, 'token', int(time[1] * 1000000 + time[2]))
        local token = redis.call('HINCRBY', counters, 'token', 1)
        local attempts = redis.call('HINCRBY', job, 'attempts', 1)
        redis.call('HSET', job, 'state', 'claimed', 'token', int(token))
        redis.call('ZADD', leases, int(now + tonumber(ARGV[1])), id)
        redis.call('HINCRBY', inflight, tenant, 1)
        local f = redis.call('HMGET', job, 'payload', 'max', 'enqueued', 'trace', 'lapses', 'cancelled')
        return { id, int(token), f[1], tenant, int(attempts), f[2], f[3], f[4], f[5] or '0', f[6] or '0' }
      end
    end
  end
end

if redis.call('EXISTS', ring) == 1 then return 0 end
local next_due = -1
for _, key in ipairs({ delayed, leases }) do
  local at = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]
  if at then
    local wait = math.max(0, tonumber(at) - now)
    if next_due < 0 or wait < next_due then next_due = wait end
  end
end
return next_due
