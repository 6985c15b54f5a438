-- mediagate correct 1: books more or less than was charged, without asking whether it fits.
-- KEYS[1]: a key of the script `admit`. ARGV: its limit, and the difference, which may be negative.
local MINUTE = 60000000
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local limit, difference = tonumber(ARGV[1]), tonumber(ARGV[2])
local at, rest = now, 0
local stored, parts = string.match(redis.call('GET', KEYS[1]) or '', '^(%d+) (%d+)$')
if stored and tonumber(stored) >= now then
  at, rest = math.min(tonumber(stored), now + MINUTE), math.min(tonumber(parts), limit - 1)
end
local owed = (at - now) * limit + rest + difference * MINUTE
-- Nobody owes more than a minute, or less than nothing.
owed = math.max(0, math.min(owed, limit * MINUTE))
rest = math.fmod(owed, limit)
at = now + (owed - rest) / limit
if at > now then
  redis.call('SET', KEYS[1], string.format('%.0f %.0f', at, rest), 'PX', math.ceil((at - now + 1) / 1000))
else
  redis.call('DEL', KEYS[1])
end
return 1
