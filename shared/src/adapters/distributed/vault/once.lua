#!lua flags=allow-oom
-- Requests that are carried out once. KEYS[1]: zset of keys by the end of what is known of them; KEYS[2]: hash of keys to
-- "H" + the request that holds it, or "A" + its answer. ARGV: "begin" | "answer" | "forget", key, request, milliseconds,
-- most keys | answer.
-- Invariant: a key is held by one request at a time, and only its holder answers or frees it.
local ends, held = KEYS[1], KEYS[2]
local how, key, holder = ARGV[1], ARGV[2], 'H' .. ARGV[3]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function int(n) return string.format('%.0f', n) end

local function drop(k)
  redis.call('ZREM', ends, k)
  redis.call('HDEL', held, k)
end

local function set(value, ms)
  redis.call('HSET', held, key, value)
  redis.call('ZADD', ends, int(now + ms), key)
  for _, k in ipairs({ ends, held }) do
    if redis.call('PTTL', k) < ms then redis.call('PEXPIRE', k, int(ms)) end
  end
end

if how == 'begin' then
  for _, k in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', int(now), 'LIMIT', 0, 64)) do drop(k) end
  local till = redis.call('ZSCORE', ends, key)
  if till and tonumber(till) > now then
    local known = redis.call('HGET', held, key)
    if known and string.sub(known, 1, 1) == 'A' then return known end
    if known then return 'H' end
  end
  set(holder, tonumber(ARGV[4]))
  if redis.call('ZCARD', ends) > tonumber(ARGV[5]) then
    -- Those in flight end soonest and stay: they are few.
    for _, k in ipairs(redis.call('ZRANGE', ends, 0, 63)) do
      if string.sub(redis.call('HGET', held, k) or 'A', 1, 1) == 'A' then
        drop(k)
        break
      end
    end
  end
  return ''
end
if redis.call('HGET', held, key) ~= holder then return '0' end
if how == 'answer' then set('A' .. ARGV[5], tonumber(ARGV[4])) else drop(key) end
return '1'
