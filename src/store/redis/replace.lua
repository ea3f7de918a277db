-- Compare and set of one job: the record, its index entries, the number of its commit and the notification, together.
-- Needs a function `announce(channel, notification)`.
--
-- Keys   1     the job's hash
--        2     the partition's count of commits
--        3..   sorted sets that change
-- Args   1     the version that must be there; empty: nothing may be there
--        2     the job's id, as a member of the sorted sets
--        3     the channel of the notification
--        4     the notification, without the number of the commit; empty: the commit is neither counted nor announced
--        5     heard: "now": this version has a new report; a time; empty: unchanged
--        6     since: "first": the id is taken from now on; a time; empty: unchanged
--        7     durable_time: "now": this version is the first end of its incarnation; a time; empty: not set
--        8     a branch: "lineage id base parent"
--        9     "begin": the record gets this branch; "continue": only if its own is of another lineage, or missing;
--              empty: its own stays
--        10    "whole": all fields are given, and others are removed; "part": other fields stay; "touch": only heard
--              changes, 8 and 9 are empty; "none": the record is removed
--        11    the number of fields to delete
--        12..  the score for each sorted set; empty: the id is removed; with a plus: microseconds from now
--        then  the fields to delete, then fields and values to set
-- Returns      if stored: "heard since durable_time branch": the times as written now, and the branch of the record, "-"
--              for each of them that does not exist
--              if the record is of version 0.1 and not all fields are given: "LEGACY"
--              if another version is there: its fields (codec.rs, READ_FULL); all nil if there is none
-- Why atomic   readers see a version together with its index entries, and commits are announced in their order
local found = redis.call('HMGET', KEYS[1], 'v', 'branch')
local there, branch = found[1], found[2]
local is_key_there = there or redis.call('EXISTS', KEYS[1]) == 1
local legacy
if not there and is_key_there then
  legacy = redis.call('HMGET', KEYS[1], 'rev', 'stamp', 'born', 'uid')
  -- If a part of the version is missing, it matches no expected version.
  there = legacy[1] and legacy[4] and table.concat({ legacy[1], legacy[2] or '', legacy[3] or '', legacy[4] }, ' ')
  legacy = there
end
if (there or '') ~= ARGV[1] then
  return redis.call(
    'HMGET', KEYS[1],
    'v', 'job', 'since', 'heard', 'durable_time', 'branch', 'doc', 'metadata', 'result', 'details'
  )
end
local mode = ARGV[10]
if legacy and mode ~= 'whole' and mode ~= 'none' then
  return redis.status_reply('LEGACY')
end

local now
local function clock()
  if not now then
    local time = redis.call('TIME')
    now = time[1] .. string.format('%06d', time[2])
  end
  return now
end

local heard, since, durable_time = ARGV[5], ARGV[6], ARGV[7]
if heard == 'now' then
  heard = clock()
end
if since == 'first' then
  since = clock()
end
if durable_time == 'now' then
  durable_time = clock()
end

if ARGV[9] == 'begin' then
  branch = ARGV[8]
elseif ARGV[9] == 'continue' then
  local lineage, id, base, parent = string.match(branch or '', '^(%x+) (%x+) (%d+) (%x+)$')
  local begun, revision = string.match(ARGV[8], '^(%x+) %x+ (%d+)')
  if not lineage then
    branch = ARGV[8]
  elseif lineage ~= begun then
    -- The version at the base of a branch belongs to its parent, too.
    local is_at_base = parent ~= '0' and tonumber(revision) <= tonumber(base)
    branch = string.gsub(ARGV[8], '%x+$', is_at_base and parent or id)
  end
end

-- The sets that the id leaves come first: a full Redis accepts this first write and then the rest of the script, so
-- that jobs can still end and be removed.
local first = 11 + #KEYS - 2
for set = 3, #KEYS do
  local score = ARGV[9 + set]
  if score == '' then
    redis.call('ZREM', KEYS[set], ARGV[2])
  elseif string.sub(score, 1, 1) == '+' then
    redis.call('ZADD', KEYS[set], string.format('%.0f', clock() + string.sub(score, 2)), ARGV[2])
  else
    redis.call('ZADD', KEYS[set], score, ARGV[2])
  end
end

if mode == 'none' then
  redis.call('DEL', KEYS[1])
else
  if mode == 'whole' and is_key_there then
    redis.call('DEL', KEYS[1])
  end
  local deleted = tonumber(ARGV[11])
  if deleted > 0 then
    redis.call('HDEL', KEYS[1], unpack(ARGV, first + 1, first + deleted))
  end
  local set = { unpack(ARGV, first + 1 + deleted) }
  if heard ~= '' then
    set[#set + 1], set[#set + 2] = 'heard', heard
  end
  if since ~= '' then
    set[#set + 1], set[#set + 2] = 'since', since
  end
  if durable_time ~= '' then
    set[#set + 1], set[#set + 2] = 'durable_time', durable_time
  end
  if branch and (mode == 'whole' or branch ~= found[2]) then
    set[#set + 1], set[#set + 2] = 'branch', branch
  end
  redis.call('HSET', KEYS[1], unpack(set))
end

if ARGV[4] ~= '' then
  announce(ARGV[3], redis.call('INCR', KEYS[2]) .. ' ' .. ARGV[4])
end
local function given(time)
  return time == '' and '-' or time
end
return given(heard) .. ' ' .. given(since) .. ' ' .. given(durable_time) .. ' ' .. (branch or '-')
