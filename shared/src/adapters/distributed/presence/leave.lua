#!lua flags=allow-oom
-- Removes a member, if this connection still holds the place: of several who try, one succeeds.
-- KEYS: members, places, occupied
-- ARGV: room, client, connection
-- Returns the removed member's JSON, or nil.
local held = redis.call('HGET', KEYS[1], ARGV[2])
if not held then
  return nil
end
local ok, holder = pcall(cjson.decode, held)
if not ok or type(holder) ~= 'table' or not holder.pod then
  return redis.error_reply('MALFORMED member ' .. ARGV[2])
end
if holder.connection ~= ARGV[3] then
  return nil
end
redis.call('HDEL', KEYS[1], ARGV[2])
redis.call('ZREM', KEYS[2], table.concat({holder.pod, ARGV[1], ARGV[2], ARGV[3]}, ' '))
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('ZREM', KEYS[3], ARGV[1])
end
return held
