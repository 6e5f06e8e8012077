#!lua flags=allow-oom
-- Names pods whose lease lapsed to a pod that may judge that, and claims them for it for the time of a lease, so that
-- one pod at a time looks for their members. presence.rs says who may judge.
-- KEYS: pods, steady, claims
-- ARGV: the judging pod, how many at most
-- Returns {pod, lapsed for ms, pod, lapsed for ms ...}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local renewed, since, lease, before = string.match(redis.call('HGET', KEYS[2], ARGV[1]) or '', '^(%d+) (%d+) (%d+) ?(%w*)$')
local told, info = pcall(redis.call, 'INFO', 'server')
local server = told and type(info) == 'string' and string.match(info, 'run_id:(%w+)') or ''
if not renewed or before ~= server then
  return {}
end
renewed, since, lease = tonumber(renewed), tonumber(since), tonumber(lease)
if now < renewed or now - renewed > lease / 2 or now - since < lease then
  return {}
end
local answer = {}
-- More than asked for, because some may be claimed; they are few.
for _, pod in ipairs(redis.call('ZRANGE', KEYS[1], '-inf', now, 'BYSCORE', 'LIMIT', 0, 1000)) do
  local claimed = tonumber(redis.call('ZSCORE', KEYS[3], pod) or 0)
  if claimed <= now then
    redis.call('ZADD', KEYS[3], now + lease, pod)
    answer[#answer + 1] = pod
    answer[#answer + 1] = math.floor(now - redis.call('ZSCORE', KEYS[1], pod))
    if #answer >= 2 * tonumber(ARGV[2]) then
      break
    end
  end
end
return answer
