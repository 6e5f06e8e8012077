-- What every script of the queue shares. KEYS[1] is the queue's prefix, "<namespace>:{q:<queue>}": its hash tag puts
-- all keys of a queue into one slot, so the keys that are built here from it are where this script runs.
--
--   :job:<id>        hash   the job; `state` is waiting, delayed or claimed
--   :ready:<tenant>  zset   waiting jobs of a tenant; score = -priority, member = <place as 16 hex digits>:<id>
--   :ring            zset   tenants with waiting jobs whose turn will come; score = turn
--   :parked          set    tenants with waiting jobs that are at their in-flight cap; a settling puts them back
--   :inflight        hash   tenant -> claimed jobs
--   :waiting         zset   id -> waiting since    :delayed  zset  id -> due
--   :leases          zset   id -> lease deadline   :dead     zset  id -> died; the letter itself is :dead:<id>
--   :counters        hash   order, turn, front, token, finished
--   :rate:<n>        count  jobs finished in the n-th ten seconds since 1970; gone when they no longer count
local P = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local waiting, delayed, leases = P .. ':waiting', P .. ':delayed', P .. ':leases'
local ring, parked, inflight = P .. ':ring', P .. ':parked', P .. ':inflight'
local dead, counters = P .. ':dead', P .. ':counters'

local function job_key(id) return P .. ':job:' .. id end
local function ready_key(tenant) return P .. ':ready:' .. tenant end
local function dead_key(id) return P .. ':dead:' .. id end

local RATE_KEPT = 70000
local function rate_key(back) return P .. ':rate:' .. string.format('%.0f', math.floor(now / 10000) - back) end

-- Numbers become text without an exponent.
local function int(n) return string.format('%.0f', n) end

-- Once per script, however many jobs it moved.
local woken = false
local function wake()
  if not woken then redis.call('PUBLISH', P .. ':wake', '1') end
  woken = true
end

-- The tenant's turn comes after everybody's who waits already (or before everybody's), unless it is parked.
local function queue_turn(tenant, first)
  if redis.call('SISMEMBER', parked, tenant) == 1 then return end
  if first then
    redis.call('ZADD', ring, redis.call('HINCRBY', counters, 'front', -1), tenant)
  elseif not redis.call('ZSCORE', ring, tenant) then
    redis.call('ZADD', ring, redis.call('HINCRBY', counters, 'turn', 1), tenant)
  end
end

-- Puts a job in line: at its old place if it has one (`first` then also gives its tenant the next turn), else last.
local function make_ready(id, place, first)
  local job = job_key(id)
  local f = redis.call('HMGET', job, 'tenant', 'priority')
  place = place or string.format('%016x', redis.call('HINCRBY', counters, 'order', 1))
  redis.call('HSET', job, 'state', 'waiting', 'place', place)
  redis.call('ZADD', ready_key(f[1]), -tonumber(f[2]), place .. ':' .. id)
  redis.call('ZADD', waiting, int(now), id)
  queue_turn(f[1], first)
  wake()
end

local function delay_until(id, due)
  redis.call('HSET', job_key(id), 'state', 'delayed')
  redis.call('ZADD', delayed, int(due), id)
  -- Who sleeps until a later time must hear of an earlier one.
  if redis.call('ZRANGE', delayed, 0, 0)[1] == id then wake() end
end

local function add(id, payload, tenant, priority, max, trace, due)
  redis.call('HSET', job_key(id), 'payload', payload, 'tenant', tenant, 'priority', priority, 'max', max,
    'trace', trace, 'attempts', '0', 'enqueued', int(now))
  if due > now then delay_until(id, due) else make_ready(id) end
end

-- The lease is over, whatever comes next: the tenant has room for one more.
local function free(id, tenant)
  redis.call('ZREM', leases, id)
  if redis.call('HINCRBY', inflight, tenant, -1) <= 0 then redis.call('HDEL', inflight, tenant) end
  if redis.call('SREM', parked, tenant) == 1 and redis.call('EXISTS', ready_key(tenant)) == 1 then
    queue_turn(tenant)
    wake()
  end
end

-- Somebody asked, while it ran, that it run once more.
local function run_again(id, again)
  local f = cmsgpack.unpack(again)
  add(id, f[1], f[2], f[3], f[4], f[5], tonumber(f[6]))
end

local function die(id, reason)
  local again = redis.call('HGET', job_key(id), 'again')
  redis.call('RENAME', job_key(id), dead_key(id))
  redis.call('HDEL', dead_key(id), 'state', 'token', 'place', 'again', 'cancelled')
  redis.call('HSET', dead_key(id), 'reason', reason, 'died', int(now))
  redis.call('ZADD', dead, int(now), id)
  if redis.call('ZCARD', dead) > DEAD_MAX then
    redis.call('DEL', dead_key(redis.call('ZPOPMIN', dead)[1]))
  end
  if again then run_again(id, again) end
end

-- The fields a holder needs, if this token holds the job and its lease has not run out; else nil.
local function held(id, token)
  local f = redis.call('HMGET', job_key(id), 'state', 'token', 'tenant', 'attempts', 'max', 'place', 'again')
  if f[1] ~= 'claimed' or f[2] ~= token then return nil end
  local deadline = redis.call('ZSCORE', leases, id)
  if not deadline or tonumber(deadline) <= now then return nil end
  return { tenant = f[3], attempts = tonumber(f[4]), max = tonumber(f[5]), place = f[6], again = f[7] }
end
