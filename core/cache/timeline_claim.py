"""The timeline claim: a key in Redis that names the database and timeline of the values in the shared cache.

Owns this key, and the script with which each process claims it for the timeline of its own database
connections. The script is a part of every capability check. A process uses the cache only while the key names
its own timeline. Values that were stored under another timeline are never read, because the timeline is a
part of each value's origin.
"""

import time
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from core.cache.client import Script
from core.cache.connection import ErrorReply, RedisConnection, encode_command
from core.failover import KnownTimeline, Timeline

# The key of the timeline claim. It has none of the prefixes in `FAMILIES`, so the invalidation feed does not
# report each renewal of the claim to every process.
KEY: Final = "timeline"
# TTL of the key of the timeline claim. When the last process that uses a database has stopped, processes of
# another database can use the same key prefix after this time.
CLAIM_MILLISECONDS: Final = 30_000

# KEYS: keys for which the caller checks its permissions, then the key of the timeline claim. ARGV: the
# timeline of the database to which the process is connected, '' if it is unknown, and the TTL of the key in
# milliseconds.
#
# Stores the timeline in the key. A later timeline of the same database replaces an earlier one, but a
# timeline of another database stays. Returns the timeline in the key after the script, and the one before the
# script.
CLAIM = Script(
    """
local key, own = KEYS[#KEYS], ARGV[1]
local found = redis.call('MGET', key)[1] or ''
if own == '' then return {found, found} end
local database, number = string.match(found, '^([%d.]+):(%d+)$')
local own_database, own_number = string.match(own, '^([%d.]+):(%d+)$')
if database and (database ~= own_database or tonumber(number) > tonumber(own_number)) then
  return {found, found}
end
if found ~= own or redis.call('PTTL', key) < ARGV[2] / 2 then
  if redis.pcall('SET', key, own, 'PX', ARGV[2]).err then return {found, found} end
end
return {own, found}
"""
)


class TimelineClaim:
    """The claim of one process that the cache belongs to its database; thread safe.

    Each capability check renews the claim.
    """

    def __init__(self, prefix: str, timeline: KnownTimeline, *, trust_seconds: float) -> None:
        """Send no command. `trust_seconds` is the longest time for which a process trusts a check."""
        self._key = prefix + KEY
        self._timeline = timeline
        self._trust_seconds = trust_seconds
        # other processes may use values of the former timeline until this time
        self._unnoticed_until = float("-inf")

    def encode(self, keys: Sequence[str]) -> bytes:
        """Return the encoded command that claims the cache for the timeline of this process.

        The server refuses the command if scripts may not use `keys`.
        """
        own = "" if self._timeline.connected is None else str(self._timeline.connected)
        return encode_command("EVAL", CLAIM.text, len(keys) + 1, *keys, self._key, own, CLAIM_MILLISECONDS)

    def evaluate(self, connection: RedisConnection, reply: Any) -> bool:
        """Evaluate the reply to the command of `encode`. Return whether `connection.timeline` changed.

        Sets `connection.timeline` to the timeline in the key. If the command replaced that timeline, this
        waits until every other process has noticed the change. Raises `ErrorReply` while the cache belongs to
        another timeline.
        """
        if isinstance(reply, ErrorReply):
            # the memory of the server is full: it stores no values, so no claim is needed
            return False
        holds, before = (Timeline.parse(part.decode("ascii", "replace")) for part in reply)
        own = self._timeline.connected
        if holds is not None and own is not None and holds != own:
            self._refuse(own, holds)
        if before is not None and before != holds:
            self._unnoticed_until = time.monotonic() + self._trust_seconds
        unnoticed_seconds = self._unnoticed_until - time.monotonic()
        if unnoticed_seconds > 0:
            time.sleep(unnoticed_seconds)
        has_changed: bool = connection.timeline != reply[0]
        connection.timeline = reply[0]
        return has_changed

    def _refuse(self, own: Timeline, holds: Timeline) -> NoReturn:
        self._timeline.record_newer(holds)
        if own.is_before(holds):
            raise ErrorReply(
                f"TIMELINE the database was promoted to timeline {holds.number}, and this process is"
                f" still connected to timeline {own.number}"
            )
        raise ErrorReply(
            "TIMELINE another database uses the keys under REDIS_KEY_PREFIX; give each database its own"
        )
