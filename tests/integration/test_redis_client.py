"""The Redis client against a real Valkey: scripts, error replies and closed connections."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from core import Settings
from core.cache.client import RedisClient, Script
from core.cache.connection import ErrorReply, RedisConnection
from core.cache.topology import make_connection_factory
from tests.patience import wait_until

ECHO = Script("return {KEYS[1], ARGV[1]}")


@pytest.fixture
def client(settings: Settings) -> Iterator[RedisClient]:
    """Yield a client of the test's Valkey."""
    client = RedisClient(make_connection_factory(settings, "client"))
    yield client
    client.close()


def test_any_bytes_are_returned_unchanged(client: RedisClient) -> None:
    """A value of arbitrary bytes under a key with non-ASCII letters is returned unchanged."""
    value = bytes(range(256)) + "ü\r\n".encode()
    assert client.execute("SET", "schlüssel", value, "PX", 10_000) == b"OK"
    assert client.get_many(["schlüssel", "nothing"]) == [value, None]


def test_an_unknown_script_is_loaded(client: RedisClient, redis_client: redis.Redis) -> None:
    """After SCRIPT FLUSH the server does not know the script, and the client sends its text."""
    assert client.run(ECHO, ["k"], [b"v"]) == [b"k", b"v"]
    redis_client.script_flush()
    assert client.run_each(ECHO, [["a"], ["b"]], [1]) == [[b"a", b"1"], [b"b", b"1"]]


def test_an_error_reply_keeps_the_connection(client: RedisClient) -> None:
    """After an error reply the connection stays in the pool, and the next command gets its own reply."""
    with pytest.raises(redis.ResponseError):
        client.execute("NONSENSE")
    with pytest.raises(redis.ResponseError):
        client.run(Script("return redis.call('NONSENSE')"), [], [])
    assert client.execute("PING") == b"PONG"
    assert len(client._idle) == 1


def test_a_closed_idle_connection_is_not_used(client: RedisClient, redis_client: redis.Redis) -> None:
    """After the server has closed an idle connection, the next command uses another one and succeeds."""
    for _ in range(120):
        own_id = client.execute("CLIENT", "ID")
        redis_client.client_kill_filter(_id=own_id)
        wait_until(client._idle[-1].is_readable, "the end of the connection arrives")
        assert client.execute("PING") == b"PONG"


def test_each_connection_is_checked_separately(settings: Settings) -> None:
    """Each connection is checked again after 1 s: after a failover two of them may lead to two servers."""
    now, checked = [0.0], list[RedisConnection]()

    def check(connection: RedisConnection) -> tuple[()]:
        connection.connect()
        return ()

    client = RedisClient(
        make_connection_factory(settings, "client"),
        check=check,
        recheck=checked.append,
        trust_seconds=1.0,
        clock=lambda: now[0],
    )
    first, second = client._check_out(is_checked=True), client._check_out(is_checked=True)
    for pause, connection in ((0.9, second), (0.1, first), (0.3, second)):
        now[0] += pause
        client._check_in(connection)
        assert client.get_many(["nothing"]) == client.get_many(["nothing"]) == [None]
        assert client._check_out() is connection
    client._check_in(first)
    client._check_in(second)
    assert checked == [second, first]
    client.close()


def test_run_later_passes_the_reply_to_a_callback(client: RedisClient) -> None:
    """The reply or error of `run_later` goes to its callback, never to the caller of another command."""
    replies: list[Any] = []
    fail = Script("return redis.call('NONSENSE')")
    for script in (ECHO, ECHO, ECHO):
        client.run_later(script, ["k"], [b"v"], replies.append)
    assert client.execute("PING") == b"PONG"
    assert replies == [[b"k", b"v"]] * 3
    client._known.add(fail.sha)
    client.run_later(fail, [], [], replies.append)
    assert client.execute("PING") == b"PONG"
    # NOSCRIPT, or the script's own error if another test has loaded the script
    assert isinstance(replies[-1], redis.ResponseError)
    assert len(client._idle) == 1


def test_a_sent_script_keeps_its_connection(client: RedisClient) -> None:
    """No other command uses the connection until the reply is read; `send` skips unknown scripts."""
    assert client.send(ECHO, ["k"], [1]) is None
    sent = client.send(ECHO, ["k"], [1])
    assert sent is not None
    assert client.execute("PING") == b"PONG"
    assert sent.connection not in client._idle
    assert client.run_each(ECHO, [["a"]], [2], after=sent) == [[b"a", b"2"]]
    assert sent.connection in client._idle
    sent.give_up()
    assert client.execute("PING") == b"PONG", "the reply was read before, so give_up does nothing"


def test_an_abandoned_script_still_runs(client: RedisClient, redis_client: redis.Redis) -> None:
    """After `give_up` the script still runs. Its connection is closed, so no command gets its reply."""
    keep = Script("return redis.call('SET', KEYS[1], ARGV[1])")
    client.run(keep, ["k"], [0])
    sent = client.send(keep, ["k"], [1])
    assert sent is not None
    sent.give_up()
    assert client.execute("PING") == b"PONG"
    assert client._idle[-1] is not sent.connection
    wait_until(lambda: redis_client.get("k") == b"1", "the script has run")


def test_flushed_scripts_are_loaded_again(client: RedisClient, redis_client: redis.Redis) -> None:
    """After SCRIPT FLUSH each kind of call loads the script again, `run_later` after one NOSCRIPT error."""
    replies: list[Any] = []
    client.run(ECHO, ["k"], [1])
    redis_client.script_flush()
    client.run_later(ECHO, ["k"], [1], replies.append)
    assert client.run_each(ECHO, [["a"]], [2]) == [[b"a", b"2"]]
    assert isinstance(replies[0], ErrorReply)
    assert replies[0].code == "NOSCRIPT"
    client.run_later(ECHO, ["k"], [1], replies.append)
    assert client.execute("PING") == b"PONG"
    assert replies[1:] == [[b"k", b"1"]]
    sent = client.send(ECHO, ["k"], [1])
    redis_client.script_flush()
    assert client.run_each(ECHO, [["a"]], [2], after=sent) == [[b"a", b"2"]]
    assert client.run(ECHO, ["k"], [1]) == [b"k", b"1"]


def test_one_missing_script_means_all_are_missing(client: RedisClient, redis_client: redis.Redis) -> None:
    """After one NOSCRIPT the client sends the text of every script, because SCRIPT FLUSH removes all."""
    replies: list[Any] = []
    other = Script("return 2")
    client.run(ECHO, ["k"], [1])
    client.run(other, [], [])
    redis_client.script_flush()
    assert client.run(other, [], []) == 2
    client.run_later(ECHO, ["k"], [1], replies.append)
    assert replies == [[b"k", b"1"]]


def test_a_closed_connection_answers_its_callback(client: RedisClient, redis_client: redis.Redis) -> None:
    """After the connection is closed, its callback is called once; the next command uses another one."""
    replies: list[Any] = []
    own_id = client.execute("CLIENT", "ID")
    client.run(ECHO, ["k"], [1])
    client.run_later(ECHO, ["k"], [1], replies.append)
    redis_client.client_kill_filter(_id=own_id)
    connection = client._idle[-1]
    wait_until(connection.is_readable, "the reply arrives")
    assert client.execute("CLIENT", "ID") != own_id
    assert len(replies) == 1


def test_closing_waits_for_sent_scripts(settings: Settings, redis_client: redis.Redis) -> None:
    """`close` waits until sent scripts have run, so that a process that ends leaves no lease."""
    client = RedisClient(make_connection_factory(settings, "client"))
    keep = Script("return redis.call('SET', KEYS[1], ARGV[1])")
    client.run(keep, ["k"], [0])
    client.run_later(keep, ["k"], [1], lambda _: None)
    client.close()
    assert redis_client.get("k") == b"1"


def test_a_child_process_opens_new_connections(client: RedisClient) -> None:
    """After `close_in_child` the client opens a new connection instead of using the parent's."""
    own_id = client.execute("CLIENT", "ID")
    client.close_in_child()
    assert client.execute("CLIENT", "ID") != own_id
