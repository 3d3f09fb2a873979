"""Epochs: every process leaves a former primary before any process reads from the next primary.

After a failover, or after the move of a cluster slot, another server is the primary. The former primary may
still answer, and processes learn of the new one at different times. An epoch is the time in which one server
is the primary. It is recorded on that server, under one key:

- The first process that uses a server as the primary begins an epoch with a random token. Values are valid
  only in the epoch in which they were stored. So the values that the new primary has from before its epoch
  are never served: as a replica it may have missed the last invalidations.
- Nothing is read at the beginning of an epoch, for `PAUSE_SECONDS` and two timeouts. By then every other
  process has found the new primary and sent its waiting invalidations to it.
- A process that moves to a new primary ends the epoch on the former one, if that server still answers. Every
  check of a connection compares the record on the server with the record of the epoch that the process has
  joined there. So the other processes leave the former primary within the time for which they trust a check,
  at most `core.cache.guard.TRUST_SECONDS`. After a move, a writer waits for that long before it returns.

Only a topology in which the primary can change has epochs.
"""

import contextlib
import secrets
import threading
import time
from collections.abc import Callable
from typing import Final

import redis

from core.backoff import MAX_SECONDS
from core.cache.connection import ErrorReply, RedisConnection
from core.cache.origin import digest_origin, read_server
from core.cache.topology import PRIMARY_MOVED, Topology
from core.settings.redis_url import HostPort

KEY: Final = "primary-epoch"
TOKEN_BYTES: Final = 8
# TTL of the record of an ended epoch. When the record has expired, a new epoch of the same server can begin.
# This is needed if a process asked a partitioned sentinel, and then ended the epoch of the real primary by
# mistake.
ENDED_MILLISECONDS: Final = 10_000
# Timeout of the command that ends the epoch of the former primary, because that server may hang.
END_TIMEOUT_SECONDS = 0.25
# Maximum pause of a process between two attempts to find the primary, with some reserve.
PAUSE_SECONDS = MAX_SECONDS + 0.1
# Number of timeouts in the last attempt to use the former primary: one to connect, one for the reply.
ATTEMPT_TIMEOUTS = 2

# KEYS: the key of the epoch's record. ARGV: the origin (run) of this Redis server, a new random token.
# Begins an epoch of this server, unless the record has its origin already. Returns the record, and the age of
# the epoch in milliseconds or -1 if the epoch was ended.
#
# The record of an epoch is E, the origin, the token, and the time in milliseconds at which the epoch began.
# The record of an ended epoch is X and the origin.
_JOIN: Final = """
local stored = redis.call('MGET', KEYS[1])[1] or ''
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if string.sub(stored, 2, 9) == ARGV[1] then
  if string.sub(stored, 1, 1) == 'X' then return {stored, -1} end
  return {stored, now - tonumber(string.sub(stored, 18))}
end
local record = 'E' .. ARGV[1] .. ARGV[2] .. string.format('%013.0f', now)
redis.call('SET', KEYS[1], record)
return {record, 0}
"""
# KEYS: the key of the epoch's record. ARGV: the origin (run) of this Redis server, TTL in milliseconds.
# Ends the epoch of this server. The record of the ended epoch gets the TTL.
_END: Final = """
local stored = redis.call('MGET', KEYS[1])[1] or ''
if string.sub(stored, 1, 9) == 'E' .. ARGV[1] then
  redis.call('SET', KEYS[1], 'X' .. ARGV[1], 'PX', ARGV[2])
end
return 1
"""


class Epochs:
    """Makes one process join the epoch of each primary that it uses; thread safe.

    An epoch is the time in which one Redis server is the primary.
    """

    def __init__(
        self,
        topology: Topology,
        *,
        prefix: str,
        timeout_seconds: float,
        on_move: Callable[[], None],
    ) -> None:
        """Join no epoch yet. `on_move` is called after this process has moved to another server."""
        self.key = prefix + KEY
        self.topology = topology
        self._read_after_seconds = PAUSE_SECONDS + ATTEMPT_TIMEOUTS * timeout_seconds
        self._on_move = on_move
        self._lock = threading.Lock()
        self._server: HostPort | None = None
        self._origin = b""
        self._moves = 0
        # the origin (run) of the Redis server that this process left last, and the time until which it avoids
        # this server; a server that is promoted again has another origin
        self._left_until: dict[bytes, float] = {}
        self._readable_at = float("-inf")

    @property
    def seconds_until_readable(self) -> float:
        """Seconds until the current primary may be read."""
        return max(0.0, self._readable_at - time.monotonic())

    @property
    def server(self) -> HostPort | None:
        """The server whose epoch this process has joined last. None if it has not joined any epoch yet."""
        return self._server

    def join(self, connection: RedisConnection) -> None:
        """Join the epoch of the connection's server, or begin one. Do nothing if the server has no epochs.

        Raises `ErrorReply` if this process or another one has left the server for a new primary.
        """
        if not self.topology.has_epochs(connection):
            return
        server = read_server(connection)
        if not all(server):
            raise ErrorReply("NOPERM it does not show INFO, which tells one primary from another")
        origin = digest_origin(server)
        moves, asked_at = self._moves, time.monotonic()
        if self.topology.is_late and asked_at < self._left_until.get(origin, 0.0):
            # An outdated sentinel still names the server that this process left. The epoch of that server may
            # still be running, because the server may have hung when its epoch should have been ended.
            connection.execute("EVAL", _END, 1, self.key, origin, ENDED_MILLISECONDS)
            self.topology.avoid()
            raise ErrorReply(PRIMARY_MOVED)
        token = secrets.token_bytes(TOKEN_BYTES)
        try:
            record, age_milliseconds = connection.execute("EVAL", _JOIN, 1, self.key, origin, token)
        except ErrorReply as error:
            raise ErrorReply(f"{error} (refused: EVAL of the epoch)") from error
        if age_milliseconds < 0:
            self.topology.avoid()
            raise ErrorReply(PRIMARY_MOVED)
        connection.epoch = record
        connection.readable_at = asked_at + self._read_after_seconds - age_milliseconds / 1000
        self._move_to(connection.address.server, origin, readable_at=connection.readable_at, moves=moves)

    def _move_to(self, server: HostPort, origin: bytes, *, readable_at: float, moves: int) -> None:
        with self._lock:
            former, former_origin = self._server, self._origin
            if origin != former_origin:
                if moves != self._moves:
                    # meanwhile another thread has moved this process to another server: do not move it back
                    raise ErrorReply(PRIMARY_MOVED)
                self._moves += 1
                self._left_until = {former_origin: time.monotonic() + ENDED_MILLISECONDS / 1000}
            self._server, self._origin = server, origin
            self._readable_at = readable_at
        if former is None or origin == former_origin:
            return
        if former != server:
            self._end(former, former_origin)
        self._on_move()

    def _end(self, server: HostPort, origin: bytes) -> None:
        connection = self.topology.make_connection_to(server, timeout_seconds=END_TIMEOUT_SECONDS)
        # ignore errors: usually the former primary is down, or it has become a replica
        with contextlib.suppress(redis.RedisError, OSError), contextlib.closing(connection):
            connection.execute("EVAL", _END, 1, self.key, origin, ENDED_MILLISECONDS)
