-- What a pod says of itself, until its lease is over; and what it adds to the totals, which stay.
-- KEYS reports (hash: pod -> "lapse time report"), totals (hash). ARGV pod, lease (ms), report, then name, amount …
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f ', now + tonumber(ARGV[2])) .. ARGV[3])
for i = 4, #ARGV, 2 do
  redis.call('HINCRBY', KEYS[2], ARGV[i], ARGV[i + 1])
end
return 1
