#!lua flags=no-writes
-- Is this server still the one, in the same life, that the log was seeded on? A server that was started again or promoted may
-- lack the log's last entries, and nothing of what it holds tells. A log without a server's name is of an older release.
-- KEYS: meta
-- Returns 1: it is, or there is no log, or servers here do not tell their names.
local server = redis.call('HGET', KEYS[1], 'server')
if not server or server == '' then
  return 1
end
local told, info = pcall(redis.call, 'INFO', 'server')
local here = told and type(info) == 'string' and string.match(info, 'run_id:(%w+)')
if not here or here == server then
  return 1
end
return 0
