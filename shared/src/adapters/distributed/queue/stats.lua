-- Answers {waiting, delayed, in flight, dead, ms that the first in line has waited, finished}.
local first = redis.call('ZRANGE', waiting, 0, 0, 'WITHSCORES')[2]
return {
  redis.call('ZCARD', waiting), redis.call('ZCARD', delayed), redis.call('ZCARD', leases), redis.call('ZCARD', dead),
  first and math.max(0, now - tonumber(first)) or 0, tonumber(redis.call('HGET', counters, 'finished') or 0),
}
