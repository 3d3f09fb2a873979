"""The Lua scripts that make filling a cache safe, run by Redis in one step each.

Owns the lease protocol. A reader that misses puts a lease, a random token, under the
key itself; it may store what it loaded only while that token is still there. An
invalidation deletes the key, the token with it, so a value loaded before a write is
refused after it. Source: Nishtala et al., Scaling Memcache at Facebook (NSDI 2013), 3.2.1.
"""

# KEYS: values, then version keys. ARGV: token, lease ms, version ms, count of values,
# then per value 1 when what is there may be overwritten.
# Returns per value 1 when the lease was granted, then each version.
LEASE = """
local count = tonumber(ARGV[4])
local result = {}
for i = 1, count do
  local granted = redis.call('SET', KEYS[i], ARGV[1], 'NX', 'PX', ARGV[2])
  if not granted then
    local is_foreign = redis.call('TYPE', KEYS[i])['ok'] ~= 'string'
    local is_lease = not is_foreign and redis.call('GETRANGE', KEYS[i], 0, 0) == 'L'
    if is_foreign or (ARGV[4 + i] == '1' and not is_lease) then
      granted = redis.call('SET', KEYS[i], ARGV[1], 'PX', ARGV[2])
    end
  end
  result[i] = granted and 1 or 0
end
for i = count + 1, #KEYS do
  local version = redis.call('TYPE', KEYS[i])['ok'] == 'string' and redis.call('GET', KEYS[i])
  if not version then
    version = ARGV[1]
    redis.call('SET', KEYS[i], version)
  end
  redis.call('PEXPIRE', KEYS[i], ARGV[3])
  result[i] = version
end
return result
"""

# KEYS: values, then version keys. ARGV: token, count of values, then per value its
# milliseconds and its stored form, then each version the values were loaded under.
# Returns how many were stored. A refused lease is given up, so that the next reader fills.
FILL = """
local count = tonumber(ARGV[2])
local function read(key)
  return redis.call('TYPE', key)['ok'] == 'string' and redis.call('GET', key)
end
local is_current = true
for i = count + 1, #KEYS do
  is_current = is_current and read(KEYS[i]) == ARGV[2 + count * 2 + (i - count)]
end
local stored = 0
for i = 1, count do
  if read(KEYS[i]) == ARGV[1] then
    if is_current then
      redis.call('SET', KEYS[i], ARGV[2 + i * 2], 'PX', ARGV[1 + i * 2])
      stored = stored + 1
    else
      redis.call('DEL', KEYS[i])
    end
  end
end
return stored
"""
