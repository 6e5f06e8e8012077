#!lua flags=allow-oom
-- Remembers how far the archive is and trims behind it, never beyond. It frees memory, so it may run when there is none.
-- KEYS: meta, log, dirty
-- ARGV: room, channel, epoch, seq, trim_to, signal to publish where the watermark rose
-- Returns 1 if nothing waits for the archive (or the epoch is another), else 0.
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'seq', 'archived', 'trimmed')
if not meta[1] or tonumber(meta[1]) ~= tonumber(ARGV[3]) then
  return 1
end
local seq, archived, trimmed = tonumber(meta[2]), tonumber(meta[3]), tonumber(meta[4])
if not (seq and archived and trimmed) then
  return redis.error_reply('MALFORMED head of room ' .. ARGV[1])
end
-- An archive that is ahead of this log means that the log was rolled back; that is for its reader to find out.
local confirmed = math.min(tonumber(ARGV[4]), seq)
if confirmed > archived then
  archived = confirmed
  redis.call('HSET', KEYS[1], 'archived', string.format('%d', archived))
  redis.call('SPUBLISH', ARGV[2], ARGV[6])
end
local trim_to = math.min(tonumber(ARGV[5]), archived)
if trim_to > trimmed then
  redis.call('XTRIM', KEYS[2], 'MINID', string.format('%d-0', trim_to + 1))
  redis.call('HSET', KEYS[1], 'trimmed', string.format('%d', trim_to))
end
if archived < seq then
  return 0
end
redis.call('SREM', KEYS[3], ARGV[1])
return 1
