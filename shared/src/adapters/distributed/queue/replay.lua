-- ARGV: id. Answers 1 if the dead letter is a waiting job again.
local id = ARGV[1]
if redis.call('EXISTS', dead_key(id)) == 0 or redis.call('EXISTS', job_key(id)) == 1 then return 0 end
redis.call('ZREM', dead, id)
redis.call('RENAME', dead_key(id), job_key(id))
redis.call('HDEL', job_key(id), 'reason', 'died', 'lapses')
redis.call('HSET', job_key(id), 'attempts', '0', 'enqueued', int(now))
make_ready(id)
return 1
