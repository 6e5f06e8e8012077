-- KEYS[1]: list of pieces (JSON); KEYS[2]: hash: attempt, dropped (pieces that are gone from the list's head), progress (JSON).
-- ARGV: channel, how long it is kept in ms, "begin" | "append" | "progress" | "end", attempt, piece or progress, most pieces.
-- Invariant: only the highest attempt that began speaks.
local pieces, meta = KEYS[1], KEYS[2]
local how, attempt = ARGV[3], tonumber(ARGV[4])
local speaks = tonumber(redis.call('HGET', meta, 'attempt') or 0)
if how == 'end' then
  redis.call('DEL', pieces, meta)
elseif how == 'begin' then
  if speaks > attempt then return 0 end
  redis.call('DEL', pieces, meta)
  redis.call('HSET', meta, 'attempt', ARGV[4])
  redis.call('PEXPIRE', meta, ARGV[2])
elseif how == 'progress' then
  if speaks ~= attempt then return 0 end
  redis.call('HSET', meta, 'progress', ARGV[5])
  redis.call('PEXPIRE', meta, ARGV[2])
else
  if speaks ~= attempt then return 0 end
  if redis.call('RPUSH', pieces, ARGV[5]) > tonumber(ARGV[6]) then
    redis.call('LPOP', pieces)
    redis.call('HINCRBY', meta, 'dropped', 1)
  end
  redis.call('PEXPIRE', pieces, ARGV[2])
  redis.call('PEXPIRE', meta, ARGV[2])
end
redis.call('PUBLISH', ARGV[1], '1')
return 1
