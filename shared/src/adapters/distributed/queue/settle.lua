-- ARGV: id, token, how (renew | finish | retry | bury | release), milliseconds (renew, retry), reason (retry, bury).
-- Invariant: nothing changes unless the token holds an unexpired lease. Answers 1, or 0 for a lost lease.
local id, how = ARGV[1], ARGV[3]
local job = held(id, ARGV[2])
if not job then return 0 end
if how == 'renew' then
  redis.call('ZADD', leases, int(now + tonumber(ARGV[4])), id)
  return 1
end
free(id, job.tenant)
if how == 'finish' then
  redis.call('DEL', job_key(id))
  redis.call('HINCRBY', counters, 'finished', 1)
  redis.call('INCR', rate_key(0))
  redis.call('PEXPIRE', rate_key(0), RATE_KEPT)
  if job.again then run_again(id, job.again) end
elseif how == 'release' then
  redis.call('HINCRBY', job_key(id), 'attempts', -1)
  make_ready(id, job.place, true)
elseif how == 'bury' or job.attempts >= job.max then
  die(id, ARGV[5])
elseif tonumber(ARGV[4]) > 0 then
  delay_until(id, now + tonumber(ARGV[4]))
else
  make_ready(id)
end
return 1
