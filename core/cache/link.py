"""Exchanges of commands for their replies with Redis.

Owns the idle connections, the loaded scripts, and when a connection has to prove that it can
invalidate: nothing is read on one that has not. Never retries and translates no error.
"""

import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import redis

from core.cache.wire import ErrorReply, Wire, pack

# What is encoded is sent from here on, so that the server works on it while the rest is encoded.
SEND_BYTES = 16_384
# A connection is checked again after this part of the time that a check is trusted, so that it is still
# trusted while its next read waits for the answer.
RECHECK_PART = 0.5
# What SCAN finds is bytes.
Keys = Sequence[str] | Sequence[bytes]


class Script:
    """A Lua script and the name that Redis gives it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class Sent:
    """A script that was sent and whose reply is still to be read, from a wire that is kept for it."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.is_open = True

    def give_up(self) -> None:
        """Leave the reply unread, unless it has been read; the script runs all the same."""
        if self.is_open:
            self.is_open = False
            self.wire.close()


class Link:
    """Connections of one process; thread safe, and safe after a fork.

    `check` proves a new connection and returns the scripts that the server has then; `recheck` proves
    an old one again. Both raise what they find. Permissions, role and slots of a server change while it
    is connected, so a check is trusted for `trust_seconds`, and for its own connection alone: behind a
    proxy or a moved address two connections may have two servers. `on_error` gets error replies that no
    caller blocks on.
    """

    def __init__(
        self,
        make_wire: Callable[[], Wire],
        *,
        check: Callable[[Wire], Iterable[Script]] = lambda _: (),
        recheck: Callable[[Wire], None] = lambda _: None,
        trust_seconds: float = float("inf"),
        on_error: Callable[[ErrorReply], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make_wire = make_wire
        self._check = check
        self._recheck = recheck
        self._trust_seconds = trust_seconds
        self._on_error = on_error
        self._clock = clock
        # the connection used last is taken first, so that those of a burst are left alone
        self._idle: deque[Wire] = deque()
        self._is_closed = False
        # connections of an earlier generation are not used again
        self._generation = 0
        # scripts that the server has, as far as is known
        self._known: set[str] = set()
        self._answered = threading.local()
        self.latest_origin = b""
        """The origin of the data of the connection that was proved last."""
        self._pid = os.getpid()

    @property
    def origin(self) -> bytes:
        """The origin of the data that this thread was answered from last on a proved connection."""
        found: bytes = getattr(self._answered, "origin", self.latest_origin)
        return found

    def ask(self, *command: Any) -> Any:
        """Send a command and return the reply; raises an error reply, and what the connection raises."""
        return _raise_error(self._exchange([pack(*command)])[0])

    def get_many(self, keys: Sequence[str]) -> Any:
        """Return what lies under each key; one of another type counts for nothing."""
        return _raise_error(self._exchange([pack("MGET", *keys)], is_proved=True)[0])

    def prove(self) -> None:
        """Let a connection prove itself."""
        self._put(self._take(is_proved=True))

    def drop(self) -> None:
        """Use none of the present connections again."""
        self._generation += 1

    def run(self, script: Script, keys: Keys, arguments: Sequence[Any]) -> Any:
        """Run a script on a proved connection; a server that does not know it is given it first."""
        return self.run_each(script, [keys], arguments, is_proved=True)[0]

    def run_each(
        self,
        script: Script,
        groups: Sequence[Keys],
        arguments: Sequence[Any],
        *,
        after: Sent | None = None,
        is_proved: bool = False,
    ) -> list[Any]:
        """Run a script once for each group of keys, in one round trip, behind what was `sent` before.

        Raises the first error, once the script has run for every group.
        """
        replies = self.try_each(script, groups, arguments, after=after, is_proved=is_proved)
        for reply in replies:
            _raise_error(reply)
        return replies

    def try_each(
        self,
        script: Script,
        groups: Sequence[Keys],
        arguments: Sequence[Any],
        *,
        after: Sent | None = None,
        is_proved: bool = False,
    ) -> list[Any]:
        """Like `run_each`; an error reply is returned as it is."""
        commands = (_pack_run(script, keys, arguments) for keys in groups)
        replies = self._exchange(commands, after, is_proved=is_proved)
        for place, (keys, reply) in enumerate(zip(groups, replies, strict=True)):
            replies[place] = self._settle(script, keys, arguments, reply)
        return replies

    def get_and_run(self, keys: Sequence[str], script: Script, arguments: Sequence[Any]) -> tuple[Any, Any]:
        """Like `get_many`, and run a script on the same keys afterwards, in the same round trip."""
        commands = [pack("MGET", *keys), _pack_run(script, keys, arguments)]
        found, reply = self._exchange(commands, is_proved=True)
        return _raise_error(found), _raise_error(self._settle(script, keys, arguments, reply))

    def run_later(
        self, script: Script, keys: Keys, arguments: Sequence[Any], on_reply: Callable[[Any], None]
    ) -> None:
        """Send a script and wait for nothing; `on_reply` gets the reply, or the error, some time.

        It comes before the reply to whatever is sent on the same connection afterwards.
        """
        if script.sha not in self._known:
            on_reply(self.run(script, keys, arguments))
            return

        def hear(reply: Any) -> None:
            self._note(reply)
            on_reply(reply)

        wire = self._take(is_proved=True)
        try:
            wire.send(_pack_run(script, keys, arguments))
            wire.expect(hear)
        except BaseException as error:
            wire.fail(error)
            raise
        self._put(wire)

    def send(self, script: Script, keys: Keys, arguments: Sequence[Any]) -> Sent | None:
        """Send a script whose reply `run_each` takes along later; None when it has been read already."""
        if script.sha not in self._known:
            self.run_each(script, [keys], arguments)
            return None
        wire = self._take()
        try:
            wire.send(_pack_run(script, keys, arguments))
        except BaseException as error:
            wire.fail(error)
            raise
        return Sent(wire)

    def _settle(self, script: Script, keys: Keys, arguments: Sequence[Any], reply: Any) -> Any:
        """Return the reply, or that of another attempt with the text where the server has no script."""
        if _is_unknown(reply):
            self._known.clear()
            [reply] = self._exchange([pack("EVAL", script.text, len(keys), *keys, *arguments)])
        if not isinstance(reply, Exception):
            self._known.add(script.sha)
        return reply

    def _note(self, reply: Any) -> None:
        """Note an error that no caller gets."""
        if _is_unknown(reply):
            # somebody flushed them, all at once
            self._known.clear()
        elif isinstance(reply, ErrorReply):
            self._on_error(reply)

    def _exchange(
        self, commands: Iterable[bytes], after: Sent | None = None, *, is_proved: bool = False
    ) -> list[Any]:
        """Return the replies; one that is an error is returned as it is."""
        if after is None:
            wire = self._take(is_proved=is_proved)
        else:
            wire, after.is_open = after.wire, False
        try:
            count, encoded = 0, b""
            for command in commands:
                count, encoded = count + 1, encoded + command
                if len(encoded) >= SEND_BYTES:
                    wire.send(encoded)
                    encoded = b""
            if encoded:
                wire.send(encoded)
            if after is not None:
                self._note(wire.read_reply())
            replies = [wire.read_reply() for _ in range(count)]
        except BaseException as error:
            wire.fail(error)
            raise
        if is_proved:
            self._answered.origin = wire.origin
        self._put(wire)
        return replies

    def _take(self, *, is_proved: bool = False) -> Wire:
        """Return a connection that is nobody else's; `is_proved`: one to read on."""
        if self._pid != os.getpid():
            # the parent goes on using its sockets; closing this process' copies of them says nothing
            # to the server
            parents, self._idle = self._idle, deque()
            self._pid = os.getpid()
            for wire in parents:
                wire.close()
        wire = self._pick() or self._open()
        if is_proved:
            try:
                self._prove(wire)
            except BaseException as error:
                wire.fail(error)
                raise
        return wire

    def _pick(self) -> Wire | None:
        while self._idle:
            try:
                wire = self._idle.pop()
            except IndexError:
                break
            if _is_usable(wire) and wire.generation == self._generation:
                return wire
            wire.fail(redis.ConnectionError("the connection was dropped"))
        return None

    def _open(self) -> Wire:
        # perhaps to a server that was restarted
        self._known.clear()
        wire = self._make_wire()
        wire.generation = self._generation
        return wire

    def _put(self, wire: Wire) -> None:
        self._idle.append(wire)
        if self._is_closed:
            # a call that still ran then, such as the invalidation after a last commit
            self.close()

    def _prove(self, wire: Wire) -> None:
        began = self._clock()
        if wire.proved_at is None:
            self._known.update(script.sha for script in self._check(wire))
            self.latest_origin = wire.origin
        elif began - wire.proved_at < self._trust_seconds * RECHECK_PART:
            return
        else:
            self._recheck(wire)
        wire.proved_at = began

    def close(self) -> None:
        """Close the idle connections, once what was sent on them has been answered; none stays open later."""
        self._is_closed = True
        while self._idle:
            try:
                wire = self._idle.pop()
            except IndexError:
                # another thread closes them too
                break
            # closed before the answer comes, the command might not arrive
            wire.finish()


def _is_unknown(reply: Any) -> bool:
    return isinstance(reply, ErrorReply) and reply.code == "NOSCRIPT"


def _pack_run(script: Script, keys: Keys, arguments: Sequence[Any]) -> bytes:
    return pack("EVALSHA", script.sha, len(keys), *keys, *arguments)


def _is_usable(wire: Wire) -> bool:
    """Say whether a wire that idled can be used: the server may have hung up meanwhile."""
    try:
        return wire.settle()
    except (redis.RedisError, OSError):
        return False


def _raise_error(reply: Any) -> Any:
    if isinstance(reply, Exception):
        raise reply
    return reply
