"""Exchanges of commands for their replies with Redis.

Owns the idle connections and the loaded scripts. redis-py's client around a connection costs
as much again as the exchange itself, which is most of a warm read. Never retries and
translates no error.
"""

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import redis

from core.cache.wire import Wire, pack

# What is spelled is sent from here on, so that the server works on it while the rest is spelled.
SEND_BYTES = 16_384
# What SCAN finds is bytes.
Keys = Sequence[str] | Sequence[bytes]


class Script:
    """A Lua script and the name that Redis gives it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class Link:
    """Connections of one process; thread safe, and safe after a fork."""

    def __init__(self, client: redis.Redis) -> None:
        self._pool: Any = client.connection_pool
        # what was used last is taken first, so that a burst's connections are left alone
        self._idle: deque[Wire] = deque()
        self._pid = os.getpid()

    def ask(self, *command: Any) -> Any:
        """Send a command and return the reply; raises what redis-py raises."""
        return _raise_error(self._exchange([pack(*command)])[0])

    def get_many(self, keys: Sequence[str]) -> Any:
        """Return what lies under each key; one of another type counts for nothing."""
        return _raise_error(self._exchange([pack("MGET", *keys)])[0])

    def run(self, script: Script, keys: Keys, arguments: Sequence[Any]) -> Any:
        """Run a script, which a server that does not know it is given first."""
        return self.run_each(script, [keys], arguments)[0]

    def run_each(self, script: Script, groups: Sequence[Keys], arguments: Sequence[Any]) -> list[Any]:
        """Run a script once for each group of keys, in one round trip."""
        replies = self._exchange(_pack_run(script, keys, arguments) for keys in groups)
        for place, (keys, reply) in enumerate(zip(groups, replies, strict=True)):
            replies[place] = self._settle(script, keys, arguments, reply)
        return replies

    def get_and_run(self, keys: Sequence[str], script: Script, arguments: Sequence[Any]) -> tuple[Any, Any]:
        """Like `get_many`, and run a script on the same keys afterwards, in the same round trip."""
        found, reply = self._exchange([pack("MGET", *keys), _pack_run(script, keys, arguments)])
        return _raise_error(found), self._settle(script, keys, arguments, reply)

    def _settle(self, script: Script, keys: Keys, arguments: Sequence[Any], reply: Any) -> Any:
        if isinstance(reply, redis.exceptions.NoScriptError):
            return self.ask("EVAL", script.text, len(keys), *keys, *arguments)
        return _raise_error(reply)

    def _exchange(self, commands: Iterable[bytes]) -> list[Any]:
        """Return the replies; one that is an error is returned as it is."""
        wire = self._take()
        try:
            count, spelled = 0, b""
            for command in commands:
                count, spelled = count + 1, spelled + command
                if len(spelled) >= SEND_BYTES:
                    wire.send(spelled)
                    spelled = b""
            if spelled:
                wire.send(spelled)
            replies = [wire.read_reply() for _ in range(count)]
        except BaseException:
            wire.disconnect()
            raise
        self._idle.append(wire)
        return replies

    def _take(self) -> Wire:
        if self._pid != os.getpid():
            # the parent's sockets: neither to be used nor to be closed for it
            self._idle, self._pid = deque(), os.getpid()
        while self._idle:
            try:
                wire = self._idle.pop()
            except IndexError:
                break
            if not wire.is_readable():
                return wire
            # the server hung up, or sent what nobody asked for
            wire.disconnect()
        return self.open()

    def open(self) -> Wire:
        """Make a connection that is nobody else's; it connects when it is first used."""
        # past the pool's make_connection, which counts up to a limit and never down again
        return Wire(self._pool.connection_class(**self._pool.connection_kwargs))

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().disconnect()


def _pack_run(script: Script, keys: Keys, arguments: Sequence[Any]) -> bytes:
    return pack("EVALSHA", script.sha, len(keys), *keys, *arguments)


def _raise_error(reply: Any) -> Any:
    if isinstance(reply, Exception):
        raise reply
    return reply
