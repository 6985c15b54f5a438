-- mediagate lease 1: one of a number of places, for a time.
-- KEYS[1]: the places taken. ARGV: how many there are, milliseconds, the taker.
-- Answers 1 or 0.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local most, time = tonumber(ARGV[1]), tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
-- No lease is longer than that: the server's clock was set back. Those who live renew theirs.
redis.call('ZREMRANGEBYSCORE', KEYS[1], '(' .. string.format('%.0f', now + time), '+inf')
if redis.call('ZCARD', KEYS[1]) >= most then return 0 end
redis.call('ZADD', KEYS[1], string.format('%.0f', now + time), ARGV[3])
redis.call('PEXPIRE', KEYS[1], time)
return 1
