-- The reports of pods whose lease runs, and the totals. A report that lapsed is forgotten.
-- KEYS reports, totals. Returns {{report …}, {name, total …}}.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local all, live = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #all, 2 do
  local lapses, report = string.match(all[i + 1], '^(%d+) (.*)$')
  if lapses and tonumber(lapses) > now then
    live[#live + 1] = report
  else
    redis.call('HDEL', KEYS[1], all[i])
  end
end
return { live, redis.call('HGETALL', KEYS[2]) }
