-- ARGV: id. Answers 'marked', 'out' or 'unknown'.
local id = ARGV[1]
local f = redis.call('HMGET', job_key(id), 'state', 'tenant', 'place')
if not f[1] then return 'unknown' end
if f[1] == 'claimed' then
  redis.call('HSET', job_key(id), 'cancelled', '1')
  redis.call('HDEL', job_key(id), 'again')
  -- The holder looks at its mark when the waker moves.
  wake()
  return 'marked'
end
if f[1] == 'waiting' then
  redis.call('ZREM', waiting, id)
  redis.call('ZREM', ready_key(f[2]), f[3] .. ':' .. id)
  if redis.call('EXISTS', ready_key(f[2])) == 0 then
    redis.call('ZREM', ring, f[2])
    redis.call('SREM', parked, f[2])
  end
else
  redis.call('ZREM', delayed, id)
end
redis.call('DEL', job_key(id))
return 'out'
