#!lua flags=allow-oom
-- Invariant: a family is written once, and never after its revocation (create and revoke may cross on their way).
-- KEYS family, revoked. ARGV user, expires (us), current token, forget at (ms).
if redis.call('EXISTS', KEYS[1], KEYS[2]) > 0 then
  return 0
end
redis.call('HSET', KEYS[1], 'user', ARGV[1], 'expires', ARGV[2], 'current', ARGV[3])
redis.call('PEXPIREAT', KEYS[1], ARGV[4])
return 1
