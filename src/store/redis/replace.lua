-- Compare and set of one job: the record, its index entries, the number of its commit and the notification, together.
-- Defines the function `replace(k, a)`, and needs a function `announce(channel, notification)`.
--
-- Keys, after KEYS[k]
--        1     the job's hash
--        2     the partition's count of commits
--        3..   sorted sets that change
-- Args, after ARGV[a]
--        1     the version that must be there; empty: nothing may be there
--        2     the job's id, as a member of the sorted sets
--        3     the channel of the notification
--        4     the notification, without the number of the commit; empty: the commit is neither counted nor announced
--        5     heard: "now": this version has a new report; a time; empty: unchanged
--        6     since: "first": the id is taken from now on; a time; empty: unchanged
--        7     durable_time: "now": this version is the first end of its incarnation; a time; empty: not set
--        8     a branch: "lineage id base parent"; empty: the record keeps its own
--        9     "begin": the record gets this branch; "continue": only if its own is of another lineage, or missing
--        10    "whole": all fields are given, and others are removed; "part": other fields stay; "touch": only heard
--              changes; "none": the record is removed
--        11    the number of sorted sets
--        12    the number of fields to delete
--        13    the number of the fields to set, and of their values, together
--        then  the score for each sorted set; empty: the id is removed; with a plus: microseconds from now
--        then  the fields to delete, then fields and values to set
-- Returns      if stored: "heard since durable_time branch": the times as written now, and the branch of the record, "-"
--              for each of them that does not exist
--              if the record is of version 0.1 and not all fields are given: "LEGACY"
--              if another version is there: its fields (codec.rs, READ_FULL); all nil if there is none
-- Why atomic   readers see a version together with its index entries, and commits are announced in their order
local now
local function clock()
  if not now then
    local time = redis.call('TIME')
    now = time[1] .. string.format('%06d', time[2])
  end
  return now
end

local function replace(k, a)
  local job = KEYS[k + 1]
  local expected, id, channel, notification, heard, since, durable_time, given, condition, mode, sets, deleted, given_set =
    unpack(ARGV, a + 1, a + 13)
  local found = redis.call('HMGET', job, 'v', 'branch')
  local there, branch = found[1], found[2]
  local is_key_there = there or redis.call('EXISTS', job) == 1
  local legacy
  if not there and is_key_there then
    legacy = redis.call('HMGET', job, 'rev', 'stamp', 'born', 'uid')
    -- If a part of the version is missing, it matches no expected version.
    there = legacy[1] and legacy[4] and table.concat({ legacy[1], legacy[2] or '', legacy[3] or '', legacy[4] }, ' ')
    legacy = there
  end
  if (there or '') ~= expected then
    return redis.call(
      'HMGET', job,
      'v', 'job', 'since', 'heard', 'durable_time', 'branch', 'doc', 'metadata', 'result', 'details'
    )
  end
  if legacy and mode ~= 'whole' and mode ~= 'none' then
    return redis.status_reply('LEGACY')
  end

  if heard == 'now' then
    heard = clock()
  end
  if since == 'first' then
    since = clock()
  end
  if durable_time == 'now' then
    durable_time = clock()
  end

  if condition == 'begin' or (given ~= '' and not branch) then
    branch = given
  elseif given ~= '' then
    -- Both begin with their lineage and a space.
    local ends = string.find(given, ' ', 1, true)
    if string.sub(branch, 1, ends) ~= string.sub(given, 1, ends) then
      local own, base, parent = string.match(branch, '^%x+ (%x+) (%d+) (%x+)$')
      local revision = string.match(given, '^%x+ %x+ (%d+)')
      -- The version at the base of a branch belongs to its parent, too.
      local is_at_base = own and parent ~= '0' and tonumber(revision) <= tonumber(base)
      branch = own and string.gsub(given, '%x+$', is_at_base and parent or own) or given
    end
  end

  -- The sets that the id leaves come first: a full Redis accepts this first write and then the rest of the script, so
  -- that jobs can still end and be removed.
  local at = a + 13
  for set = 1, tonumber(sets) do
    local key, score = KEYS[k + 2 + set], ARGV[at + set]
    if score == '' then
      redis.call('ZREM', key, id)
    elseif string.sub(score, 1, 1) == '+' then
      redis.call('ZADD', key, string.format('%.0f', clock() + string.sub(score, 2)), id)
    else
      redis.call('ZADD', key, score, id)
    end
  end
  at = at + sets

  if mode == 'none' then
    redis.call('DEL', job)
  else
    if mode == 'whole' and is_key_there then
      redis.call('DEL', job)
    end
    local first = at + deleted + 1
    if first > at + 1 then
      redis.call('HDEL', job, unpack(ARGV, at + 1, first - 1))
    end
    local is_branch_new = branch and (mode == 'whole' or branch ~= found[2])
    if heard ~= '' and since == '' and durable_time == '' and not is_branch_new then
      -- By far the most frequent case, a report, needs no table.
      redis.call('HSET', job, 'heard', heard, unpack(ARGV, first, first + given_set - 1))
    else
      local set = { unpack(ARGV, first, first + given_set - 1) }
      if heard ~= '' then
        set[#set + 1], set[#set + 2] = 'heard', heard
      end
      if since ~= '' then
        set[#set + 1], set[#set + 2] = 'since', since
      end
      if durable_time ~= '' then
        set[#set + 1], set[#set + 2] = 'durable_time', durable_time
      end
      if is_branch_new then
        set[#set + 1], set[#set + 2] = 'branch', branch
      end
      redis.call('HSET', job, unpack(set))
    end
  end

  if notification ~= '' then
    announce(channel, redis.call('INCR', KEYS[k + 2]) .. ' ' .. notification)
  end
  return (heard == '' and '-' or heard)
    .. (since == '' and ' - ' or ' ' .. since .. ' ')
    .. (durable_time == '' and '-' or durable_time)
    .. ' '
    .. (branch or '-')
end
