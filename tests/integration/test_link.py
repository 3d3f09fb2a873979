"""The link to a real Valkey: scripts, errors, connections that were cut."""

import time
from collections.abc import Iterator

import pytest
import redis

from core import Settings
from core.cache.link import Link, Script
from core.cache.shared import connect_redis
from core.cache.wire import Wire

ECHO = Script("return {KEYS[1], ARGV[1]}")


@pytest.fixture
def link(settings: Settings) -> Iterator[Link]:
    """A link to the test's Valkey."""
    with connect_redis(settings, "link") as client:
        link = Link(client)
        yield link
        link.close()


def test_any_bytes_come_back(link: Link) -> None:
    """Keys are text, values are bytes, numbers are spelled."""
    value = bytes(range(256)) + "ü\r\n".encode()
    assert link.ask("SET", "schlüssel", value, "PX", 10_000) == b"OK"
    assert link.get_many(["schlüssel", "nothing"]) == [value, None]


def test_a_script_is_loaded_where_it_is_unknown(link: Link, redis_client: redis.Redis) -> None:
    """A server that was restarted has forgotten it."""
    assert link.run(ECHO, ["k"], [b"v"]) == [b"k", b"v"]
    redis_client.script_flush()
    assert link.run_each(ECHO, [["a"], ["b"]], [1]) == [[b"a", b"1"], [b"b", b"1"]]


def test_an_error_leaves_the_connection_in_use(link: Link) -> None:
    """The next command on it gets its own reply."""
    with pytest.raises(redis.ResponseError):
        link.ask("NONSENSE")
    with pytest.raises(redis.ResponseError):
        link.run(Script("return redis.call('NONSENSE')"), [], [])
    assert link.ask("PING") == b"PONG"
    assert len(link._idle) == 1


def test_a_connection_that_was_cut_is_not_used(link: Link, redis_client: redis.Redis) -> None:
    """The server hung up while it idled: no command is lost on it, however often that happens."""
    for _ in range(120):
        own_id = link.ask("CLIENT", "ID")
        redis_client.client_kill_filter(_id=own_id)
        wait_until_readable(link._idle[-1])
        assert link.ask("PING") == b"PONG"


def wait_until_readable(wire: Wire) -> None:
    """Return once the end of a connection has arrived."""
    deadline = time.monotonic() + 5
    while not wire.is_readable():
        assert time.monotonic() < deadline, "the connection is still open"


def test_a_child_process_connects_for_itself(link: Link) -> None:
    """After a fork the parent's sockets are left alone."""
    own_id = link.ask("CLIENT", "ID")
    link._pid = -1
    assert link.ask("CLIENT", "ID") != own_id
