-- KEYS as in live_output.lua. ARGV: the attempt whose place is known, that place, most pieces.
-- Answers {attempt, next place, progress (empty: none), piece, …}. A place counts the pieces before it, dropped ones too.
local meta = redis.call('HMGET', KEYS[2], 'attempt', 'dropped', 'progress')
local attempt, dropped = tonumber(meta[1] or 0), tonumber(meta[2] or 0)
local after = 0
if attempt == tonumber(ARGV[1]) then after = tonumber(ARGV[2]) end
local from = math.max(after - dropped, 0)
local found = {}
if tonumber(ARGV[3]) > 0 then found = redis.call('LRANGE', KEYS[1], from, from + tonumber(ARGV[3]) - 1) end
local next_place = dropped + from + #found
table.insert(found, 1, meta[3] or '')
table.insert(found, 1, tostring(next_place))
table.insert(found, 1, tostring(attempt))
return found
