"""Replies on a connection to Redis: whole, in pieces, invalid or missing."""

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from core.cache.connection import ErrorReply, Push, RedisConnection, ServerUnreachable, encode_command
from core.settings.redis_url import RedisAddress

PUSH = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n"
Ends = tuple[socket.socket, RedisConnection]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """Yield the server's socket and the connection to it."""
    ours, theirs = socket.socketpair()
    connection = RedisConnection(RedisAddress("localhost"), client_name="test", timeout_seconds=0.05)
    connection._attach(ours)
    connection.set_timeout(0.05)
    yield theirs, connection
    connection.close()
    theirs.close()


@pytest.mark.parametrize(
    ("sent", "reply"),
    [
        (b"$4\r\na\r\nb\r\n", b"a\r\nb"),
        (b"$0\r\n\r\n", b""),
        (b"$-1\r\n", None),
        (b"_\r\n", None),
        (b":-12\r\n", -12),
        (b"+OK\r\n", b"OK"),
        (b"*-1\r\n", None),
        (b"*0\r\n", []),
        (b"*3\r\n:1\r\n_\r\n*1\r\n$1\r\nx\r\n", [1, None, [b"x"]]),
    ],
)
def test_each_kind_of_reply(ends: Ends, sent: bytes, reply: Any) -> None:
    """Each RESP type is decoded; strings may contain any bytes, and nil is None."""
    server, connection = ends
    server.sendall(sent)
    assert connection.read() == reply
    assert not connection.is_readable()


@pytest.mark.parametrize("items", [[b"x"] * 100, [b"a\r\nb", b"$1"] * 100, [b"x", None] * 100])
def test_long_arrays_are_decoded(ends: Ends, items: list[bytes | None]) -> None:
    """Arrays of a hundred items are decoded, and the next reply is not damaged."""
    server, connection = ends
    server.sendall(_encode_array(items) + b":1\r\n")
    assert connection.read() == items
    assert connection.read() == 1


def test_a_reply_in_pieces_is_not_lost(ends: Ends) -> None:
    """When a read times out in the middle of a reply, a second read returns the whole reply."""
    server, connection = ends
    items: list[bytes | None] = [b"a\r\nb"] * 100
    sent = _encode_array(items)
    for cut in (1, 3, 5, 9, len(sent) - 1):
        server.sendall(sent[:cut])
        with pytest.raises(redis.TimeoutError):
            connection.read()
        server.sendall(sent[cut:])
        assert connection.read() == items


def test_a_push_is_no_reply(ends: Ends) -> None:
    """`read` returns a push message as `Push`, and `read_reply` skips it."""
    server, connection = ends
    server.sendall(PUSH + PUSH + b"+OK\r\n")
    message = connection.read()
    assert isinstance(message, Push)
    assert message == [b"invalidate", [b"k"]]
    assert connection.read_reply() == b"OK"


def test_an_error_reply_has_the_servers_message(ends: Ends) -> None:
    """An error reply is returned, not raised; it has the message and the code of the server."""
    server, connection = ends
    server.sendall(b"-NOSCRIPT No matching script\r\n-LOADING data\r\n")
    for words in ("NOSCRIPT No matching script", "LOADING data"):
        reply = connection.read()
        assert isinstance(reply, ErrorReply)
        assert str(reply) == words
        assert reply.code == words.split()[0]


@pytest.mark.parametrize("sent", [b"HTTP/1.1 400\r\n", b"$-7\r\n", b"*-7\r\n", b"$x\r\n", b"*1\r\n\r\n"])
def test_invalid_bytes_raise(ends: Ends, sent: bytes) -> None:
    """Bytes that are not valid RESP raise InvalidResponse."""
    server, connection = ends
    server.sendall(sent)
    with pytest.raises(redis.InvalidResponse):
        connection.read()


def test_a_closed_connection_raises(ends: Ends) -> None:
    """After the server has closed the connection, a read raises ConnectionError, and so does a later send."""
    server, connection = ends
    server.close()
    assert connection.is_readable()
    with pytest.raises(redis.ConnectionError):
        connection.read()
    with pytest.raises(redis.ConnectionError):
        for _ in range(10):
            connection.send(encode_command("PING"))


def add_callbacks(connection: RedisConnection, count: int) -> list[Any]:
    """Register callbacks for the next `count` replies; return the list to which they append."""
    received: list[Any] = []
    for _ in range(count):
        connection.on_next_reply(received.append)
    return received


def test_callbacks_get_earlier_replies_first(ends: Ends) -> None:
    """A synchronous read first delivers the replies of earlier commands to their callbacks, in order."""
    server, connection = ends
    received = add_callbacks(connection, 2)
    server.sendall(b":1\r\n" + PUSH + b":2\r\n:3\r\n")
    assert connection.read_reply() == 3
    assert received == [1, 2]
    assert connection.deliver_arrived()


def test_arrived_replies_are_delivered_without_waiting(ends: Ends) -> None:
    """`deliver_arrived` delivers the replies that have arrived, and does not wait for the others."""
    server, connection = ends
    received = add_callbacks(connection, 2)
    server.sendall(b"-OOM no memory\r\n")
    assert connection.deliver_arrived()
    assert [str(error) for error in received] == ["OOM no memory"]
    server.sendall(b":2\r\n")
    assert connection.deliver_arrived()
    assert received[1:] == [2]


def test_an_unexpected_reply_makes_the_connection_unusable(ends: Ends) -> None:
    """`deliver_arrived` returns False after an extra reply, which the next command would take for its own."""
    server, connection = ends
    received = add_callbacks(connection, 1)
    server.sendall(b":1\r\n:2\r\n")
    assert not connection.deliver_arrived()
    assert received == [1]


def test_pending_callbacks_get_the_error_once(ends: Ends) -> None:
    """`fail` passes the error to each callback without a reply, and does this only once."""
    server, connection = ends
    received = add_callbacks(connection, 3)
    server.sendall(b":1\r\n")
    server.close()
    with pytest.raises(redis.ConnectionError) as caught:
        connection.deliver_arrived()
    connection.fail(caught.value)
    connection.fail(caught.value)
    assert received == [1, caught.value, caught.value]


def test_drain_waits_for_replies(ends: Ends) -> None:
    """`drain` waits one timeout for the missing replies, then passes the error to their callbacks."""
    server, connection = ends
    received = add_callbacks(connection, 2)
    server.sendall(b":1\r\n")
    connection.drain()
    assert received[0] == 1
    assert isinstance(received[1], redis.TimeoutError)


def test_a_hanging_name_resolution_costs_one_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """`connect` raises after its own timeout, because the system's resolver has none."""
    is_over = threading.Event()
    resolve = socket.getaddrinfo

    def hang(host: str, *arguments: Any, **options: Any) -> Any:
        if not options.get("flags"):
            assert is_over.wait(20)
        return resolve(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    connection = RedisConnection(RedisAddress("cache.invalid"), client_name="test", timeout_seconds=0.05)
    try:
        with pytest.raises(redis.TimeoutError, match="no connection within 50 ms"):
            connection.connect()
    finally:
        is_over.set()


def test_an_unknown_host_raises() -> None:
    """A host name without an address raises ServerUnreachable."""
    connection = RedisConnection(RedisAddress("cache.invalid"), client_name="test", timeout_seconds=10)
    with pytest.raises(ServerUnreachable):
        connection.connect()


@pytest.mark.parametrize("keys", [["k", "schlüssel"], [b"k", b"\xff"], []])
def test_lengths_count_bytes(keys: Any) -> None:
    """The lengths in an encoded command count bytes, not characters."""
    names = [key.encode() if isinstance(key, str) else key for key in keys]
    whole = [b"SET", *names, b"1"]
    assert encode_command("SET", *keys, 1) == _encode_array(whole)


def _encode_array(items: list[Any]) -> bytes:
    encoded = [b"_\r\n" if item is None else b"$%d\r\n%b\r\n" % (len(item), item) for item in items]
    return b"*%d\r\n%b" % (len(items), b"".join(encoded))
