"""The Redis client of one process: idle connections, commands and scripts.

Owns the idle connections, and knows which scripts the server has and when a connection must be checked again.
Values are read only on a connection whose server has passed the capability check. Never repeats a failed
command, except to send the text of a script that the server does not have. Does not translate errors.
"""

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import redis

from core.cache.connection import ErrorReply, RedisConnection, encode_command

# Encoded commands are sent in pieces of about this size. The server runs the first ones while the rest is
# encoded.
SEND_BYTES = 16_384
# The capability check is repeated on a connection after this fraction of `trust_seconds`. So the check is
# still valid when the reply to the next read arrives.
RECHECK_FRACTION = 0.5
# The names of keys: strings, or bytes from a reply to SCAN.
Keys = Sequence[str] | Sequence[bytes]


class Script:
    """A Lua script, and its SHA1 for EVALSHA."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class PendingReply:
    """The unread reply to a script. Nobody else uses its connection until the reply has been read."""

    def __init__(self, connection: RedisConnection) -> None:
        self.connection = connection
        self.is_open = True

    def give_up(self) -> None:
        """Close the connection if the reply has not been read. The server still runs the script."""
        if self.is_open:
            self.is_open = False
            self.connection.close()


class RedisClient:
    """The Redis connections of one process; thread safe.

    `check` runs the capability check on a new connection, and returns the scripts that the server then has.
    `recheck` checks a connection again. Both raise an error if the check fails. A check is valid only for
    `trust_seconds`, because permissions, role and cluster slots of a server can change while a connection is
    open. It is valid only for its own connection, because two connections may lead to two servers, for
    example behind a proxy.

    `on_error` gets error replies that no caller waits for. Set `checks_writes` for a topology in which
    another server may become the primary: then connections are also checked when they are used for writes. A
    former primary still accepts invalidations, but other processes read from the new primary.
    """

    def __init__(
        self,
        connect: Callable[[], RedisConnection],
        *,
        check: Callable[[RedisConnection], Iterable[Script]] = lambda _: (),
        recheck: Callable[[RedisConnection], None] = lambda _: None,
        trust_seconds: float = float("inf"),
        checks_writes: bool = False,
        on_error: Callable[[ErrorReply], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect = connect
        self._check = check
        self._recheck = recheck
        self._trust_seconds = trust_seconds
        self._checks_writes = checks_writes
        self._on_error = on_error
        self._clock = clock
        # Last in, first out: the connection that was used last is used next. The additional connections of a
        # burst stay idle afterwards.
        self._idle: deque[RedisConnection] = deque()
        self._is_closed = False
        # `drop_connections` increases this number; a connection with a lower number is not used again
        self._generation = 0
        # a capability check from before this time is not valid
        self._doubted_at = float("-inf")
        # SHA1s of the scripts that the server had when it last answered
        self._known: set[str] = set()
        self._answered = threading.local()
        self.latest_origin = b""
        """The origin (see `core.cache.origin`) of the connection that was checked last."""

    @property
    def origin(self) -> bytes:
        """The origin (run) of the Redis server from which this thread read last, see `core.cache.origin`."""
        found: bytes = getattr(self._answered, "origin", self.latest_origin)
        return found

    def execute(self, *command: Any) -> Any:
        """Send a command and return its reply. Raises `ErrorReply` and the errors of the connection."""
        return _raise_error(self._exchange([encode_command(*command)])[0])

    def get_many(self, keys: Sequence[str]) -> Any:
        """Return the value of each key. It is None for a missing key and for a key that holds no string."""
        return _raise_error(self._exchange([encode_command("MGET", *keys)], is_checked=True)[0])

    def check(self) -> None:
        """Run the capability check on an idle connection, or on a new one if no connection is idle."""
        self._check_in(self._check_out(is_checked=True, is_read=False))

    def invalidate_checks(self) -> None:
        """Make all capability checks invalid: each connection is checked again before its next read."""
        self._doubted_at = self._clock()

    def drop_connections(self) -> None:
        """Stop using every connection that is open now."""
        self._generation += 1

    def run(self, script: Script, keys: Keys, arguments: Sequence[Any]) -> Any:
        """Run a script and return its reply, on a connection that has passed the capability check.

        If the server does not have the script, the text of the script is sent.
        """
        return self.run_each(script, [keys], arguments, is_checked=True)[0]

    def run_each(
        self,
        script: Script,
        groups: Sequence[Keys],
        arguments: Sequence[Any],
        *,
        after: PendingReply | None = None,
        is_checked: bool = False,
    ) -> list[Any]:
        """Run a script once for each group of keys, in one round trip. Return one reply for each group.

        With `after`, the commands are sent on the connection of this pending reply, which is read first. With
        `is_checked`, the commands are sent on a connection that has passed the capability check. The first
        error reply is raised after all replies have been read.
        """
        replies = self.try_each(script, groups, arguments, after=after, is_checked=is_checked)
        for reply in replies:
            _raise_error(reply)
        return replies

    def try_each(
        self,
        script: Script,
        groups: Sequence[Keys],
        arguments: Sequence[Any],
        *,
        after: PendingReply | None = None,
        is_checked: bool = False,
    ) -> list[Any]:
        """Like `run_each`, but return error replies in the list instead of raising the first one."""
        commands = (_encode_run(script, keys, arguments) for keys in groups)
        replies = self._exchange(commands, after, is_checked=is_checked)
        for place, (keys, reply) in enumerate(zip(groups, replies, strict=True)):
            replies[place] = self._run_unknown(script, keys, arguments, reply)
        return replies

    def get_and_run(
        self, keys: Sequence[str], script: Script, arguments: Sequence[Any], more_keys: Sequence[str] = ()
    ) -> tuple[Any, Any]:
        """Get the values of `keys`, and run a script on `keys` and `more_keys`, in one round trip.

        Returns the values and the reply of the script.
        """
        its_keys = [*keys, *more_keys]
        commands = [encode_command("MGET", *keys), _encode_run(script, its_keys, arguments)]
        found, reply = self._exchange(commands, is_checked=True)
        return _raise_error(found), _raise_error(self._run_unknown(script, its_keys, arguments, reply))

    def run_later(
        self, script: Script, keys: Keys, arguments: Sequence[Any], on_reply: Callable[[Any], None]
    ) -> None:
        """Send a script without waiting for its reply. `on_reply` gets the reply or the error later.

        The reply is read before the reply to any later command on the same connection. If it is not known
        that the server has the script, this method waits for the reply and raises errors.
        """
        if script.sha not in self._known:
            on_reply(self.run(script, keys, arguments))
            return

        def record_reply(reply: Any) -> None:
            self._record_unawaited(reply)
            on_reply(reply)

        connection = self._check_out(is_checked=True)
        try:
            connection.send(_encode_run(script, keys, arguments))
            connection.on_next_reply(record_reply)
        except BaseException as error:
            connection.fail(error)
            raise
        self._check_in(connection)

    def send(self, script: Script, keys: Keys, arguments: Sequence[Any]) -> PendingReply | None:
        """Send a script and return its pending reply, which a later `run_each` takes as `after`.

        If it is not known that the server has the script, this method waits for the reply and returns None.
        """
        if script.sha not in self._known:
            self.run_each(script, [keys], arguments)
            return None
        connection = self._check_out(is_checked=self._checks_writes, is_read=False)
        try:
            connection.send(_encode_run(script, keys, arguments))
        except BaseException as error:
            connection.fail(error)
            raise
        return PendingReply(connection)

    def _run_unknown(self, script: Script, keys: Keys, arguments: Sequence[Any], reply: Any) -> Any:
        """Return `reply`, or the reply to the script's text if the server does not have the script."""
        if is_unknown_script(reply):
            self._known.clear()
            [reply] = self._exchange([encode_command("EVAL", script.text, len(keys), *keys, *arguments)])
        if not isinstance(reply, Exception):
            self._known.add(script.sha)
        return reply

    def _record_unawaited(self, reply: Any) -> None:
        """Handle an error in a reply that no caller waits for."""
        if is_unknown_script(reply):
            # after SCRIPT FLUSH or a restart the server has none of the scripts
            self._known.clear()
        elif isinstance(reply, ErrorReply):
            self._on_error(reply)

    def _exchange(
        self, commands: Iterable[bytes], after: PendingReply | None = None, *, is_checked: bool = False
    ) -> list[Any]:
        """Send commands and return their replies. An error reply is returned, not raised."""
        if after is None:
            connection = self._check_out(is_checked=is_checked)
        else:
            connection, after.is_open = after.connection, False
        try:
            count, encoded = 0, b""
            for command in commands:
                count, encoded = count + 1, encoded + command
                if len(encoded) >= SEND_BYTES:
                    connection.send(encoded)
                    encoded = b""
            if encoded:
                connection.send(encoded)
            if after is not None:
                self._record_unawaited(connection.read_reply())
            replies = [connection.read_reply() for _ in range(count)]
            if self._checks_writes and not is_checked:
                self._check_when_due(connection)
        except BaseException as error:
            connection.fail(error)
            raise
        if is_checked:
            self._answered.origin = connection.origin
        self._check_in(connection)
        return replies

    def _check_out(self, *, is_checked: bool = False, is_read: bool = True) -> RedisConnection:
        """Return a connection that no other thread uses.

        With `is_checked` the connection has passed the capability check. With `is_read` as well, this raises
        `redis.ConnectionError` while a new primary must not be read yet.
        """
        connection = self._take_idle() or self._open()
        if is_checked:
            try:
                began = self._check_when_due(connection)
                if is_read and began < connection.readable_at:
                    raise redis.ConnectionError("the primary has changed, and is not read yet")  # noqa: TRY301  # closes the connection as well
            except BaseException as error:
                connection.fail(error)
                raise
        return connection

    def _take_idle(self) -> RedisConnection | None:
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:
                break
            if _is_usable(connection) and connection.generation == self._generation:
                return connection
            connection.fail(redis.ConnectionError("the connection was dropped"))
        return None

    def _open(self) -> RedisConnection:
        # the server may have been restarted, and has no scripts then
        self._known.clear()
        connection = self._connect()
        connection.generation = self._generation
        return connection

    def _check_in(self, connection: RedisConnection) -> None:
        self._idle.append(connection)
        if self._is_closed:
            # Close this connection too: `close` was called while it was in use, for example for the
            # invalidation after a COMMIT.
            self.close()

    def _check_when_due(self, connection: RedisConnection) -> float:
        """Run the capability check on a connection if its last one is not valid any more.

        Returns the time when this call began.
        """
        began = self._clock()
        if connection.checked_at is None:
            self._known.update(script.sha for script in self._check(connection))
        elif (
            began - connection.checked_at < self._trust_seconds * RECHECK_FRACTION
            and connection.checked_at > self._doubted_at
        ):
            return began
        else:
            self._recheck(connection)
        self.latest_origin = connection.origin
        connection.checked_at = began
        return began

    def close(self) -> None:
        """Read the pending replies of the idle connections, then close these connections.

        Connections that are in use are closed at check-in.
        """
        self._is_closed = True
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:
                # another thread took the last connection
                break
            # read the replies first: if a connection is closed earlier, the server may not get its commands
            connection.drain()

    def close_in_child(self) -> None:
        """Close the sockets that a forked child has from its parent. The parent's connections stay open."""
        while self._idle:
            self._idle.pop().close()


def is_unknown_script(reply: Any) -> bool:
    """Return whether a reply to EVALSHA says that the server does not have the script."""
    return isinstance(reply, ErrorReply) and reply.code == "NOSCRIPT"


def _encode_run(script: Script, keys: Keys, arguments: Sequence[Any]) -> bytes:
    return encode_command("EVALSHA", script.sha, len(keys), *keys, *arguments)


def _is_usable(connection: RedisConnection) -> bool:
    """Pass arrived replies to their callbacks. Return whether the server has kept the connection open."""
    try:
        return connection.deliver_arrived()
    except (redis.RedisError, OSError):
        return False


def _raise_error(reply: Any) -> Any:
    if isinstance(reply, Exception):
        raise reply
    return reply
