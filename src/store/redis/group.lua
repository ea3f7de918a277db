-- Follows replace.lua: several replacements, each compared and set for itself. A call of a script costs more than the
-- commands in it, and a message more than a notification.
--
-- Keys         those of each replacement, one after another
-- Args         for each replacement: the number of its keys, the number of its arguments, its arguments
-- Returns      the answer to each replacement; "FAILED" if it ended with an error: it must be executed again alone,
--              which shows the error
-- Why atomic   only each single replacement must be atomic, as in replace.lua; one may fail without the others
local to, notifications, answers = nil, {}, {}
-- All notifications are one message, on the channel of the first one.
announce = function(channel, notification)
  to = to or channel
  notifications[#notifications + 1] = notification
end
local k, a = 0, 0
while a < #ARGV do
  local keys, args = ARGV[a + 1], ARGV[a + 2]
  local is_done, answer = pcall(replace, k, a + 2)
  answers[#answers + 1] = is_done and answer or redis.status_reply('FAILED')
  k, a = k + keys, a + 2 + args
end
if to then
  redis.call('PUBLISH', to, table.concat(notifications, '\n'))
end
return answers
