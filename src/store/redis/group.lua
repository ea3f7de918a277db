-- Follows replace.lua: executes several replacements in one call, each compared and set for itself, because a call of a
-- script costs more than the commands in it. All notifications are sent as one message, because a message costs more
-- than the notifications in it.
--
-- Keys         those of each replacement, one after another
-- Args         the channel of notifications, then the arguments of each replacement
-- Returns      the answer to each replacement; "FAILED" if it ended with an error: it must be executed again alone,
--              which shows the error
-- Why atomic   only each single replacement must be atomic, as in replace.lua; one may fail without the others
local answers = {}
-- The parts of the message, which are joined only once: a string costs Redis time for each of its bytes.
local parts, size = {}, 0
announce = function(number, notification)
  parts[size + 1], parts[size + 2], parts[size + 3], parts[size + 4] = number, ' ', notification, '\n'
  size = size + 4
end
local k, a, all = 0, 1, #ARGV
while a < all do
  local keys, args = string.byte(ARGV[a + 1], 1, 2)
  local is_done, answer = pcall(replace, k, a)
  answers[#answers + 1] = is_done and answer or redis.status_reply('FAILED')
  k, a = k + keys, a + args
end
if size > 0 then
  redis.call('PUBLISH', ARGV[1], table.concat(parts, '', 1, size - 1))
end
return answers
