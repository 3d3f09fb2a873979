"""One connection to Redis: commands out, replies in.

Owns the exchange on the socket of a connection that redis-py has opened and greeted, with
hiredis' parser. What redis-py itself does around it takes a multiple of the time, all of it
while no other thread runs. Never connects twice and retries nothing; raises what redis-py
raises.
"""

import select
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

    def connect(self) -> None:
        """Connect and greet the server."""
        self._connection.connect()
        self._socket = self._connection._sock  # noqa: SLF001  # redis-py has no public way
        self._reader = hiredis.Reader(replyError=self._make_error)

    def disconnect(self) -> None:
        """Close it; what was sent may be done all the same."""
        self._socket = None
        self._connection.disconnect()

    def set_timeout(self, seconds: float) -> None:
        """Wait this long for each reply from now on."""
        self._socket.settimeout(seconds)

    def is_readable(self) -> bool:
        """Say whether anything came that nobody asked for, its end included."""
        if self._socket is None or self._reader.has_data():
            return True
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        return bool(poller.poll(0))

    def send(self, data: bytes) -> None:
        """Send commands as `pack` spells them."""
        if self._socket is None:
            self.connect()
        try:
            self._socket.sendall(data)
        except TimeoutError as error:
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
        """Return the next reply that is no push."""
        reply = self.read()
        while type(reply) is Push:
            reply = self.read()
        return reply

    def _receive(self) -> bytes:
        try:
            chunk: bytes = self._socket.recv(RECEIVE_BYTES)
        except TimeoutError as error:
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
