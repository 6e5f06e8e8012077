#!lua flags=allow-oom
-- Bars refs that are not stored: until their bucket expires append.lua stores them for no older connection. What is stored
-- stays so. A bar lies where the ref's seq would, as '!' and the connection, and gives way to it.
-- KEYS: meta, bucket for new refs, other buckets to look refs up in ...
-- ARGV: room, epoch, seen, seconds a bucket lives, then for each ref its field and the connection
-- Returns {'ok', seq or 0 ...} | {'not_seeded'} | {'epoch', meta ...} | {'behind', meta ...}
local FIRST_REF = 5
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'seq', 'archived', 'trimmed', 'role_version', 'seeded_at', 'seeded_seq')
if not meta[1] then
  return {'not_seeded'}
end
if meta[1] ~= ARGV[2] then
  return {'epoch', unpack(meta)}
end
local seq = tonumber(meta[2])
if not seq then
  return redis.error_reply('MALFORMED head of room ' .. ARGV[1])
end
if seq < tonumber(ARGV[3]) then
  return {'behind', unpack(meta)}
end
local answer, bars = {'ok'}, {}
for at = FIRST_REF, #ARGV, 2 do
  local ref, known, latest = ARGV[at], nil, '!' .. ARGV[at + 1]
  for bucket = 2, #KEYS do
    local found = redis.call('HGET', KEYS[bucket], ref)
    if found and string.sub(found, 1, 1) == '!' then
      latest = found > latest and found or latest
    else
      known = known or found
    end
  end
  if known and not tonumber(known) then
    return redis.error_reply('MALFORMED ref of room ' .. ARGV[1])
  end
  answer[#answer + 1] = tonumber(known or 0)
  if not known and not (bars[ref] and bars[ref] > latest) then
    bars[ref] = latest
  end
end
if next(bars) then
  for ref, bar in pairs(bars) do
    redis.call('HSET', KEYS[2], ref, bar)
  end
  redis.call('EXPIRE', KEYS[2], ARGV[4], 'NX')
end
return answer
