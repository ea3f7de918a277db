-- Compare and set of one job: the record, its index entries, its place in the order of commits and the hint, together.
--
-- Keys   1     the job's hash
--        2     the partition's count of commits
--        3..   sorted sets that change
-- Args   1..3  uid, rev and stamp of the version that must be there; all empty: nothing may be there
--        4     the job's id, as a member of the sorted sets
--        5     the channel of the hint
--        6     the hint, which follows the number of the commit; empty: no commit is counted and none announced
--        7     durable_time: a time to be kept; "first": this version has ended, and the time at which its uid first
--              had an end here is kept, or is now; empty: it has not ended
--        8..   for each sorted set the score; empty: the id is taken out
--        then  fields and values of the hash, uid first; none: the hash is removed
-- Returns      durable_time, if it was stored
--              {doc, durable_time, rev} of what is there, if that is another version; all nil: nothing is there
-- Why atomic   a version and its index entries are seen together, and commits are announced in the order they happen in
local uid, rev, stamp = unpack(redis.call('HMGET', KEYS[1], 'uid', 'rev', 'stamp'))
if (uid or '') ~= ARGV[1] or (rev or '') ~= ARGV[2] or (stamp or '') ~= ARGV[3] then
  return redis.call('HMGET', KEYS[1], 'doc', 'durable_time', 'rev')
end

local fields = 6 + #KEYS
local durable_time = ARGV[7]
if durable_time == 'first' then
  durable_time = ARGV[fields + 1] == uid and redis.call('HGET', KEYS[1], 'durable_time') or ''
  if durable_time == '' then
    local now = redis.call('TIME')
    durable_time = now[1] .. string.format('%06d', now[2])
  end
end

-- Ids are taken out of sets first: a Redis that is full then takes the rest of the script, so that jobs can still end and
-- be removed.
for set = 3, #KEYS do
  local score = ARGV[5 + set]
  if score == '' then
    redis.call('ZREM', KEYS[set], ARGV[4])
  else
    redis.call('ZADD', KEYS[set], score, ARGV[4])
  end
end

if #ARGV < fields then
  redis.call('DEL', KEYS[1])
else
  redis.call('HSET', KEYS[1], 'durable_time', durable_time, unpack(ARGV, fields))
end

if ARGV[6] ~= '' then
  redis.call('PUBLISH', ARGV[5], redis.call('INCR', KEYS[2]) .. ' ' .. ARGV[6])
end
return durable_time
