"""The Redis client of one process: idle connections, commands and scripts.

Owns the idle connections, the list of scripts that the server has, and the time at which a connection is
checked again: nothing is read on a connection whose server has not passed the capability check. Never
retries and translates no error.
"""

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import redis

from core.cache.connection import ErrorReply, RedisConnection, encode_command

# Encoded commands are sent when they reach this size, so that the server works while the rest is encoded.
SEND_BYTES = 16_384
# A connection is checked again after this fraction of `trust_seconds`, so that the check is still valid
# while the next read waits for its reply.
RECHECK_PART = 0.5
# SCAN returns keys as bytes.
Keys = Sequence[str] | Sequence[bytes]


class Script:
    """A Lua script and its SHA1, by which Redis calls it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class PendingReply:
    """The unread reply to a script that was sent; its connection is reserved until the reply is read."""

    def __init__(self, connection: RedisConnection) -> None:
        self.connection = connection
        self.is_open = True

    def give_up(self) -> None:
        """Close the connection if the reply is still unread; the script runs nevertheless."""
        if self.is_open:
            self.is_open = False
            self.connection.close()


class RedisClient:
    """The Redis connections of one process; thread safe.

    `check` checks a new connection and returns the scripts that its server has afterwards; `recheck`
    checks a connection again that was checked before. Both raise on failure. Permissions, role and slots of
    a server can change while a connection is open, so a check is valid only for `trust_seconds`, and only
    for its own connection: behind a proxy or a moved address two connections may lead to two servers.
    `on_error` gets error replies that no caller waits for. With `checks_writes`, for a topology in which
    another server may become the primary, a connection is also checked after each command that is not a
    read: a former primary still accepts invalidations, but other processes no longer read from it.
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
        # last in, first out, so that the extra connections of a burst stay idle
        self._idle: deque[RedisConnection] = deque()
        self._is_closed = False
        # connections of an earlier generation are not used again
        self._generation = 0
        # checks from before this time are not trusted
        self._doubted_at = float("-inf")
        # SHA1s of the scripts that the server has, as far as is known
        self._known: set[str] = set()
        self._answered = threading.local()
        self.latest_origin = b""
        """The origin of the server's data, from the connection that was checked last."""

    @property
    def origin(self) -> bytes:
        """The origin of the data that this thread read last, on a checked connection."""
        found: bytes = getattr(self._answered, "origin", self.latest_origin)
        return found

    def ask(self, *command: Any) -> Any:
        """Send a command and return its reply; raises `ErrorReply` and the errors of the connection."""
        return _raise_error(self._exchange([encode_command(*command)])[0])

    def get_many(self, keys: Sequence[str]) -> Any:
        """Return the value of each key; None for a missing key and for a key that holds no string."""
        return _raise_error(self._exchange([encode_command("MGET", *keys)], is_checked=True)[0])

    def check(self) -> None:
        """Check one connection: an idle one, or a new one when none is idle."""
        self._check_in(self._check_out(is_checked=True, is_read=False))

    def doubt_checks(self) -> None:
        """From now on check each connection again before its next use."""
        self._doubted_at = self._clock()

    def drop_connections(self) -> None:
        """Never use any of the current connections again."""
        self._generation += 1

    def run(self, script: Script, keys: Keys, arguments: Sequence[Any]) -> Any:
        """Run a script on a checked connection and return its reply.

        A server that does not have the script gets its text.
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
        """Run a script once for each group of keys, in one round trip; return one reply for each group.

        The commands go to the connection of `after`, behind its pending script. Raises the first error reply
        after the script has run for every group.
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
        """Like `run_each`, but return error replies in the list instead of raising them."""
        commands = (_encode_run(script, keys, arguments) for keys in groups)
        replies = self._exchange(commands, after, is_checked=is_checked)
        for place, (keys, reply) in enumerate(zip(groups, replies, strict=True)):
            replies[place] = self._run_unknown(script, keys, arguments, reply)
        return replies

    def get_and_run(
        self, keys: Sequence[str], script: Script, arguments: Sequence[Any], more_keys: Sequence[str] = ()
    ) -> tuple[Any, Any]:
        """Get the values of `keys` and run a script on `keys` and `more_keys`, in one round trip.

        Returns the values and the reply of the script.
        """
        its_keys = [*keys, *more_keys]
        commands = [encode_command("MGET", *keys), _encode_run(script, its_keys, arguments)]
        found, reply = self._exchange(commands, is_checked=True)
        return _raise_error(found), _raise_error(self._run_unknown(script, its_keys, arguments, reply))

    def run_later(
        self, script: Script, keys: Keys, arguments: Sequence[Any], on_reply: Callable[[Any], None]
    ) -> None:
        """Send a script without waiting; `on_reply` gets the reply or the error later.

        The reply is read before the reply to any later command on the same connection.
        """
        if script.sha not in self._known:
            on_reply(self.run(script, keys, arguments))
            return

        def note_reply(reply: Any) -> None:
            self._note_unawaited(reply)
            on_reply(reply)

        connection = self._check_out(is_checked=True)
        try:
            connection.send(_encode_run(script, keys, arguments))
            connection.on_next_reply(note_reply)
        except BaseException as error:
            connection.fail(error)
            raise
        self._check_in(connection)

    def send(self, script: Script, keys: Keys, arguments: Sequence[Any]) -> PendingReply | None:
        """Send a script and return its pending reply, which a later `run_each` takes as `after`.

        Returns None if the server may not have the script: then it has been run and its reply read here.
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
        """Return `reply`; if it says that the server lacks the script, run its text and return that reply."""
        if _is_unknown_script(reply):
            self._known.clear()
            [reply] = self._exchange([encode_command("EVAL", script.text, len(keys), *keys, *arguments)])
        if not isinstance(reply, Exception):
            self._known.add(script.sha)
        return reply

    def _note_unawaited(self, reply: Any) -> None:
        """Handle an error in a reply that no caller waits for."""
        if _is_unknown_script(reply):
            # SCRIPT FLUSH removes all scripts at once
            self._known.clear()
        elif isinstance(reply, ErrorReply):
            self._on_error(reply)

    def _exchange(
        self, commands: Iterable[bytes], after: PendingReply | None = None, *, is_checked: bool = False
    ) -> list[Any]:
        """Send commands and return their replies; an error reply is returned, not raised."""
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
                self._note_unawaited(connection.read_reply())
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

        With `is_checked` its server has passed the capability check.
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
        # the server may have been restarted without its scripts
        self._known.clear()
        connection = self._connect()
        connection.generation = self._generation
        return connection

    def _check_in(self, connection: RedisConnection) -> None:
        self._idle.append(connection)
        if self._is_closed:
            # the command was still running when `close` was called, such as the invalidation after a COMMIT
            self.close()

    def _check_when_due(self, connection: RedisConnection) -> float:
        """Check a connection unless its last check is still valid; return the time when this call began."""
        began = self._clock()
        if connection.checked_at is None:
            self._known.update(script.sha for script in self._check(connection))
        elif (
            began - connection.checked_at < self._trust_seconds * RECHECK_PART
            and connection.checked_at > self._doubted_at
        ):
            return began
        else:
            self._recheck(connection)
        self.latest_origin = connection.origin
        connection.checked_at = began
        return began

    def close(self) -> None:
        """Read the pending replies of idle connections, then close them; others are closed at check-in."""
        self._is_closed = True
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:
                # another thread has closed the last one
                break
            # wait for the replies: a command may get lost if its connection is closed before
            connection.drain()

    def close_in_child(self) -> None:
        """Close a forked child's copies of its parent's sockets; the parent's connections stay open."""
        while self._idle:
            self._idle.pop().close()


def _is_unknown_script(reply: Any) -> bool:
    return isinstance(reply, ErrorReply) and reply.code == "NOSCRIPT"


def _encode_run(script: Script, keys: Keys, arguments: Sequence[Any]) -> bytes:
    return encode_command("EVALSHA", script.sha, len(keys), *keys, *arguments)


def _is_usable(connection: RedisConnection) -> bool:
    """Return whether an idle connection can be used: the server may have closed it while it was idle."""
    try:
        return connection.deliver_arrived()
    except (redis.RedisError, OSError):
        return False


def _raise_error(reply: Any) -> Any:
    if isinstance(reply, Exception):
        raise reply
    return reply
