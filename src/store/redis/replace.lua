-- Compare and set of one job: the record, its index entries, the number of its commit and the notification, together.
-- Defines the function `replace(k, a)`, and needs a function `announce(number, notification)`.
--
-- Keys, after KEYS[k]
--        1     the job's hash
--        2     the partition's count of commits
--        3..   sorted sets that change
-- Args, after ARGV[a]
--        1     the head. Each of its bytes is a number, because each argument costs time:
--                1  number of keys, and
--                2  number of arguments of this replacement, for group.lua
--                3  mode. 0: the record is removed; 1: other fields stay; 2: all fields are given, and others are
--                   removed; 3: only heard changes
--                4  heard. 0: unchanged; 1: now, because this version has a new report; 2: a time is given
--                5  since. 0: unchanged; 1: now, because the id is taken from now on; 2: a time is given
--                6  durable_time. 0: not set; 1: now, because this version is the first end of its incarnation; 2: a
--                   time is given
--                7  branch. 0: the record keeps its own; 1: the record gets the given one; 2: it gets the given one
--                   only if its own is of another lineage, or missing
--                8  1: the commit is counted and announced
--                9  number of sorted sets
--               10  number of fields to delete
--               11  number of the fields to set, and of their values, together
--        2     the version that must be there; empty: nothing may be there
--        then, as far as the head says that they are given
--              the notification, without the number of the commit
--              heard, since, durable_time
--              the branch: "lineage id base parent"
--              the job's id, if there are sorted sets, as their member
--              the score for each sorted set; empty: the id is removed; with a plus: microseconds from now
--              the fields to delete
--              the fields to set, each with its value
-- Returns      if stored: "heard since durable_time branch": the times that were written now, and the branch of the
--              record; "-" for a time that was not written, and for the branch if the record has none
--              if the record is of version 0.1 and not all fields are given: "LEGACY"
--              if another version is there: its fields (codec.rs, READ_FULL); all nil if there is none
-- Why atomic   readers see a version together with its index entries, and commits are announced in their order
-- Locals cost less than globals.
local KEYS, ARGV, call, find, sub = KEYS, ARGV, redis.call, string.find, string.sub
local now
local function clock()
  if not now then
    local time = call('TIME')
    now = time[1] .. string.format('%06d', time[2])
  end
  return now
end

-- Modes.
local REMOVED, PART, WHOLE, HEARD = 0, 1, 2, 3

-- Returns the time of this form, and the place of the last argument that was read.
local function time_of(form, at)
  if form == 1 then
    return clock(), at
  elseif form == 2 then
    return ARGV[at + 1], at + 1
  end
  return nil, at
end

local function replace(k, a)
  local job = KEYS[k + 1]
  local _, _, mode, heard_form, since_form, durable_form, branch_form, is_announced, sets, deleted, given_set =
    string.byte(ARGV[a + 1], 1, 11)
  local expected = ARGV[a + 2]
  local there, own_branch, legacy
  -- Where nothing is expected, usually nothing is there, and EXISTS costs less than HMGET.
  local is_key_there = expected ~= '' or call('EXISTS', job) == 1
  if is_key_there then
    local found = call('HMGET', job, 'v', 'branch')
    there, own_branch = found[1], found[2]
    is_key_there = there or call('EXISTS', job) == 1
  end
  if is_key_there and not there then
    legacy = call('HMGET', job, 'rev', 'stamp', 'born', 'uid')
    -- If a part of the version is missing, it matches no expected version.
    there = legacy[1] and legacy[4] and table.concat({ legacy[1], legacy[2] or '', legacy[3] or '', legacy[4] }, ' ')
    legacy = there
  end
  if (there or '') ~= expected then
    return call(
      'HMGET', job,
      'v', 'job', 'since', 'heard', 'durable_time', 'branch', 'doc', 'metadata', 'result', 'details'
    )
  end
  if legacy and (mode == PART or mode == HEARD) then
    return redis.status_reply('LEGACY')
  end

  local at = a + 2
  local notification, heard, since, durable_time
  if is_announced == 1 then
    at = at + 1
    notification = ARGV[at]
  end
  heard, at = time_of(heard_form, at)
  since, at = time_of(since_form, at)
  durable_time, at = time_of(durable_form, at)
  local branch = own_branch
  if branch_form > 0 then
    at = at + 1
    local given = ARGV[at]
    -- Both begin with their lineage and a space.
    if branch_form == 1 or not branch then
      branch = given
    elseif find(branch, sub(given, 1, find(given, ' ', 1, true)), 1, true) ~= 1 then
      local own, base, parent = string.match(branch, '^%x+ (%x+) (%d+) (%x+)$')
      local revision = string.match(given, '^%x+ %x+ (%d+)')
      -- The version at the base of a branch belongs to its parent, too.
      local is_at_base = own and parent ~= '0' and tonumber(revision) <= tonumber(base)
      branch = own and string.gsub(given, '%x+$', is_at_base and parent or own) or given
    end
  end

  -- The sets that the id leaves come first: a full Redis accepts this first write and then the rest of the script, so
  -- that jobs can still end and be removed.
  if sets > 0 then
    at = at + 1
    local id = ARGV[at]
    for set = 1, sets do
      local key, score = KEYS[k + 2 + set], ARGV[at + set]
      if score == '' then
        call('ZREM', key, id)
      elseif sub(score, 1, 1) == '+' then
        call('ZADD', key, string.format('%.0f', clock() + sub(score, 2)), id)
      else
        call('ZADD', key, score, id)
      end
    end
    at = at + sets
  end

  if mode == REMOVED then
    call('DEL', job)
  else
    if mode == WHOLE and is_key_there then
      call('DEL', job)
    end
    local first = at + deleted + 1
    if deleted > 0 then
      call('HDEL', job, unpack(ARGV, at + 1, first - 1))
    end
    local is_branch_new = branch and (mode == WHOLE or branch ~= own_branch)
    if heard and not since and not durable_time and not is_branch_new then
      -- By far the most frequent case, a report, needs no table.
      call('HSET', job, 'heard', heard, unpack(ARGV, first, first + given_set - 1))
    else
      local set = { unpack(ARGV, first, first + given_set - 1) }
      if heard then
        set[#set + 1], set[#set + 2] = 'heard', heard
      end
      if since then
        set[#set + 1], set[#set + 2] = 'since', since
      end
      if durable_time then
        set[#set + 1], set[#set + 2] = 'durable_time', durable_time
      end
      if is_branch_new then
        set[#set + 1], set[#set + 2] = 'branch', branch
      end
      call('HSET', job, unpack(set))
    end
  end

  if notification then
    announce(call('INCR', KEYS[k + 2]), notification)
  end
  return (heard or '-') .. ' ' .. (since or '-') .. ' ' .. (durable_time or '-') .. ' ' .. (branch or '-')
end
