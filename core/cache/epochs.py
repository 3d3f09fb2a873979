"""Epochs: how all processes leave a former primary before any of them reads from the next one.

A failover or the move of a slot gives the keys to another server, while the former one may still answer,
and processes learn of it one after another. The epoch of a server is a record under one key on it:

- The first process that uses a server as the primary begins an epoch with a random token. Values are valid
  only in the epoch in which they were stored, so nothing of before is served: a replica may never have
  received the last invalidations.
- Nothing is read within its first second and a bit. By then every other process has found the new primary
  and sent its pending invalidations there.
- A process that comes from another server ends the epoch there, if that server still answers. Every check
  of a connection compares the record, so the other processes leave that server within the time for which
  a check is trusted. A write that has moved waits as long before it returns.

Only a topology in which the primary changes has epochs.
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
# An epoch may have been ended by mistake, because of a sentinel that was cut off: then it begins again.
ENDED_MILLISECONDS: Final = 10_000
# The former primary may hang; nobody waits for it for longer.
LONGEST_END_SECONDS = 0.25
# A process that looks for the primary pauses for a second at most, and its last attempt at the former one
# takes a timeout to connect and another one for the answer.
PAUSE_SECONDS = LONGEST_SECONDS + 0.1
ATTEMPT_TIMEOUTS = 2

# KEYS: the record. ARGV: the origin of the server, a fresh token.
# The record is E, the origin, the token and the milliseconds of its begin; once ended it is X and the origin.
# Returns the record and its age in milliseconds, -1 when it was ended.
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
# KEYS: the record. ARGV: the origin of the server, milliseconds.
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
        """Join nothing yet; `on_move` is called when this process has moved to another server."""
        self.key = prefix + KEY
        self._topology = topology
        self._read_after_seconds = PAUSE_SECONDS + ATTEMPT_TIMEOUTS * timeout_seconds
        self._on_move = on_move
        self._lock = threading.Lock()
        self._server: HostPort | None = None
        self._origin = b""
        self._moves = 0
        # the server that this process left last, by its origin: a new promotion gives it another one
        self._left_until: dict[bytes, float] = {}
        self._readable_at = float("-inf")

    @property
    def seconds_until_readable(self) -> float:
        """How long the present primary may not be read."""
        return max(0.0, self._readable_at - time.monotonic())

    @property
    def server(self) -> HostPort | None:
        """The present primary, as far as this process has joined it."""
        return self._server

    def are_on(self, connection: RedisConnection) -> bool:
        """Say whether the server of a connection has epochs."""
        return self._topology.has_epochs(connection)

    def join(self, connection: RedisConnection, origin: bytes) -> None:
        """Join the epoch of a connection's server, whose data has this origin, or begin one.

        Raises `ErrorReply` for a server that other processes have left.
        """
        moves, asked_at = self._moves, time.monotonic()
        if self._topology.is_late and asked_at < self._left_until.get(origin, 0.0):
            # it hung when this process left it, and a sentinel that has not heard of that still names it
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
                    # another thread moved meanwhile, and must not be moved back
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
        # most of the time it is down, or a replica
        with contextlib.suppress(redis.RedisError, OSError), contextlib.closing(connection):
            connection.ask("EVAL", _END, 1, self.key, origin, ENDED_MILLISECONDS)

    def confirm(self, connection: RedisConnection) -> None:
        """Raise `ErrorReply` when the sentinels name another server than that of the connection."""
        self._topology.confirm(connection)
