-- Answers {waiting, delayed, in flight, dead, ms that the first in line has waited, finished, finished lately}.
local lately = 0
for back = 0, 5 do lately = lately + tonumber(redis.call('GET', rate_key(back)) or 0) end
local first = redis.call('ZRANGE', waiting, 0, 0, 'WITHSCORES')[2]
return {
  redis.call('ZCARD', waiting), redis.call('ZCARD', delayed), redis.call('ZCARD', leases), redis.call('ZCARD', dead),
  first and math.max(0, now - tonumber(first)) or 0, tonumber(redis.call('HGET', counters, 'finished') or 0),
  lately,
}
