-- The commands that this user may not use, of those that are given; none of them is executed.
--
-- Args   each a command with its arguments, with spaces between
-- Returns      the names of those that are refused; none if the server can't tell
local refused = {}
for _, command in ipairs(redis.acl_check_cmd and ARGV or {}) do
  local words = {}
  for word in string.gmatch(command, '%S+') do
    words[#words + 1] = word
  end
  local is_known, is_allowed = pcall(redis.acl_check_cmd, unpack(words))
  if is_known and not is_allowed then
    refused[#refused + 1] = words[1]
  end
end
return refused
