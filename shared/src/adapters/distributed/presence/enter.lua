#!lua flags=allow-oom
-- Takes a client id in a room, unless somebody else holds it. `members`, `places` and `occupied` always agree: they are
-- written together, here, in leave.lua and in reap.lua, and nowhere else.
-- KEYS: members, places, occupied
-- ARGV: room, client, connection, user, pod, member's JSON, connection that may be taken over ('' = none)
-- Returns {'entered'} | {'replaced', holder's JSON} | {'held', holder's JSON}
local held, answer = redis.call('HGET', KEYS[1], ARGV[2]), {'entered'}
if held then
  local ok, holder = pcall(cjson.decode, held)
  if not ok or type(holder) ~= 'table' or not (holder.connection and holder.user_id and holder.pod) then
    return redis.error_reply('MALFORMED member ' .. ARGV[2])
  end
  -- The same connection again: its first answer was lost.
  if holder.connection ~= ARGV[3] then
    if holder.user_id ~= ARGV[4] and holder.connection ~= ARGV[7] then
      return {'held', held}
    end
    answer = {'replaced', held}
  end
  redis.call('ZREM', KEYS[2], table.concat({holder.pod, ARGV[1], ARGV[2], holder.connection}, ' '))
end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[6])
redis.call('ZADD', KEYS[2], 0, table.concat({ARGV[5], ARGV[1], ARGV[2], ARGV[3]}, ' '))
redis.call('ZADD', KEYS[3], 0, ARGV[1])
return answer
