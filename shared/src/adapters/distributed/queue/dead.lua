-- ARGV: how many, then when the letter died after which to go on and its id (or two empty texts).
-- Answers ids, newest first; of one millisecond the greater id first.
local many, died, id = tonumber(ARGV[1]), ARGV[2], ARGV[3]
if id == '' then return redis.call('ZREVRANGE', dead, 0, many - 1) end
local place = redis.call('ZREVRANK', dead, id)
if place and redis.call('ZSCORE', dead, id) == died then
  return redis.call('ZREVRANGE', dead, place + 1, place + many)
end
-- It is gone: from its millisecond on, without those that stood before it.
local after = {}
for _, other in ipairs(redis.call('ZREVRANGEBYSCORE', dead, died, '-inf', 'LIMIT', 0, many + DEAD_MAX)) do
  if #after == many then break end
  if other < id or redis.call('ZSCORE', dead, other) ~= died then after[#after + 1] = other end
end
return after
