"""Exchanges of commands for their replies with Redis.

Owns the idle connections and the loaded scripts. Never retries and translates no error.
"""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import redis

from core.cache.wire import ErrorReply, Wire, pack

# What is spelled is sent from here on, so that the server works on it while the rest is spelled.
SEND_BYTES = 16_384
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
    """Connections of one process; thread safe, and safe after a fork."""

    def __init__(self, make_wire: Callable[[], Wire]) -> None:
        self._make_wire = make_wire
        # what was used last is taken first, so that a burst's connections are left alone
        self._idle: deque[Wire] = deque()
        self._pid = os.getpid()
        # scripts that the server has, as far as is known
        self._known: set[str] = set()

    def ask(self, *command: Any) -> Any:
        """Send a command and return the reply; raises what redis-py raises."""
        return _raise_error(self._exchange([pack(*command)])[0])

    def get_many(self, keys: Sequence[str]) -> Any:
        """Return what lies under each key; one of another type counts for nothing."""
        return _raise_error(self._exchange([pack("MGET", *keys)])[0])

    def run(self, script: Script, keys: Keys, arguments: Sequence[Any]) -> Any:
        """Run a script, which a server that does not know it is given first."""
        return self.run_each(script, [keys], arguments)[0]

    def run_each(
        self,
        script: Script,
        groups: Sequence[Keys],
        arguments: Sequence[Any],
        *,
        after: Sent | None = None,
    ) -> list[Any]:
        """Run a script once for each group of keys, in one round trip, behind what was `sent` before."""
        replies = self._exchange((_pack_run(script, keys, arguments) for keys in groups), after)
        for place, (keys, reply) in enumerate(zip(groups, replies, strict=True)):
            replies[place] = self._settle(script, keys, arguments, reply)
        return replies

    def get_and_run(self, keys: Sequence[str], script: Script, arguments: Sequence[Any]) -> tuple[Any, Any]:
        """Like `get_many`, and run a script on the same keys afterwards, in the same round trip."""
        found, reply = self._exchange([pack("MGET", *keys), _pack_run(script, keys, arguments)])
        return _raise_error(found), self._settle(script, keys, arguments, reply)

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
            self._note_unknown(reply)
            on_reply(reply)

        wire = self._take()
        try:
            wire.send(_pack_run(script, keys, arguments))
            wire.expect(hear)
        except BaseException as error:
            wire.fail(error)
            raise
        self._idle.append(wire)

    def send(self, script: Script, keys: Keys, arguments: Sequence[Any]) -> Sent | None:
        """Send a script whose reply `run_each` takes along later; None when it has been read already."""
        if script.sha not in self._known:
            self.run(script, keys, arguments)
            return None
        wire = self._take()
        try:
            wire.send(_pack_run(script, keys, arguments))
        except BaseException as error:
            wire.fail(error)
            raise
        return Sent(wire)

    def _settle(self, script: Script, keys: Keys, arguments: Sequence[Any], reply: Any) -> Any:
        self._note_unknown(reply)
        if _is_unknown(reply):
            reply = self.ask("EVAL", script.text, len(keys), *keys, *arguments)
        _raise_error(reply)
        self._known.add(script.sha)
        return reply

    def _note_unknown(self, reply: Any) -> None:
        if _is_unknown(reply):
            # somebody flushed them, all at once
            self._known.clear()

    def _exchange(self, commands: Iterable[bytes], after: Sent | None = None) -> list[Any]:
        """Return the replies; one that is an error is returned as it is."""
        if after is None:
            wire = self._take()
        else:
            wire, after.is_open = after.wire, False
        try:
            count, spelled = 0, b""
            for command in commands:
                count, spelled = count + 1, spelled + command
                if len(spelled) >= SEND_BYTES:
                    wire.send(spelled)
                    spelled = b""
            if spelled:
                wire.send(spelled)
            if after is not None:
                self._note_unknown(wire.read_reply())
            replies = [wire.read_reply() for _ in range(count)]
        except BaseException as error:
            wire.fail(error)
            raise
        self._idle.append(wire)
        return replies

    def _take(self) -> Wire:
        if self._pid != os.getpid():
            # the parent goes on using its sockets; closing this process' copies of them says nothing
            # to the server
            parents, self._idle, self._pid = self._idle, deque(), os.getpid()
            for wire in parents:
                wire.close()
        while self._idle:
            try:
                wire = self._idle.pop()
            except IndexError:
                break
            if _is_usable(wire):
                return wire
            wire.fail(redis.ConnectionError("redis hung up"))
        # perhaps to a server that was restarted
        self._known.clear()
        return self._make_wire()

    def close(self) -> None:
        """Close the idle connections, once what was sent on them has been answered."""
        while self._idle:
            # closed before the answer comes, the command might not arrive
            self._idle.pop().finish()


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
