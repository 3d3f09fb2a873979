"""What arrives on a connection to Redis, whole, in pieces or spoilt."""

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
    """A server's socket and the connection at the other end of it."""
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
    """A text may have any bytes; nil is None."""
    server, connection = ends
    server.sendall(sent)
    assert connection.read() == reply
    assert not connection.is_readable()


@pytest.mark.parametrize("items", [[b"x"] * 100, [b"a\r\nb", b"$1"] * 100, [b"x", None] * 100])
def test_many_items_arrive(ends: Ends, items: list[bytes | None]) -> None:
    """Items with any content arrive, and so do the replies after them."""
    server, connection = ends
    server.sendall(_spell(items) + b":1\r\n")
    assert connection.read() == items
    assert connection.read() == 1


def test_a_reply_in_pieces_is_not_lost(ends: Ends) -> None:
    """After a timeout in the middle of a reply, the read can be repeated."""
    server, connection = ends
    items: list[bytes | None] = [b"a\r\nb"] * 100
    sent = _spell(items)
    for cut in (1, 3, 5, 9, len(sent) - 1):
        server.sendall(sent[:cut])
        with pytest.raises(redis.TimeoutError):
            connection.read()
        server.sendall(sent[cut:])
        assert connection.read() == items


def test_a_push_is_no_reply(ends: Ends) -> None:
    """A push is recognised, and skipped where a reply is expected."""
    server, connection = ends
    server.sendall(PUSH + PUSH + b"+OK\r\n")
    message = connection.read()
    assert isinstance(message, Push)
    assert message == [b"invalidate", [b"k"]]
    assert connection.read_reply() == b"OK"


def test_an_error_has_the_servers_words(ends: Ends) -> None:
    """It is returned like any other reply, with its code."""
    server, connection = ends
    server.sendall(b"-NOSCRIPT No matching script\r\n-LOADING data\r\n")
    for words in ("NOSCRIPT No matching script", "LOADING data"):
        reply = connection.read()
        assert isinstance(reply, ErrorReply)
        assert str(reply) == words
        assert reply.code == words.split()[0]


@pytest.mark.parametrize("sent", [b"HTTP/1.1 400\r\n", b"$-7\r\n", b"*-7\r\n", b"$x\r\n", b"*1\r\n\r\n"])
def test_what_is_no_protocol_is_an_error(ends: Ends, sent: bytes) -> None:
    """Bytes outside the Redis protocol raise an error at once."""
    server, connection = ends
    server.sendall(sent)
    with pytest.raises(redis.InvalidResponse):
        connection.read()


def test_the_end_is_an_error(ends: Ends) -> None:
    """A closed connection is an error when reading, and sooner or later when sending."""
    server, connection = ends
    server.close()
    assert connection.is_readable()
    with pytest.raises(redis.ConnectionError):
        connection.read()
    with pytest.raises(redis.ConnectionError):
        for _ in range(10):
            connection.send(encode_command("PING"))


def expect(connection: RedisConnection, count: int) -> list[Any]:
    """Expect so many replies; return the list that they will be in."""
    heard: list[Any] = []
    for _ in range(count):
        connection.on_next_reply(heard.append)
    return heard


def test_who_expects_a_reply_gets_it_before_the_next_is_read(ends: Ends) -> None:
    """The order is that of the commands, however the replies arrive."""
    server, connection = ends
    heard = expect(connection, 2)
    server.sendall(b":1\r\n" + PUSH + b":2\r\n:3\r\n")
    assert connection.read_reply() == 3
    assert heard == [1, 2]
    assert connection.deliver_arrived()


def test_replies_are_given_away_when_the_wire_is_taken(ends: Ends) -> None:
    """Replies that have arrived are delivered, and nothing waits for others."""
    server, connection = ends
    heard = expect(connection, 2)
    server.sendall(b"-OOM no memory\r\n")
    assert connection.deliver_arrived()
    assert [str(error) for error in heard] == ["OOM no memory"]
    server.sendall(b":2\r\n")
    assert connection.deliver_arrived()
    assert heard[1:] == [2]


def test_what_nobody_asked_for_makes_a_wire_useless(ends: Ends) -> None:
    """The extra reply would otherwise be taken for the reply to the next command."""
    server, connection = ends
    heard = expect(connection, 1)
    server.sendall(b":1\r\n:2\r\n")
    assert not connection.deliver_arrived()
    assert heard == [1]


def test_whoever_waits_learns_that_no_reply_will_come(ends: Ends) -> None:
    """Every callback gets the error once; delivered replies are not affected."""
    server, connection = ends
    heard = expect(connection, 3)
    server.sendall(b":1\r\n")
    server.close()
    with pytest.raises(redis.ConnectionError) as caught:
        connection.deliver_arrived()
    connection.fail(caught.value)
    connection.fail(caught.value)
    assert heard == [1, caught.value, caught.value]


def test_finishing_waits_for_what_is_expected(ends: Ends) -> None:
    """It waits up to one timeout, then the callbacks get the error."""
    server, connection = ends
    heard = expect(connection, 2)
    server.sendall(b":1\r\n")
    connection.drain()
    assert heard[0] == 1
    assert isinstance(heard[1], redis.TimeoutError)


def test_a_name_server_that_hangs_costs_one_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver of the system takes many seconds and has no timeout."""
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


def test_a_name_without_an_address_is_an_error() -> None:
    """The error has the resolver's message."""
    connection = RedisConnection(RedisAddress("cache.invalid"), client_name="test", timeout_seconds=10)
    with pytest.raises(ServerUnreachable):
        connection.connect()


@pytest.mark.parametrize("keys", [["k", "schlüssel"], [b"k", b"\xff"], []])
def test_lengths_are_of_bytes(keys: Any) -> None:
    """The length of a part counts bytes, whatever characters a key has."""
    names = [key.encode() if isinstance(key, str) else key for key in keys]
    whole = [b"SET", *names, b"1"]
    assert encode_command("SET", *keys, 1) == _spell(whole)


def _spell(items: list[Any]) -> bytes:
    spelled = [b"_\r\n" if item is None else b"$%d\r\n%b\r\n" % (len(item), item) for item in items]
    return b"*%d\r\n%b" % (len(items), b"".join(spelled))
