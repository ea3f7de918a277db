-- Precedes replace.lua where it is executed alone: argument 1 is the channel of notifications.
local function announce(notification)
  redis.call('PUBLISH', ARGV[1], notification)
end
