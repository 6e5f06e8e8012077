#!lua flags=allow-oom
-- Overwrites a member, if the same connection of the same pod still holds the place.
-- KEYS: members
-- ARGV: client, connection, pod, member's JSON
-- Returns 1: overwritten.
local held = redis.call('HGET', KEYS[1], ARGV[1])
if not held then
  return 0
end
local ok, holder = pcall(cjson.decode, held)
if not ok or type(holder) ~= 'table' then
  return redis.error_reply('MALFORMED member ' .. ARGV[1])
end
if holder.connection ~= ARGV[2] or holder.pod ~= ARGV[3] then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[4])
return 1
