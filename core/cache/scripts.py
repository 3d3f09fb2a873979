"""The Lua scripts that keep the cache right, each run by Redis in one step.

Owns the protocol of leases and fences. What lies under a key begins with a mark:

- V, a value, or N, that there is none;
- L, a lease: a reader that missed puts a random token under the key itself, and may store
  what it loaded only while that token is still there. An invalidation deletes the key, the
  token with it, so a value loaded before a write is refused after it;
- R, a version (revision): many values are stored under it, and all of them are outdated once it
  has been deleted. Whoever creates it gives it a random value that it never had before;
- F, fences: a writer puts its own there before its COMMIT and takes it away afterwards. While
  one is there nobody fills, so a process that dies in between leaves nothing stale behind: its
  fence expires, and the next reader loads what was committed. Writers of one key (two players on
  a board) fence side by side, each with an expiry of its own, so that the release of one never
  opens the key for another whose COMMIT is still to come.

Source of the lease: Nishtala et al., Scaling Memcache at Facebook (NSDI 2013), 3.2.1.
"""

from core.cache.link import Script

# A fence is a token of 16 bytes and the time of its expiry in ms, 13 digits; a lease and a version
# are a token.
# One MGET for all keys: a call of a command costs a script more than all that it does with the answer.
_FENCES = """
local function read_ms()
  local now = redis.call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end
local function list_fences(stored, own, now)
  local kept = ''
  for at = 1, #stored - 28, 29 do
    local is_fence = string.sub(stored, at, at) == 'F'
    local expiry = is_fence and tonumber(string.sub(stored, at + 16, at + 28)) or 0
    if expiry > now and not string.find(own, string.sub(stored, at, at + 15), 1, true) then
      kept = kept .. string.sub(stored, at, at + 28)
    end
  end
  return kept
end
"""

# KEYS: values, then version keys. ARGV: token, lease ms, version ms, count of values, shape and
# origin of the values, then per version key the value that it gets when there is none.
# Grants a lease where nothing lies, and where something lies that no reader can use: a value
# of another shape or origin, one stored under other versions, foreign bytes.
# Returns per value 1 (granted), 0 (another loads, or has loaded) or -1 (fenced), then each version.
LEASE = Script(
    _FENCES
    + """
local all = redis.call('MGET', unpack(KEYS))
local count = tonumber(ARGV[4])
local result = {}
-- what a value that can be used has behind its mark, see core.cache.codec
local head = ARGV[5]
local is_fenced = false
local function is_fence(stored)
  return string.sub(stored, 1, 1) == 'F' and list_fences(stored, '', read_ms()) ~= ''
end
for i = count + 1, #KEYS do
  local version = all[i] or ''
  if is_fence(version) then
    is_fenced = true
    version = ''
  elseif string.sub(version, 1, 1) ~= 'R' or #version ~= 16 then
    version = ARGV[5 + i - count]
    redis.call('SET', KEYS[i], version, 'PX', ARGV[3])
  end
  result[i] = version
  head = head .. string.char(#version) .. version
end
local function is_current(stored)
  local mark = string.sub(stored, 1, 1)
  return (mark == 'V' or mark == 'N') and string.sub(stored, 2, #head + 1) == head
end
local function is_lease(stored, key)
  return string.sub(stored, 1, 1) == 'L' and #stored == 16 and redis.call('PTTL', key) > 0
end
for i = 1, count do
  -- '' where there is nothing, or what is no string
  local stored = all[i] or ''
  if is_fenced or is_fence(stored) then
    result[i] = -1
  elseif is_current(stored) or is_lease(stored, KEYS[i]) then
    result[i] = 0
  else
    redis.call('SET', KEYS[i], ARGV[1], 'PX', ARGV[2])
    result[i] = 1
  end
end
return result
"""
)

# KEYS: values, then version keys. ARGV: token, count of values, then per value its
# milliseconds and its stored form, then each version the values were loaded under.
# A value without milliseconds, and one that is refused, gives its lease up, so that the next
# reader may fill. Returns how many were stored.
FILL = Script(
    """
local count = tonumber(ARGV[2])
local found = redis.call('MGET', unpack(KEYS))
local is_current = true
for i = count + 1, #KEYS do
  is_current = is_current and found[i] == ARGV[2 + count * 2 + (i - count)]
end
local stored = 0
for i = 1, count do
  if found[i] == ARGV[1] then
    if is_current and ARGV[1 + i * 2] ~= '0' then
      redis.call('SET', KEYS[i], ARGV[2 + i * 2], 'PX', ARGV[1 + i * 2])
      stored = stored + 1
    else
      redis.call('DEL', KEYS[i])
    end
  end
end
return stored
"""
)

# KEYS: what a transaction changes. ARGV: the writer's token, its ms.
FENCE = Script(
    _FENCES
    + """
local now = read_ms()
local own = ARGV[1] .. string.format('%013.0f', now + ARGV[2])
local found = redis.call('MGET', unpack(KEYS))
local refusal
for i = 1, #KEYS do
  local fences = own
  if found[i] and string.sub(found[i], 1, 1) == 'F' then
    fences = list_fences(found[i], ARGV[1], now) .. own
  end
  local done = redis.pcall('SET', KEYS[i], fences, 'PX', ARGV[2])
  if done.err then
    -- a server without memory: what lies there must not outlive a writer that dies now
    refusal = done
    if fences == own then redis.call('UNLINK', KEYS[i]) end
  end
end
return refusal or #KEYS
"""
)

# KEYS: what was changed. ARGV: the writer's token, or the tokens of several in one string. The
# fences of other writers stay: their COMMIT is still to come. Either way the key is touched, so
# that the feed tells of the change.
RELEASE = Script(
    _FENCES
    + """
local now = read_ms()
local found = redis.call('MGET', unpack(KEYS))
local gone = {}
for i = 1, #KEYS do
  local stored = found[i]
  local kept = ''
  -- most have the writer's own fence alone, which one comparison tells
  if stored and string.byte(stored) == 70 and (#stored ~= 29 or string.sub(stored, 1, 16) ~= ARGV[1]) then
    kept = list_fences(stored, ARGV[1], now)
  end
  if kept == '' then
    gone[#gone + 1] = KEYS[i]
  else
    -- a server without memory refuses: then the own fence stays until it expires
    redis.pcall('SET', KEYS[i], kept, 'KEEPTTL')
  end
end
if #gone > 0 then redis.call('UNLINK', unpack(gone)) end
return #KEYS
"""
)
