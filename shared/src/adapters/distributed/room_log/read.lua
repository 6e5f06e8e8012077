#!lua flags=no-writes
-- Reads entries of one epoch, in order, until `limit` or, after at least one, `max_bytes`.
-- KEYS: meta, log
-- ARGV: epoch, after, limit, max_bytes
-- Returns {id, JSON, id, JSON ...}; nil where no log is loaded or its epoch is another.
local PAGE = 128
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch or tonumber(epoch) ~= tonumber(ARGV[1]) then
  return nil
end
local answer, bytes, left = {}, 0, tonumber(ARGV[3])
local from = '(' .. string.format('%d-0', tonumber(ARGV[2]))
while left > 0 do
  local want = math.min(left, PAGE)
  local page = redis.call('XRANGE', KEYS[2], from, '+', 'COUNT', want)
  for _, entry in ipairs(page) do
    local json = entry[2][2]
    if bytes > 0 and bytes + #json > tonumber(ARGV[4]) then
      return answer
    end
    bytes = bytes + #json
    answer[#answer + 1] = entry[1]
    answer[#answer + 1] = json
  end
  if #page < want then
    return answer
  end
  left = left - want
  from = '(' .. page[#page][1]
end
return answer
