-- mediagate renew 1: keeps places that are taken, also where they were lost.
-- KEYS[1]: the places taken. ARGV: milliseconds, then the takers.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local time = tonumber(ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '(' .. string.format('%.0f', now + time), '+inf')
for i = 2, #ARGV do
  redis.call('ZADD', KEYS[1], string.format('%.0f', now + time), ARGV[i])
end
redis.call('PEXPIRE', KEYS[1], time)
return redis.call('ZCARD', KEYS[1])
