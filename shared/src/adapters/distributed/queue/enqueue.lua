-- ARGV: id, payload, tenant, priority, delay in ms, max attempts, traceparent, "1" = again if running.
-- Invariant: one live job per id.
local id, due = ARGV[1], now + tonumber(ARGV[5])
local state = redis.call('HGET', job_key(id), 'state')
if state == 'claimed' and ARGV[8] == '1' then
  redis.call('HSET', job_key(id), 'again',
    cmsgpack.pack({ ARGV[2], ARGV[3], ARGV[4], ARGV[6], ARGV[7], int(due) }))
  return 'again'
end
if state then return 'known' end
if redis.call('ZCARD', waiting) + redis.call('ZCARD', delayed) >= DEPTH_MAX then return 'full' end
add(id, ARGV[2], ARGV[3], ARGV[4], ARGV[6], ARGV[7], due)
return 'added'
