-- Precedes replace.lua in the scripts that execute one replacement (group.lua defines another `announce`). Argument 1
-- is the channel of notifications.
local function announce(number, notification)
  redis.call('PUBLISH', ARGV[1], number .. ' ' .. notification)
end
