"""Leases and fences: the protocol by which processes agree on who may fill a key, and its Lua scripts.

Redis runs no other command while a script runs. The first byte of each stored value is its mark:

- V: a value; N: the row does not exist.
- L: a lease. A reader that missed stores a random token under the key itself, and may fill the key only
  while that token is still there. An invalidation deletes the key and the token with it, so a value that
  was loaded before a write is refused after it.
- R: a version (revision). Many values are stored under one version, and deleting it outdates them all.
  Whoever creates a version key gives it a random value that it never had before.
- F: fences. A writer adds its own before its COMMIT and removes it afterwards. Nobody fills a fenced key.
  So a process that dies in between leaves no stale value: its fence expires, and the next reader loads
  the committed row. Two writers of one key have a fence each: when one of them removes its fence, the key
  stays closed until the COMMIT of the other.
- P: a slot with the position of invalidations, see `core.cache.position_slots`.

Sends no commands itself.

Source of the lease: Nishtala et al., Scaling Memcache at Facebook (NSDI 2013), 3.2.1.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from core.cache.client import PendingReply, Script
from core.cache.codec import ORIGIN_BYTES, UNKNOWN_ORIGIN, VERSION_MARK, new_token
from core.cache.kinds import MAX_TTL_SECONDS
from core.cache.position_slots import SLOT_FUNCTIONS, SLOT_MILLISECONDS, UNKNOWN, UNKNOWN_MILLISECONDS

# The replies of LEASE for each key.
GRANTED: Final = 1
TAKEN: Final = 0
FENCED: Final = -1

# A reader that dies blocks its key for this long; the fill of a loader that takes longer is refused.
LEASE_MILLISECONDS = 10_000
# Added to the query timeout, so that a fence outlasts the COMMIT. A writer that dies blocks its keys for the
# sum of both.
FENCE_MARGIN_MILLISECONDS = 5_000
# LEASE does not renew a version key, and losing one makes misses of the values that were stored under it.
VERSION_MILLISECONDS = 2 * MAX_TTL_SECONDS * 1000
NO_TOKEN = b""

# A fence is a token of 16 bytes and its expiry in milliseconds, 13 digits; a lease and a version are a
# token each. One MGET reads all keys, because each command that a script calls is slow.
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

# KEYS: value keys, then version keys, then their slots when a position is wanted. ARGV: token, lease ms,
# version ms, number of value keys, schema and origin of the values, number of slots, slot ms, unknown ms,
# origin, then for each version key the value that it gets when it is missing.
# Grants a lease on a key that is missing or holds what no reader can use: a value of another schema or
# origin, a value stored under other versions, foreign bytes.
# Returns 1 (granted), 0 (another reader loads or has loaded) or -1 (fenced) for each value key, then
# each version, then the position of the slots if there are any; '' when it is unknown.
LEASE = Script(
    _FENCES
    + SLOT_FUNCTIONS
    + """
local all = redis.call('MGET', unpack(KEYS))
local count = tonumber(ARGV[4])
local first_slot = #KEYS - tonumber(ARGV[6]) + 1
local result = {}
-- a usable value has this behind its mark, see core.cache.codec
local head = ARGV[5]
local is_fenced = false
local function is_fence(stored)
  return string.sub(stored, 1, 1) == 'F' and list_fences(stored, '', read_ms()) ~= ''
end
for i = count + 1, first_slot - 1 do
  local version = all[i] or ''
  if is_fence(version) then
    is_fenced = true
    version = ''
  elseif string.sub(version, 1, 1) ~= 'R' or #version ~= 16 then
    version = ARGV[9 + i - count]
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
  -- '' for a missing key, and for a key of another type
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
if first_slot <= #KEYS then
  local now = read_ms()
  local position = string.rep('0', 16)
  for i = first_slot, #KEYS do
    local stored = all[i]
    if not is_slot(stored) or string.sub(stored, 31) ~= ARGV[9] then
      write_slot(KEYS[i], now + ARGV[8], string.rep('0', 16), ARGV[9], ARGV[7])
      position = ''
    elseif tonumber(string.sub(stored, 2, 14)) > now then
      position = ''
    elseif position ~= '' and string.sub(stored, 15, 30) > position then
      position = string.sub(stored, 15, 30)
    end
  end
  result[first_slot] = position
end
return result
"""
)

# KEYS: value keys, then version keys. ARGV: token, number of value keys, then for each value its
# milliseconds and its stored form, then each version that the values were loaded under.
# A value with 0 milliseconds, or one that is refused, ends its lease, so that the next reader may fill.
# Returns how many values were stored.
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

# KEYS: what a transaction changes. ARGV: the writer's token, the milliseconds of its fence.
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
    -- the server is out of memory: drop the old value in case the writer dies now
    refusal = done
    if fences == own then redis.call('UNLINK', KEYS[i]) end
  end
end
return refusal or #KEYS
"""
)

# KEYS: the keys that a write changed, and their slots. ARGV: the token of the writer, or a string of several
# writers' tokens; the position of the write, '' when it is unknown; unknown ms; slot ms.
# Fences of other writers stay: their COMMIT is still to come. The key is written in either case, so that
# the invalidation feed reports it. A slot that is missing stays so: its creator knows nothing of before.
RELEASE = Script(
    _FENCES
    + SLOT_FUNCTIONS
    + """
local now = read_ms()
local found = redis.call('MGET', unpack(KEYS))
local gone = {}
for i = 1, #KEYS do
  local stored = found[i]
  local kept = ''
  -- fast path: only the writer's own fence
  if stored and string.byte(stored) == 70 and (#stored ~= 29 or string.sub(stored, 1, 16) ~= ARGV[1]) then
    kept = list_fences(stored, ARGV[1], now)
  end
  if is_slot(stored) then
    local unknown_until, position = tonumber(string.sub(stored, 2, 14)), string.sub(stored, 15, 30)
    if ARGV[2] == '' then
      unknown_until = math.max(unknown_until, now + ARGV[3])
    elseif ARGV[2] > position then
      position = ARGV[2]
    end
    if write_slot(KEYS[i], unknown_until, position, string.sub(stored, 31), ARGV[4]).err then
      -- the server is out of memory
      gone[#gone + 1] = KEYS[i]
    end
  elseif kept == '' then
    gone[#gone + 1] = KEYS[i]
  else
    -- refused when the server is out of memory: then the own fence stays until it expires
    redis.pcall('SET', KEYS[i], kept, 'KEEPTTL')
  end
end
if #gone > 0 then redis.call('UNLINK', unpack(gone)) end
return #KEYS
"""
)


class Lease(NamedTuple):
    """The answer to a reader that missed: GRANTED, TAKEN or FENCED for each key.

    Values are stored under its versions and its origin. They have to be loaded from a server that has
    `position`, None when that is unknown.
    """

    token: bytes
    states: dict[str, int]
    version_keys: tuple[str, ...]
    versions: tuple[bytes, ...]
    origin: bytes
    position: int | None


class Fence(NamedTuple):
    """Keeps readers from filling keys that are about to change; `pending` until its reply is read."""

    token: bytes = NO_TOKEN
    pending: PendingReply | None = None


NO_FENCE = Fence()


def build_lease_request(
    token: bytes, keys: Sequence[str], version_keys: Sequence[str], head: bytes, *, slots: int = 0
) -> list[Any]:
    """Return the arguments of LEASE; current values begin with `head` and the versions.

    Each version key gets a random value of its own, in case the script creates it. A version that came
    back would make values valid again from before a write (the ABA problem).
    """
    fresh = [new_token(VERSION_MARK) for _ in version_keys]
    of_slots = [slots, SLOT_MILLISECONDS, UNKNOWN_MILLISECONDS, head[-ORIGIN_BYTES:]]
    return [token, LEASE_MILLISECONDS, VERSION_MILLISECONDS, len(keys), head, *of_slots, *fresh]


def build_release_request(token: bytes, position: str = UNKNOWN) -> list[Any]:
    """Return the arguments of RELEASE."""
    return [token, position, UNKNOWN_MILLISECONDS, SLOT_MILLISECONDS]


def parse_lease(
    token: bytes,
    keys: Sequence[str],
    version_keys: Sequence[str],
    reply: Sequence[Any],
    *,
    origin: bytes,
    asked_origin: bytes,
) -> Lease:
    """Return the lease that LEASE answered with, for slots with an origin.

    Slots are worth nothing when another server answered than the one that they were asked of, or when it is
    not known which one did.
    """
    states = dict(zip(keys, reply, strict=False))
    versions = reply[len(keys) : len(keys) + len(version_keys)]
    [position] = reply[len(keys) + len(version_keys) :] or [b""]
    is_trusted = origin == asked_origin != UNKNOWN_ORIGIN
    return Lease(
        token,
        states,
        tuple(version_keys),
        tuple(versions),
        origin,
        int(position, 16) if position and is_trusted else None,
    )
