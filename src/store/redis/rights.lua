-- Finds those of the given commands that this user may not use, without executing any.
--
-- Args   each a command and its arguments, separated by spaces
-- Returns      the names of the commands that this user may not use; none if the server has no such check
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
