-- The beat of one replica in one partition. Shows that workers can report to the service, and up to which time Redis
-- has everything that this replica acknowledged.
--
-- Key    1  the partition's beat, a hash:
--             `last`          time of the last beat of a serving replica
--             `heard_since`   time since which workers have been able to report
--             `run`, `node`   the server's process, and its name in a cluster
--             `lineage`       the identity of the data's history
--             `mark:PROCESS`  for each process, the time up to which Redis has everything that it acknowledged
--             `about:PROCESS` for each process that serves or has served, the time of its last beat, and argument 9
--           A single key, because scripts with several keys fail while their slot moves to another node
-- Args   1  the process
--        2  "1": the replica serves, and so receives reports
--        3  its mark; empty: no mark
--        4  the lineage in which the replica saw the count of commits fall; empty: it saw no such fall
--        5  a random name, for a lineage that begins now
--        6  maximum age of the last beat, in microseconds
--        7  time for which marks are kept, in microseconds
--        8  "1": the server is a node of a cluster
--        9  data of the process about itself: the number of its jobs that Redis lacks, and its version
-- Returns   {time, heard_since, lineage, run, number of replicas that serve, index of this one among them or 0}
-- Why atomic   after a restart, or a gap between two beats, the beat of exactly one replica detects it
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local function text(number)
  return string.format('%.0f', number)
end
local known, marks, seen = {}, {}, {}
local fields = redis.call('HGETALL', KEYS[1])
for at = 1, #fields, 2 do
  local name, process = string.match(fields[at], '^(%a+):(.*)$')
  if name == 'mark' then
    marks[process] = tonumber(fields[at + 1])
  elseif name == 'about' then
    seen[process] = tonumber(string.match(fields[at + 1], '^%d+') or '0')
  else
    known[fields[at]] = fields[at + 1]
  end
end
local info = redis.pcall('INFO', 'server')
local server = type(info) == 'string' and string.match(info, 'run_id:(%w+)') or known.run or ''
local last, heard_since = tonumber(known.last or '-1'), tonumber(known.heard_since or '-1')
local lineage = known.lineage

-- In a cluster, another node may serve the partition now, which is no restart. If data was lost during a failover, the
-- count of commits has fallen.
local node = ARGV[8] == '1' and redis.pcall('CLUSTER', 'MYID')
node = type(node) == 'string' and node or ''
local restarted = not known.run or (server ~= known.run and node == (known.node or ''))
if restarted or last < 0 or last > now or now - last > tonumber(ARGV[6]) or heard_since > now then
  heard_since = now
end
if restarted or not lineage or (ARGV[4] ~= '' and ARGV[4] == lineage) then
  lineage = ARGV[5]
end
local changes = { 'heard_since', text(heard_since), 'run', server, 'node', node, 'lineage', lineage }
if ARGV[2] == '1' then
  changes[#changes + 1], changes[#changes + 2] = 'last', text(now)
end

-- Marks only rise. A mark in the future was made before the clock was set back, and is replaced.
local mark, before = tonumber(ARGV[3]), marks[ARGV[1]]
if mark and mark <= now and (not before or before < mark or before > now) then
  changes[#changes + 1], changes[#changes + 2] = 'mark:' .. ARGV[1], text(mark)
  marks[ARGV[1]] = mark
end
-- A process is registered from the first beat that it sends while it serves.
if ARGV[2] == '1' or seen[ARGV[1]] then
  changes[#changes + 1], changes[#changes + 2] = 'about:' .. ARGV[1], text(now) .. ' ' .. ARGV[9]
  seen[ARGV[1]] = now
end
redis.call('HSET', KEYS[1], unpack(changes))
for process, its in pairs(seen) do
  if its < now - tonumber(ARGV[7]) or its > now then
    redis.call('HDEL', KEYS[1], 'about:' .. process)
  end
end
local serving = {}
for process, its in pairs(marks) do
  if its < now - tonumber(ARGV[7]) then
    redis.call('HDEL', KEYS[1], 'mark:' .. process)
  elseif its >= now - 4 * tonumber(ARGV[6]) then
    serving[#serving + 1] = process
  end
end
table.sort(serving)
local place = 0
for at, process in ipairs(serving) do
  if process == ARGV[1] then
    place = at
  end
end
return { text(now), text(heard_since), lineage, server, #serving, place }
