"""One connection to Redis: commands out, replies in.

Owns the exchange on the socket of a connection that redis-py has opened and greeted, with
hiredis' parser. What redis-py itself does around it takes a multiple of the time, all of it
while no other thread runs. Never connects twice and retries nothing; raises what redis-py
raises.
"""

import select
import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

import hiredis
import redis

# What thousands of keys are told of with, at once.
RECEIVE_BYTES = 262_144

Push = hiredis.PushNotification
"""What the server says without being asked."""


class Wire:
    """A connection, which connects when it is first used; for one thread at a time."""

    def __init__(self, connection: Any) -> None:
        # redis-py annotates neither the connection nor its parser
        self._connection = connection
        self._socket: Any = None
        self._reader = hiredis.Reader()
        self._poller = select.poll()
        # who gets the replies that nobody waits for, in the order in which they arrive
        self._awaited: deque[Callable[[Any], None]] = deque()

    def connect(self) -> None:
        """Connect and greet the server."""
        self._connection.connect()
        self._socket = self._connection._sock  # noqa: SLF001  # redis-py has no public way
        self._reader = hiredis.Reader(replyError=self._make_error)
        self._poller = select.poll()
        self._poller.register(self._socket, select.POLLIN)
        self.set_timeout(self._socket.gettimeout())

    def disconnect(self) -> None:
        """Close it; what was sent may be done all the same."""
        self._socket = None
        self._awaited.clear()
        self._connection.disconnect()

    def fail(self, error: BaseException) -> None:
        """Close it, and tell whoever expects a reply that none will come."""
        lost = list(self._awaited)
        self.disconnect()
        for on_reply in lost:
            on_reply(error)

    def set_timeout(self, seconds: float | None) -> None:
        """Wait this long for each reply from now on; None waits for ever."""
        if isinstance(self._socket, ssl.SSLSocket):
            self._socket.settimeout(seconds)
            return
        # Python would ask whether the socket is ready before each send and receive, which costs
        # as much as those; the kernel counts the time by itself
        self._socket.settimeout(None)
        whole, rest = divmod(seconds or 0.0, 1)
        limit = struct.pack("ll", int(whole), int(rest * 1_000_000))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)

    def is_readable(self) -> bool:
        """Say whether anything came that nobody asked for, its end included."""
        return self._socket is None or self._reader.has_data() or bool(self._poller.poll(0))

    def expect(self, on_reply: Callable[[Any], None]) -> None:
        """Give the next reply away once it is met; who reads after it does not get it."""
        self._awaited.append(on_reply)

    def settle(self) -> bool:
        """Give away the replies that came meanwhile; return whether the wire can be used."""
        while self.is_readable():
            if self._socket is None or not self._awaited:
                return False
            self._give_away()
        return True

    def finish(self) -> None:
        """Wait for the replies that others expect, for as long as for any, and close it."""
        try:
            while self._awaited:
                self._give_away()
        except (redis.RedisError, OSError) as error:
            self.fail(error)
        self.disconnect()

    def _give_away(self) -> None:
        reply = self._read_answer()
        self._awaited.popleft()(reply)

    def send(self, data: bytes) -> None:
        """Send commands as `pack` spells them."""
        if self._socket is None:
            self.connect()
        try:
            self._socket.sendall(data)
        except (TimeoutError, BlockingIOError) as error:
            raise redis.TimeoutError("redis does not take what is sent") from error
        except OSError as error:
            raise redis.ConnectionError(f"redis is gone: {error}") from error

    def read(self) -> Any:
        """Return the next reply; one that is an error is returned as it is.

        After a timeout it can be called again: nothing of a reply that came in part is lost.
        """
        reader = self._reader
        try:
            # False stands for "not yet"; the replies that may be false come as other types
            while (reply := reader.gets()) is False:
                reader.feed(self._receive())
        except hiredis.ProtocolError as error:
            raise redis.InvalidResponse(f"protocol error: {error}") from error
        if isinstance(reply, redis.ConnectionError):
            # it loads its data or takes no more clients: no answer to anything
            raise reply
        return reply

    def read_reply(self) -> Any:
        """Return the next reply that is no push and that nobody else expects."""
        while self._awaited:
            self._give_away()
        return self._read_answer()

    def _read_answer(self) -> Any:
        reply = self.read()
        while type(reply) is Push:
            reply = self.read()
        return reply

    def _receive(self) -> bytes:
        try:
            chunk: bytes = self._socket.recv(RECEIVE_BYTES)
        except (TimeoutError, BlockingIOError) as error:
            raise redis.TimeoutError("redis does not answer") from error
        except OSError as error:
            raise redis.ConnectionError(f"redis is gone: {error}") from error
        if not chunk:
            raise redis.ConnectionError("redis hung up")
        return chunk

    def _make_error(self, text: str) -> Exception:
        parser = self._connection._parser  # noqa: SLF001  # knows which class an error has
        error: Exception = parser.parse_error(text)
        return error


def pack(*command: Any) -> bytes:
    """Spell a command of texts, bytes and numbers."""
    spelled: bytes = hiredis.pack_command(command)
    return spelled
