"""The Lua scripts that keep the cache right, each run by Redis in one step.

Owns the protocol of leases and fences. What lies under a key begins with a mark:

- V, a value, or N, that there is none;
- L, a lease: a reader that missed puts a random token under the key itself, and may store
  what it loaded only while that token is still there. An invalidation deletes the key, the
  token with it, so a value loaded before a write is refused after it;
- F, a fence: a writer puts it there before its COMMIT and deletes it afterwards. While it is
  there nobody fills, so a process that dies in between leaves nothing stale behind: the
  fence expires, and the next reader loads what was committed.

Source of the lease: Nishtala et al., Scaling Memcache at Facebook (NSDI 2013), 3.2.1.
"""

# KEYS: values, then version keys. ARGV: token, lease ms, version ms, count of values,
# then per value 1 when what is there may be overwritten.
# Returns per value 1 (granted), 0 (another loads, or has loaded) or -1 (fenced), then each version.
LEASE = """
local function mark(key)
  local kind = redis.call('TYPE', key)['ok']
  if kind == 'none' then return '' end
  if kind ~= 'string' then return '?' end
  return redis.call('GETRANGE', key, 0, 0)
end
local count = tonumber(ARGV[4])
local result = {}
local is_fenced = false
for i = count + 1, #KEYS do
  local found = mark(KEYS[i])
  if found == 'L' then
    result[i] = redis.call('GET', KEYS[i])
  elseif found == 'F' then
    is_fenced = true
    result[i] = ''
  else
    result[i] = ARGV[1]
    redis.call('SET', KEYS[i], ARGV[1], 'PX', ARGV[3])
  end
end
for i = 1, count do
  local found = mark(KEYS[i])
  if is_fenced or found == 'F' then
    result[i] = -1
  elseif found == '' or found == '?' or (ARGV[4 + i] == '1' and found ~= 'L') then
    redis.call('SET', KEYS[i], ARGV[1], 'PX', ARGV[2])
    result[i] = 1
  else
    result[i] = 0
  end
end
return result
"""

# KEYS: values, then version keys. ARGV: token, count of values, then per value its
# milliseconds and its stored form, then each version the values were loaded under.
# A value without milliseconds, and one that is refused, gives its lease up, so that the next
# reader may fill. Returns how many were stored.
FILL = """
local count = tonumber(ARGV[2])
local function read(key)
  local value = redis.pcall('GET', key)
  return type(value) == 'string' and value
end
local is_current = true
for i = count + 1, #KEYS do
  is_current = is_current and read(KEYS[i]) == ARGV[2 + count * 2 + (i - count)]
end
local stored = 0
for i = 1, count do
  if read(KEYS[i]) == ARGV[1] then
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

# KEYS: what a transaction changes. ARGV: the writer's token, its ms.
FENCE = """
for i = 1, #KEYS do
  redis.call('SET', KEYS[i], ARGV[1], 'PX', ARGV[2])
end
return #KEYS
"""

# KEYS: what was changed. ARGV: the writer's token. The fence of another writer stays: its
# COMMIT is still to come.
RELEASE = """
for i = 1, #KEYS do
  local value = redis.pcall('GET', KEYS[i])
  local is_foreign = type(value) == 'string' and string.sub(value, 1, 1) == 'F' and value ~= ARGV[1]
  if not is_foreign then
    redis.call('UNLINK', KEYS[i])
  end
end
return #KEYS
"""
