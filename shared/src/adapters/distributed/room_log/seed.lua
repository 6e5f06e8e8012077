#!lua flags=allow-oom
-- Starts a log, unless there is one of this epoch or a later one. Nothing of a lower epoch stays: neither its tail nor
-- its refs, which may name entries that were lost. Opening a room to read it must work when memory is full: hence the flag.
-- It is noted on which server, in which of its lives: see unbroken.lua.
-- KEYS: meta, log, dirty, ref buckets ...
-- ARGV: room, channel, epoch, seq, role_version, now_ms, signal to publish where a lower epoch was replaced
-- Returns meta as it is afterwards.
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'role_version')
local epoch, role_version = tonumber(meta[1] or 0), tonumber(meta[2] or 0)
if not (epoch and role_version) then
  return redis.error_reply('MALFORMED head of room ' .. ARGV[1])
end
if role_version < tonumber(ARGV[5]) then
  role_version = tonumber(ARGV[5])
end
if not meta[1] or epoch < tonumber(ARGV[3]) then
  local told, info = pcall(redis.call, 'INFO', 'server')
  local server = told and type(info) == 'string' and string.match(info, 'run_id:(%w+)')
  redis.call('HSET', KEYS[1], 'server', server or '', 'epoch', ARGV[3], 'seq', ARGV[4], 'archived', ARGV[4], 'trimmed', ARGV[4],
    'role_version', string.format('%d', role_version), 'seeded_at', ARGV[6], 'seeded_seq', ARGV[4])
  redis.call('SREM', KEYS[3], ARGV[1])
  redis.call('UNLINK', KEYS[2], unpack(KEYS, 4))
  if meta[1] then
    redis.call('SPUBLISH', ARGV[2], ARGV[7])
  end
else
  redis.call('HSET', KEYS[1], 'role_version', string.format('%d', role_version))
end
return redis.call('HMGET', KEYS[1], 'epoch', 'seq', 'archived', 'trimmed', 'role_version', 'seeded_at', 'seeded_seq')
