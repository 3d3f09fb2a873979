"""Leases and fences: the protocol that decides which process may fill a key, and its Lua scripts.

A script is atomic: Redis runs no other command while a script runs. The first byte of the bytes under a key
is their mark:

- V: a value; N: the row does not exist.
- L: a lease. A reader that missed stores a random token under the key itself. It may fill the key only while
  this token is still there. An invalidation deletes the token, so a value that was loaded before a write
  cannot be stored after the write.
- R: a version (revision). Many values are stored under one version. When its key is deleted, all these values
  are outdated. The process that creates a version key gives it a random value that it never had before.
- F: fences. A writer adds its fence to a key before its COMMIT, and removes the fence afterwards. No reader
  fills a fenced key. If the writer dies in between, its fence expires, and the next reader loads the
  committed row. Two writers of one key have two fences: when one writer removes its fence, the key stays
  fenced until the other writer has committed.
- P: an LSN slot, which has the LSN of recent commits, see `core.cache.lsn_slots`.

Sends no commands itself.

Source of the lease: Nishtala et al., Scaling Memcache at Facebook (NSDI 2013), 3.2.1.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from core.cache.client import PendingReply, Script
from core.cache.codec import ORIGIN_BYTES, UNKNOWN_ORIGIN, VERSION_MARK, new_token
from core.cache.kinds import MAX_TTL_SECONDS
from core.cache.lsn_slots import SLOT_FUNCTIONS, SLOT_MILLISECONDS, UNKNOWN, UNKNOWN_MILLISECONDS

# The replies of LEASE for each key: this reader has got the lease; another reader is loading or has loaded
# the value; a writer has fenced the key or one of the version keys.
GRANTED: Final = 1
TAKEN: Final = 0
FENCED: Final = -1

# TTL of a lease. If a reader dies, its key cannot be filled for this time. A load that takes longer is not
# stored.
LEASE_MILLISECONDS = 10_000
# The TTL of a fence is the query timeout and this margin, so that the fence outlasts the COMMIT. If a writer
# dies, its keys cannot be filled for this time.
FENCE_MARGIN_MILLISECONDS = 5_000
# TTL of a version key. It is long, because LEASE does not renew it. When the key expires, all values stored
# under it become misses.
VERSION_MILLISECONDS = 2 * MAX_TTL_SECONDS * 1000
NO_TOKEN = b""

# A fence is stored as a token of 16 bytes and its expiry time in milliseconds (13 digits); a lease or a
# version is only a token. The scripts read all keys with one MGET, because each command that a script calls
# is slow.
#
# `list_fences` returns the fences in `stored` that have not expired and whose tokens are not in `own`.
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

# KEYS: value keys, then version keys. If the LSN is needed, then also the LSN slots of these keys.
# ARGV, with times in milliseconds: the token of the lease; the TTL of the lease; the TTL of a version key;
# the number of value keys; the schema and origin (`core.cache.origin`) of a current value; the number of LSN
# slots; the TTL of an LSN slot; the time for which the LSN of a new slot is unknown; the origin of a current
# LSN slot; then, for each version key, the value that the key gets if the script creates it.
#
# Grants a lease on a key that is missing, or whose bytes no reader can use: for example a value of another
# schema, origin or version, or bytes that the cache did not write.
#
# Returns for each value key 1 (granted), 0 (another reader is loading or has loaded the value) or -1 (the key
# or a version key is fenced), then each version. With slots, the last item is the highest LSN of the
# slots, or '' if an LSN is unknown.
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
  local lsn = string.rep('0', 16)
  for i = first_slot, #KEYS do
    local stored = all[i]
    if not is_slot(stored) or string.sub(stored, 31) ~= ARGV[9] then
      write_slot(KEYS[i], now + ARGV[8], string.rep('0', 16), ARGV[9], ARGV[7])
      lsn = ''
    elseif tonumber(string.sub(stored, 2, 14)) > now then
      lsn = ''
    elseif lsn ~= '' and string.sub(stored, 15, 30) > lsn then
      lsn = string.sub(stored, 15, 30)
    end
  end
  result[first_slot] = lsn
end
return result
"""
)

# KEYS: value keys, then version keys. ARGV: the token of the lease; the number of value keys; then, for each
# value, its TTL in milliseconds and its stored form; then each version under which the values were loaded.
#
# Stores the values of those keys that still hold the lease with this token. But if the TTL of a value is 0,
# or if a version has changed, the script only deletes the lease, so that the next reader gets a lease.
# Returns the number of values that were stored.
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

# KEYS: the keys that a transaction changes. ARGV: the token of the writer's fence, the TTL of this fence in
# milliseconds.
#
# Adds the fence of the writer to each key. The fence replaces a value, a lease or a version; the fences of
# other writers stay. If the memory of the server is too full to store a fence, the script deletes the key
# instead, unless another writer has fenced the key, and returns the server's error. Otherwise the script
# returns the number of keys.
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

# KEYS: the keys that a write changed, and their LSN slots. ARGV, with times in milliseconds: the token of the
# writer's fence, or the tokens of several fences in one string; the LSN of the write, '' if it is unknown;
# the time for which the LSN of a slot is unknown after a write without an LSN; the TTL of an LSN slot.
#
# Deletes each key. If other writers have fenced it, their fences stay, because their COMMIT may still come.
# The invalidation feed reports the key in both cases, because it is written. Increases the LSN in each slot,
# or marks the LSN as unknown. Creates no missing slot: LEASE creates it and marks its LSN as unknown, because
# earlier LSNs are not known. Returns the number of keys and LSN slots.
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
    local unknown_until, lsn = tonumber(string.sub(stored, 2, 14)), string.sub(stored, 15, 30)
    if ARGV[2] == '' then
      unknown_until = math.max(unknown_until, now + ARGV[3])
    elseif ARGV[2] > lsn then
      lsn = ARGV[2]
    end
    if write_slot(KEYS[i], unknown_until, lsn, string.sub(stored, 31), ARGV[4]).err then
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
    """The reply to a reader that missed: `states` has GRANTED, TAKEN or FENCED for each key.

    The reader stores values with `versions` and `origin`. It loads them from a server that has replayed
    the WAL up to `lsn`, or from the primary if `lsn` is None (unknown).
    """

    token: bytes
    states: dict[str, int]
    version_keys: tuple[str, ...]
    versions: tuple[bytes, ...]
    origin: bytes
    lsn: int | None


class Fence(NamedTuple):
    """A fence that a writer has set on some keys. `pending` is the unread reply of Redis, or None."""

    token: bytes = NO_TOKEN
    pending: PendingReply | None = None


NO_FENCE = Fence()


def build_lease_request(
    token: bytes, keys: Sequence[str], version_keys: Sequence[str], head: bytes, *, slots: int = 0
) -> list[Any]:
    """Return the arguments of the script LEASE.

    `head` is the schema of a current value, and its origin: the run of the Redis server that stored it.
    The arguments contain a new random value for each version key, in case the script creates that key. A
    version key must never get an earlier value again. Otherwise values from before a write would become valid
    again (the ABA problem).
    """
    fresh = [new_token(VERSION_MARK) for _ in version_keys]
    of_slots = [slots, SLOT_MILLISECONDS, UNKNOWN_MILLISECONDS, head[-ORIGIN_BYTES:]]
    return [token, LEASE_MILLISECONDS, VERSION_MILLISECONDS, len(keys), head, *of_slots, *fresh]


def build_release_request(token: bytes, lsn: str = UNKNOWN) -> list[Any]:
    """Return the arguments of the script RELEASE. `token` is the token of a fence, or of several fences."""
    return [token, lsn, UNKNOWN_MILLISECONDS, SLOT_MILLISECONDS]


def parse_lease(
    token: bytes,
    keys: Sequence[str],
    version_keys: Sequence[str],
    reply: Sequence[Any],
    *,
    origin: bytes,
    asked_origin: bytes,
) -> Lease:
    """Return the reply of LEASE as a `Lease`.

    `origin` identifies the run of the server that answered; `asked_origin` is that of the request. If they
    differ or are unknown, the LSN in the reply is not used.
    """
    states = dict(zip(keys, reply, strict=False))
    versions = reply[len(keys) : len(keys) + len(version_keys)]
    [lsn] = reply[len(keys) + len(version_keys) :] or [b""]
    is_trusted = origin == asked_origin != UNKNOWN_ORIGIN
    return Lease(
        token,
        states,
        tuple(version_keys),
        tuple(versions),
        origin,
        int(lsn, 16) if lsn and is_trusted else None,
    )
