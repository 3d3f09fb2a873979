"""One connection to Redis: socket, handshake, commands and replies.

Owns the socket, and uses the parser of hiredis. The connection class of redis-py takes several times as long,
and holds the GIL during that time. Uses RESP3, unless REDIS_URL sets another protocol. Never sends a command
twice. Only the handshake is repeated, once, if the server closes the connection during the handshake. Raises
the errors of redis-py, and `ErrorReply` for an error reply of the server.
"""

import contextlib
import queue
import re
import select
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
import redis

from core.settings.redis_url import RedisAddress, TlsOptions, make_tls_context

# Maximum size of one read from the socket: enough for one invalidation push that names thousands of keys.
RECEIVE_BYTES = 262_144
# Lower limit of a timeout: 0 would mean "no timeout".
MIN_SECONDS = 0.001
# The poll event "the server closed the connection". On a system without it, `pause` never ends early.
CLOSED_BY_SERVER = getattr(select, "POLLRDHUP", 0)

Push = hiredis.PushNotification
"""A push message of RESP3: the server sends it without a request."""


class ServerUnreachable(redis.ConnectionError):
    """No server accepts a connection; the message comes from the operating system or OpenSSL."""


class HandshakeCut(ServerUnreachable):
    """The server accepted the connection and closed it before the handshake was over."""


class ErrorReply(redis.ResponseError):
    """An error reply of the server; its message begins with a code such as READONLY."""

    @property
    def code(self) -> str:
        """Return the first word of the message, for example READONLY."""
        return str(self).partition(" ")[0]


class HandshakeRefused(ErrorReply):
    """The server refused the handshake: for example a wrong password, or too many connections."""


class RedisConnection:
    """A connection to Redis. Its first command opens it. Only one thread at a time may use it."""

    def __init__(self, address: RedisAddress, *, client_name: str, timeout_seconds: float) -> None:
        self.address = address
        self._client_name = client_name
        self._timeout_seconds = timeout_seconds
        self._socket: Any = None
        self._reader = hiredis.Reader()
        self._poller = select.poll()
        # callbacks for replies that no caller blocks on, in the order in which the replies arrive
        self._callbacks: deque[Callable[[Any], None]] = deque()
        # from the reply to HELLO: protocol version, role, and mode (standalone, sentinel or cluster)
        self.protocol = 0
        self.role = self.mode = b""
        # set by `RedisClient`: the generation (see `RedisClient.drop_connections`), and the time of the last
        # capability check
        self.generation = 0
        self.checked_at: float | None = None
        # set by `core.cache.capability`: the origin (run) of the Redis server, and the timeline of its cached
        # values
        self.origin = b""
        self.timeline: bytes | None = None
        # set by `core.cache.epochs`: the record of the epoch (the time in which this server is the primary),
        # and the time from which the server may be read
        self.epoch = b""
        self.readable_at = float("-inf")

    def connect(self) -> None:
        """Connect and do the handshake, together within one timeout."""
        self.connect_before(time.monotonic() + self._timeout_seconds)
        self.set_timeout(self._timeout_seconds)

    def connect_before(self, deadline: float) -> None:
        """Connect to `address`. A subclass may look up another address first."""
        try:
            self._connect_once(deadline)
        except HandshakeCut:
            # connect once more: a proxy that restarts closes even new connections, but usually accepts the
            # second attempt
            self._connect_once(deadline)

    def _connect_once(self, deadline: float) -> None:
        self._attach(self._open_socket(deadline))
        try:
            self._shake_hands(deadline)
        except ErrorReply as error:
            self.close()
            raise HandshakeRefused(str(error)) from error
        except redis.ConnectionError as error:
            self.close()
            hint = "" if self.address.tls else "; a server that expects TLS needs rediss://"
            raise HandshakeCut(f"{error} during the handshake{hint}") from error
        except BaseException:
            self.close()
            raise

    def _attach(self, opened: socket.socket) -> None:
        self._socket = opened
        self._reader = hiredis.Reader(replyError=ErrorReply)
        self._poller = select.poll()
        self._poller.register(opened, select.POLLIN)

    def _open_socket(self, deadline: float) -> socket.socket:
        address = self.address
        try:
            if address.path:
                return _connect_unix(address.path, deadline)
            opened = _connect_tcp(address.host, address.port, deadline)
            return _encrypt(opened, address.host, address.tls, deadline) if address.tls else opened
        except TimeoutError as error:
            what = "TLS handshake" if address.tls else "connection"
            raise redis.TimeoutError(f"no {what} within {self._describe_timeout()}") from error
        except OSError as error:
            raise ServerUnreachable(_describe(error)) from error

    def _shake_hands(self, deadline: float) -> None:
        """Send HELLO with user and password, and select the database."""
        self.set_timeout(_seconds_until(deadline))
        try:
            self._send_hello(self.address.protocol)
        except ErrorReply as error:
            if error.code != "NOPROTO":
                raise
            self._send_hello(2)
        if self.address.database:
            self.set_timeout(_seconds_until(deadline))
            try:
                self.execute("SELECT", self.address.database)
            except ErrorReply as error:
                raise ErrorReply(f"{error} (refused: SELECT {self.address.database})") from error

    def _send_hello(self, protocol: int) -> None:
        address = self.address
        account = ("AUTH", *address.account) if address.username or address.password else ()
        greeting = parse_greeting(self.execute("HELLO", protocol, *account, "SETNAME", self._client_name))
        self.protocol = greeting["proto"]
        self.role, self.mode = greeting.get("role", b""), greeting.get("mode", b"")

    def close(self) -> None:
        """Close the connection. The server may still run the commands that were sent."""
        opened, self._socket = self._socket, None
        self._callbacks.clear()
        if opened is not None:
            with contextlib.suppress(OSError):
                opened.close()

    def fail(self, error: BaseException) -> None:
        """Close the connection, and pass the error to the callbacks of all pending replies."""
        pending = list(self._callbacks)
        self.close()
        for on_reply in pending:
            on_reply(error)

    def set_timeout(self, seconds: float | None) -> None:
        """Set the timeout of each later send and receive. None means no timeout."""
        if isinstance(self._socket, ssl.SSLSocket):
            self._socket.settimeout(seconds)
            return
        # `settimeout` makes Python call `poll` before each send and receive, which doubles the cost. The
        # timeouts of the kernel cost nothing.
        self._socket.settimeout(None)
        whole, rest = divmod(seconds or 0.0, 1)
        limit = struct.pack("ll", int(whole), int(rest * 1_000_000))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)

    def is_readable(self) -> bool:
        """Return whether data has arrived or the connection is closed."""
        return self._socket is None or self._reader.has_data() or bool(self._poller.poll(0))

    def on_next_reply(self, on_reply: Callable[[Any], None]) -> None:
        """Call `on_reply` with the reply to the last command that was sent, as soon as the reply is read."""
        self._callbacks.append(on_reply)

    def deliver_arrived(self) -> bool:
        """Pass the replies that have arrived to their callbacks. Return whether the connection is usable."""
        while self.is_readable():
            if self._socket is None or not self._callbacks:
                return False
            self._deliver_next()
        return True

    def drain(self) -> None:
        """Wait for all pending replies, at most one timeout for each. Then close the connection."""
        try:
            while self._callbacks:
                self._deliver_next()
        except (redis.RedisError, OSError) as error:
            self.fail(error)
        self.close()

    def _deliver_next(self) -> None:
        reply = self._read_next()
        self._callbacks.popleft()(reply)

    def send(self, data: bytes) -> None:
        """Send encoded commands. Connect first if the connection is not open."""
        if self._socket is None:
            self.connect()
        try:
            self._socket.sendall(data)
        except (TimeoutError, BlockingIOError) as error:
            raise redis.TimeoutError(f"the server took no data for {self._describe_timeout()}") from error
        except OSError as error:
            raise redis.ConnectionError(_describe(error)) from error

    def execute(self, *command: Any) -> Any:
        """Send one command and return its reply. Raises `ErrorReply`."""
        [reply] = self.exchange([encode_command(*command)])
        if isinstance(reply, ErrorReply):
            raise reply
        return reply

    def exchange(self, commands: Sequence[bytes]) -> list[Any]:
        """Send encoded commands in one round trip and return the replies. Error replies are not raised."""
        self.send(b"".join(commands))
        return [self.read_reply() for _ in commands]

    def read(self) -> Any:
        """Return the next reply or push. An error reply is returned, not raised.

        After a timeout, call `read` again to continue: the bytes that have arrived are kept.
        """
        reader = self._reader
        try:
            # hiredis returns False for an incomplete reply; no command of the cache replies with a boolean
            while (reply := reader.gets()) is False:
                reader.feed(self._receive())
        except hiredis.ProtocolError as error:
            raise redis.InvalidResponse(f"the answer is not in the Redis protocol: {error}") from error
        return reply

    @property
    def has_unread(self) -> bool:
        """Whether data was received that `read` has not returned yet."""
        unread: bool = self._reader.has_data()
        return unread

    def pause(self, seconds: float) -> None:
        """Wait for `seconds`, even if data arrives. Return early if the server closes the connection."""
        poll = select.poll()
        poll.register(self._socket, CLOSED_BY_SERVER)
        poll.poll(seconds * 1000)

    def read_reply(self) -> Any:
        """Return the next reply that belongs to no callback. Pushes are dropped."""
        while self._callbacks:
            self._deliver_next()
        return self._read_next()

    def _read_next(self) -> Any:
        reply = self.read()
        while type(reply) is Push:
            reply = self.read()
        return reply

    def _receive(self) -> bytes:
        try:
            chunk: bytes = self._socket.recv(RECEIVE_BYTES)
        except (TimeoutError, BlockingIOError) as error:
            raise redis.TimeoutError(f"no answer within {self._describe_timeout()}") from error
        except OSError as error:
            raise redis.ConnectionError(_describe(error)) from error
        if not chunk:
            raise redis.ConnectionError("the server closed the connection")
        return chunk

    def _describe_timeout(self) -> str:
        return f"{self._timeout_seconds * 1000:.0f} ms"


def encode_command(*command: Any) -> bytes:
    """Return a command in the Redis protocol. Its arguments are strings, bytes and numbers."""
    encoded: bytes = hiredis.pack_command(command)
    return encoded


def parse_greeting(reply: Any) -> dict[str, Any]:
    """Return the fields of a reply to HELLO, such as `proto` and `role`. On RESP2 the reply is a list."""
    items = reply.items() if isinstance(reply, dict) else _pair(reply) if isinstance(reply, list) else ()
    fields = {key.decode(): value for key, value in items if isinstance(key, bytes)}
    if fields.get("proto") not in {2, 3}:
        raise redis.InvalidResponse("the reply to HELLO names no protocol")
    return fields


def _pair(items: Sequence[Any]) -> list[tuple[Any, Any]]:
    return list(zip(items[::2], items[1::2], strict=False))


def _connect_unix(path: str, deadline: float) -> socket.socket:
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.ExitStack() as on_error:
        on_error.callback(opened.close)
        opened.settimeout(_seconds_until(deadline))
        opened.connect(path)
        on_error.pop_all()
    return opened


def _connect_tcp(host: str, port: int, deadline: float) -> socket.socket:
    """Try the addresses of a host until one accepts. All attempts have the same deadline."""
    failure: OSError = OSError("the host has no address")
    for family, kind, number, _, address in _resolve(host, port, deadline):
        opened = socket.socket(family, kind, number)
        with contextlib.ExitStack() as on_error:
            on_error.callback(opened.close)
            try:
                opened.settimeout(_seconds_until(deadline))
                opened.connect(address)
            except OSError as error:
                failure = error
                continue
            # no Nagle's algorithm: a small command must not wait until the server has acknowledged the
            # previous one
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            on_error.pop_all()
        return opened
    raise failure


def _resolve(host: str, port: int, deadline: float) -> list[Any]:
    """Return the addresses of a host. Raises `TimeoutError` if the name server is too slow."""
    with contextlib.suppress(socket.gaierror):
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    found: queue.SimpleQueue[list[Any] | OSError] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            found.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as error:
            found.put(error)

    # `getaddrinfo` takes no timeout, so it runs in a thread
    threading.Thread(target=look_up, name="redis-resolver", daemon=True).start()
    try:
        addresses = found.get(timeout=_seconds_until(deadline))
    except queue.Empty as error:
        raise TimeoutError from error
    if isinstance(addresses, OSError):
        raise addresses
    return addresses


def _encrypt(opened: socket.socket, host: str, tls: TlsOptions, deadline: float) -> ssl.SSLSocket:
    with contextlib.ExitStack() as on_error:
        on_error.callback(opened.close)
        opened.settimeout(_seconds_until(deadline))
        encrypted = make_tls_context(tls).wrap_socket(opened, server_hostname=host)
        on_error.pop_all()
    return encrypted


def _seconds_until(deadline: float) -> float:
    return max(MIN_SECONDS, deadline - time.monotonic())


def _describe(error: OSError) -> str:
    """Return the message of the operating system or of OpenSSL, without a source position `(_ssl.c:LINE)`."""
    words = str(error) if isinstance(error, ssl.SSLError) else error.strerror or str(error)
    return re.sub(r" \(_ssl\.c:\d+\)$", "", words)
