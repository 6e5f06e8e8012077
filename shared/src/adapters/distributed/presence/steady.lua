#!lua flags=no-writes
-- For how long, in milliseconds, a pod has renewed steadily (presence.rs says what that is); 0: not known, or late, or
-- renewed on another server, or in an earlier life of this one.
-- KEYS: pods, steady, claims
-- ARGV: pod
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local renewed, since, lease, before = string.match(redis.call('HGET', KEYS[2], ARGV[1]) or '', '^(%d+) (%d+) (%d+) ?(%w*)$')
local told, info = pcall(redis.call, 'INFO', 'server')
local server = told and type(info) == 'string' and string.match(info, 'run_id:(%w+)') or ''
if not renewed or before ~= server then
  return 0
end
renewed, since, lease = tonumber(renewed), tonumber(since), tonumber(lease)
if now < renewed or now - renewed > lease / 2 then
  return 0
end
return now - since
