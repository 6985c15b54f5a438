-- mediagate admit 1: the generic cell rate algorithm over several limits, all or nothing.
-- KEYS: one for each limit, all with one hash tag. ARGV: for each, how many a minute (which is
-- also how many at once) and the cost, which is at most that many.
-- Answers 1 or 0, then for each limit: how many remain, microseconds until all are there again,
-- microseconds until the cost would fit.
-- A key holds the time until which it is used up: whole microseconds, and a rest in parts of
-- `limit`, for a minute need not divide by it. With limits up to 100 million every sum that
-- decides is below 2^53, and so exact.
local MINUTE = 60000000
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local admitted, after, used = 1, {}, {}
local answer = {}
for i, key in ipairs(KEYS) do
  local limit, cost = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local at, rest = now, 0
  local stored, parts = string.match(redis.call('GET', key) or '', '^(%d+) (%d+)$')
  if stored and tonumber(stored) >= now then
    -- Never later than a full minute: the server's clock may have been set back.
    at, rest = math.min(tonumber(stored), now + MINUTE), math.min(tonumber(parts), limit - 1)
  end
  local sum = rest + cost * MINUTE
  local new_rest = math.fmod(sum, limit)
  local new_at = at + (sum - new_rest) / limit
  local over = (new_at - now) * limit + new_rest - limit * MINUTE
  if over > 0 then admitted = 0 end
  used[i] = { at, rest }
  after[i] = { new_at, new_rest }
  answer[3 * i + 1] = math.max(0, math.ceil(over / limit))
end
for i, key in ipairs(KEYS) do
  local limit = tonumber(ARGV[2 * i - 1])
  local at, rest = unpack(admitted == 1 and after[i] or used[i])
  if admitted == 1 and at > now then
    redis.call('SET', key, string.format('%.0f %.0f', at, rest), 'PX', math.ceil((at - now + 1) / 1000))
  end
  local owed = (at - now) * limit + rest
  answer[3 * i - 1] = math.max(0, math.floor((limit * MINUTE - owed) / MINUTE))
  answer[3 * i] = at - now + (rest > 0 and 1 or 0)
end
answer[1] = admitted
return answer
