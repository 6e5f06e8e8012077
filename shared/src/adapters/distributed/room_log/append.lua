#!lua
-- Appends records to one room, all or none: every check stands before the first write, and the first XADD is the only
-- write that can fail (ids rise from there). Without the allow-oom flag Redis refuses it whole when memory is full.
-- KEYS: meta, log, dirty, bucket for new refs, other buckets to look refs up in ...
-- ARGV: room, channel, epoch, seen, role_version, tail_max, seconds a bucket lives, then for each record its JSON and
--       its ref ('' = none)
-- Returns {'ok', newly dirty 0/1, seq or, for a duplicate, -seq or, barred (see bar.lua), 0 ...} | {'not_seeded'} | {'epoch', meta ...}
--       | {'behind', meta ...} | {'role_version', version} | {'archive_behind'}
local FIRST_RECORD = 8
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'seq', 'archived', 'trimmed', 'role_version', 'seeded_at', 'seeded_seq')
if not meta[1] then
  return {'not_seeded'}
end
local epoch, seq, archived, role_version = tonumber(meta[1]), tonumber(meta[2]), tonumber(meta[3]), tonumber(meta[5])
if not (epoch and seq and archived and role_version) then
  return redis.error_reply('MALFORMED head of room ' .. ARGV[1])
end
if epoch ~= tonumber(ARGV[3]) then
  return {'epoch', unpack(meta)}
end
if seq < tonumber(ARGV[4]) then
  return {'behind', unpack(meta)}
end
if tonumber(ARGV[5]) < role_version then
  return {'role_version', meta[5]}
end

-- Was its ref barred for a later connection than the record's own?
local function is_barred(json, bar)
  local ok, record = pcall(cjson.decode, json)
  local by = ok and type(record) == 'table' and type(record.by) == 'table' and record.by.x
  return type(by) == 'string' and '!' .. by < bar
end

local answer, fresh, batch, last = {'ok', 0}, {}, {}, seq
for at = FIRST_RECORD, #ARGV, 2 do
  local ref, known, bar = ARGV[at + 1], nil, nil
  if ref ~= '' then
    known = batch[ref]
    for bucket = 4, #KEYS do
      known = known or redis.call('HGET', KEYS[bucket], ref)
      if known and string.sub(known, 1, 1) == '!' then
        bar = (not bar or known > bar) and known or bar
        known = nil
      end
    end
  end
  if not known and bar and is_barred(ARGV[at], bar) then
    answer[#answer + 1] = 0
  elseif known then
    known = tonumber(known)
    if not known then
      return redis.error_reply('MALFORMED ref of room ' .. ARGV[1])
    end
    answer[#answer + 1] = -known
  else
    last = last + 1
    answer[#answer + 1] = last
    fresh[#fresh + 1] = ARGV[at]
    if ref ~= '' then
      batch[ref] = last
    end
  end
end
if #fresh == 0 then
  return answer
end
if last - archived > tonumber(ARGV[6]) then
  return {'archive_behind'}
end

for n = 1, #fresh do
  redis.call('XADD', KEYS[2], string.format('%d-0', seq + n), 'r', fresh[n])
end
-- A writer that knows a newer role version than the log proves that there is one.
redis.call('HSET', KEYS[1], 'seq', string.format('%d', last), 'role_version', ARGV[5])
if next(batch) then
  for ref, at in pairs(batch) do
    redis.call('HSET', KEYS[4], ref, string.format('%d', at))
  end
  redis.call('EXPIRE', KEYS[4], ARGV[7], 'NX')
end
answer[2] = redis.call('SADD', KEYS[3], ARGV[1])
redis.call('SPUBLISH', ARGV[2], meta[1] .. ' ' .. string.format('%d', seq + 1) .. '\n' .. table.concat(fresh, '\n'))
return answer
