"""Epochs: how all processes leave a former primary before any of them reads from the next one.

After a failover or the move of a slot another server has the keys. The former server may still answer, and
processes learn of the new one at different times. The epoch of a server is a record under one key on it:

- The first process that uses a server as the primary begins an epoch with a random token. Values are valid
  only in the epoch in which they were stored, so values from before it are never served: the new primary was
  a replica, and may never have received the last invalidations.
- Nothing is read in the first second of an epoch and a little longer (`PAUSE_SECONDS` and two timeouts). By
  then every other process has found the new primary and sent its pending invalidations to it.
- A process that moves to a new primary ends the epoch on the former one, if that server still answers. Every
  check of a connection compares the record, so the other processes leave the former server within the time
  for which a check is trusted. A write whose process has moved waits for this time before it returns.

Only a topology in which the primary can change has epochs.
"""

import contextlib
import secrets
import threading
import time
from collections.abc import Callable
from typing import Final

import redis

from core.backoff import LONGEST_SECONDS
from core.cache.connection import ErrorReply, RedisConnection
from core.cache.topology import PRIMARY_MOVED, Topology
from core.settings.redis_url import HostPort

KEY: Final = "primary-epoch"
TOKEN_BYTES: Final = 8
# How long the record of an ended epoch is kept. An epoch can be ended by mistake, by a process that asked a
# partitioned sentinel: after this time the server can begin a new epoch.
ENDED_MILLISECONDS: Final = 10_000
# Timeout for ending the epoch on the former primary, which may hang.
LONGEST_END_SECONDS = 0.25
# A process that looks for the primary pauses for a second at most. Its last attempt to use the former primary
# takes one timeout to connect and another one for the reply.
PAUSE_SECONDS = LONGEST_SECONDS + 0.1
ATTEMPT_TIMEOUTS = 2

# KEYS: the record. ARGV: the origin of the server, a fresh token.
# The record is E, the origin, the token and the begin in milliseconds; of an ended epoch it is X and the
# origin. Returns the record and the age of the epoch in milliseconds, -1 if it was ended.
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
# Ends the epoch of this origin. KEYS: the record. ARGV: the origin of the server, milliseconds to keep it.
_END: Final = """
local stored = redis.call('MGET', KEYS[1])[1] or ''
if string.sub(stored, 1, 9) == 'E' .. ARGV[1] then
  redis.call('SET', KEYS[1], 'X' .. ARGV[1], 'PX', ARGV[2])
end
return 1
"""


class Epochs:
    """The epochs that one process has joined; thread safe."""

    def __init__(
        self,
        topology: Topology,
        *,
        prefix: str,
        timeout_seconds: float,
        on_move: Callable[[], None] = lambda: None,
    ) -> None:
        """Join no epoch yet; `on_move` is called when this process has moved to another server."""
        self.key = prefix + KEY
        self._topology = topology
        self._read_after_seconds = PAUSE_SECONDS + ATTEMPT_TIMEOUTS * timeout_seconds
        self._on_move = on_move
        self._lock = threading.Lock()
        self._server: HostPort | None = None
        self._origin = b""
        self._moves = 0
        # origin of the server that this process left last -> until when it is avoided; a server that is
        # promoted again has a new origin
        self._left_until: dict[bytes, float] = {}
        self._readable_at = float("-inf")

    @property
    def seconds_until_readable(self) -> float:
        """How long the current primary must not be read yet."""
        return max(0.0, self._readable_at - time.monotonic())

    @property
    def server(self) -> HostPort | None:
        """The primary whose epoch this process has joined last; None before the first."""
        return self._server

    def are_on(self, connection: RedisConnection) -> bool:
        """Return whether the server of a connection has epochs."""
        return self._topology.has_epochs(connection)

    def join(self, connection: RedisConnection, origin: bytes) -> None:
        """Join the epoch of a connection's server, or begin one; `origin` identifies the server's data.

        Raises `ErrorReply` for a former primary, which this process or another one has left.
        """
        moves, asked_at = self._moves, time.monotonic()
        if self._topology.is_late and asked_at < self._left_until.get(origin, 0.0):
            # an outdated sentinel still names the server that this process left; its epoch may not be ended
            # yet, because the server hung at that time
            connection.ask("EVAL", _END, 1, self.key, origin, ENDED_MILLISECONDS)
            self._topology.avoid(connection)
            raise ErrorReply(PRIMARY_MOVED)
        token = secrets.token_bytes(TOKEN_BYTES)
        try:
            record, age_milliseconds = connection.ask("EVAL", _JOIN, 1, self.key, origin, token)
        except ErrorReply as error:
            raise ErrorReply(f"{error} (refused: EVAL of the epoch)") from error
        if age_milliseconds < 0:
            self._topology.avoid(connection)
            raise ErrorReply(PRIMARY_MOVED)
        connection.epoch = record
        connection.readable_at = asked_at + self._read_after_seconds - age_milliseconds / 1000
        self._move_to(connection.address.server, origin, readable_at=connection.readable_at, moves=moves)

    def _move_to(self, server: HostPort, origin: bytes, *, readable_at: float, moves: int) -> None:
        with self._lock:
            former, former_origin = self._server, self._origin
            if origin != former_origin:
                if moves != self._moves:
                    # another thread has moved this process to another server meanwhile: do not move it back
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
        connection = self._topology.make_connection_to(server, timeout_seconds=LONGEST_END_SECONDS)
        # errors are ignored: usually the former primary is down, or a replica now
        with contextlib.suppress(redis.RedisError, OSError), contextlib.closing(connection):
            connection.ask("EVAL", _END, 1, self.key, origin, ENDED_MILLISECONDS)

    def confirm(self, connection: RedisConnection) -> None:
        """Raise `ErrorReply` if the sentinels name another server than the connection's server."""
        self._topology.confirm(connection)
