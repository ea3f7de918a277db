-- Precedes replace.lua where it is executed alone.
local function announce(channel, notification)
  redis.call('PUBLISH', channel, notification)
end
