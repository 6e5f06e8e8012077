#!lua flags=allow-oom
-- Forgets a room, if it still is in this epoch, ends at this seq and is archived up to it.
-- KEYS: meta, log, dirty, ref buckets ...
-- ARGV: room, epoch, seq
-- Returns 1: forgotten.
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'seq', 'archived')
if not meta[1] or tonumber(meta[1]) ~= tonumber(ARGV[2]) then
  return 0
end
local seq = tonumber(ARGV[3])
if tonumber(meta[2]) ~= seq or tonumber(meta[3]) ~= seq then
  return 0
end
redis.call('SREM', KEYS[3], ARGV[1])
redis.call('UNLINK', KEYS[1], KEYS[2], unpack(KEYS, 4))
return 1
