-- Does somebody else than this person hold the name? Judged by the clock of Redis.
-- KEYS: holders of the name
-- ARGV: person
local now = redis.call('TIME')
local now_ms = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
local holders = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. string.format('%.0f', now_ms), '+inf', 'LIMIT', 0, 2)
for _, holder in ipairs(holders) do
  if holder ~= ARGV[1] then
    return 1
  end
end
return 0
