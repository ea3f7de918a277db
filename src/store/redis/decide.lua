-- Precedes replace.lua for a decision by time about an active job: its worker is lost, nobody has started it, it
-- expires, the grace period of its cancellation is over, or another worker takes it over from a lost one. The decision
-- is made only if no replica can have acknowledged a report of the job within the time allowed or, if a grace period
-- is over, the end of the job.
--
-- Keys   after those of replace.lua: the sorted set of deadlines, the partition's beat (beat.lua)
-- Args   after those of replace.lua, times in microseconds:
--          wait       minimum time since the last report, or since the time that `since` names
--          bound      maximum time for which a replica may be cut off with reports that it acknowledged; 0: the next
--                     report reverts the decision, so the decision does not wait for such a replica
--          silence    maximum age of the last beat
--          since      the time from which the wait is counted; empty: the last report
--          postponed  the job's id: if the decision is too early, its deadline is moved to the time of the next try;
--                     empty: the deadline stays
-- Returns      "DEFERRED", if the decision is too early; otherwise as replace.lua
-- Why atomic   no report, beat or mark can arrive between the check and the write
local beat, deadlines = table.remove(KEYS), table.remove(KEYS)
local postponed = table.remove(ARGV)
local since = tonumber(table.remove(ARGV))
local silence, bound, wait = tonumber(table.remove(ARGV)), tonumber(table.remove(ARGV)), tonumber(table.remove(ARGV))
local function deferred()
  local time = redis.call('TIME')
  local now = time[1] * 1000000 + time[2]
  local heard = tonumber(redis.call('HGET', KEYS[1], 'heard') or '0')
  local known, marks = {}, {}
  local fields = redis.call('HGETALL', beat)
  for at = 1, #fields, 2 do
    known[fields[at]] = tonumber(fields[at + 1])
    if string.sub(fields[at], 1, 5) == 'mark:' then
      marks[#marks + 1] = tonumber(fields[at + 1])
    end
  end
  local last, heard_since = known.last or -1, known.heard_since or now
  if heard > now then
    -- The clock of Redis was set back, so the time of the last report is unknown. Assumes that it is now.
    heard = now
    redis.call('HSET', KEYS[1], 'heard', string.format('%.0f', now))
  end
  local from = math.max(since or heard, heard_since)
  local earliest = from + wait
  if bound > 0 then
    earliest = math.max(earliest, heard_since + bound)
  end
  if now < earliest then
    return earliest
  end
  -- No replica has served for a while, or the clock was set. The next beat sets the time since which workers have been
  -- able to report.
  if last < 0 or last > now or now - last > silence then
    return now + 500000
  end
  if bound == 0 then
    return nil
  end
  for _, mark in ipairs(marks) do
    -- A mark in the future was made before the clock was set back and says nothing, so the decision waits.
    if mark > now or (mark >= now - bound and mark < from + wait) then
      return now + 500000
    end
  end
  return nil
end
local again = deferred()
if again then
  -- A deadline of another version than the expected one is not touched.
  if postponed ~= '' and redis.call('HGET', KEYS[1], 'v') == ARGV[3] then
    redis.call('ZADD', deadlines, 'XX', string.format('%.0f', again), postponed)
  end
  return redis.status_reply('DEFERRED')
end
