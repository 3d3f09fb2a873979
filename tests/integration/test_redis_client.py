"""The Redis client against a real Valkey: scripts, errors, connections that were cut."""

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
    """A client of the test's Valkey."""
    client = RedisClient(make_connection_factory(settings, "client"))
    yield client
    client.close()


def test_any_bytes_come_back(client: RedisClient) -> None:
    """Keys are text, values are bytes, and numbers are encoded as text."""
    value = bytes(range(256)) + "ü\r\n".encode()
    assert client.execute("SET", "schlüssel", value, "PX", 10_000) == b"OK"
    assert client.get_many(["schlüssel", "nothing"]) == [value, None]


def test_a_script_is_loaded_where_it_is_unknown(client: RedisClient, redis_client: redis.Redis) -> None:
    """A server that was restarted has no scripts, and gets the text."""
    assert client.run(ECHO, ["k"], [b"v"]) == [b"k", b"v"]
    redis_client.script_flush()
    assert client.run_each(ECHO, [["a"], ["b"]], [1]) == [[b"a", b"1"], [b"b", b"1"]]


def test_an_error_leaves_the_connection_in_use(client: RedisClient) -> None:
    """The next command on the connection gets its own reply."""
    with pytest.raises(redis.ResponseError):
        client.execute("NONSENSE")
    with pytest.raises(redis.ResponseError):
        client.run(Script("return redis.call('NONSENSE')"), [], [])
    assert client.execute("PING") == b"PONG"
    assert len(client._idle) == 1


def test_a_connection_that_was_cut_is_not_used(client: RedisClient, redis_client: redis.Redis) -> None:
    """The server closed it while idle: no command is lost on it, however often that happens."""
    for _ in range(120):
        own_id = client.execute("CLIENT", "ID")
        redis_client.client_kill_filter(_id=own_id)
        wait_until(client._idle[-1].is_readable, "the end arrives")
        assert client.execute("PING") == b"PONG"


def test_each_connection_is_checked_for_itself(settings: Settings) -> None:
    """Behind a moved address two connections may lead to two servers, so no check is shared."""
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


def test_a_script_that_nobody_waits_for_is_heard_of_later(client: RedisClient) -> None:
    """Its reply is never returned for another command, and its error never raised in one."""
    heard: list[Any] = []
    fail = Script("return redis.call('NONSENSE')")
    for script in (ECHO, ECHO, ECHO):
        client.run_later(script, ["k"], [b"v"], heard.append)
    assert client.execute("PING") == b"PONG"
    assert heard == [[b"k", b"v"]] * 3
    client._known.add(fail.sha)
    client.run_later(fail, [], [], heard.append)
    assert client.execute("PING") == b"PONG"
    # of which kind depends on what other tests have given the server
    assert isinstance(heard[-1], redis.ResponseError)
    assert len(client._idle) == 1


def test_a_script_is_sent_now_and_read_along_later(client: RedisClient) -> None:
    """Meanwhile no other command uses its connection; an unknown script is not sent in this way."""
    assert client.send(ECHO, ["k"], [1]) is None
    sent = client.send(ECHO, ["k"], [1])
    assert sent is not None
    assert client.execute("PING") == b"PONG"
    assert sent.connection not in client._idle
    assert client.run_each(ECHO, [["a"]], [2], after=sent) == [[b"a", b"2"]]
    assert sent.connection in client._idle
    sent.give_up()
    assert client.execute("PING") == b"PONG", "it was read, so there is nothing to give up"


def test_what_is_given_up_is_done_all_the_same(client: RedisClient, redis_client: redis.Redis) -> None:
    """The script runs; its connection is closed, so that no later command gets its reply."""
    keep = Script("return redis.call('SET', KEYS[1], ARGV[1])")
    client.run(keep, ["k"], [0])
    sent = client.send(keep, ["k"], [1])
    assert sent is not None
    sent.give_up()
    assert client.execute("PING") == b"PONG"
    assert client._idle[-1] is not sent.connection
    wait_until(lambda: redis_client.get("k") == b"1", "the script has run")


def test_a_server_that_forgot_its_scripts_learns_them_again(
    client: RedisClient, redis_client: redis.Redis
) -> None:
    """This holds for scripts that are waited for and for others."""
    heard: list[Any] = []
    client.run(ECHO, ["k"], [1])
    redis_client.script_flush()
    client.run_later(ECHO, ["k"], [1], heard.append)
    assert client.run_each(ECHO, [["a"]], [2]) == [[b"a", b"2"]]
    assert isinstance(heard[0], ErrorReply)
    assert heard[0].code == "NOSCRIPT"
    client.run_later(ECHO, ["k"], [1], heard.append)
    assert client.execute("PING") == b"PONG"
    assert heard[1:] == [[b"k", b"1"]]
    sent = client.send(ECHO, ["k"], [1])
    redis_client.script_flush()
    assert client.run_each(ECHO, [["a"]], [2], after=sent) == [[b"a", b"2"]]
    assert client.run(ECHO, ["k"], [1]) == [b"k", b"1"]


def test_one_script_that_is_gone_says_that_all_are(client: RedisClient, redis_client: redis.Redis) -> None:
    """SCRIPT FLUSH removes all, so each is sent as text before it is sent without waiting."""
    heard: list[Any] = []
    other = Script("return 2")
    client.run(ECHO, ["k"], [1])
    client.run(other, [], [])
    redis_client.script_flush()
    assert client.run(other, [], []) == 2
    client.run_later(ECHO, ["k"], [1], heard.append)
    assert heard == [[b"k", b"1"]]


def test_a_cut_connection_owes_no_reply(client: RedisClient, redis_client: redis.Redis) -> None:
    """The callback gets the reply or an error; the next command uses another connection."""
    heard: list[Any] = []
    own_id = client.execute("CLIENT", "ID")
    client.run(ECHO, ["k"], [1])
    client.run_later(ECHO, ["k"], [1], heard.append)
    redis_client.client_kill_filter(_id=own_id)
    connection = client._idle[-1]
    wait_until(connection.is_readable, "the reply arrives")
    assert client.execute("CLIENT", "ID") != own_id
    assert len(heard) == 1


def test_closing_waits_until_what_was_sent_is_done(settings: Settings, redis_client: redis.Redis) -> None:
    """A process that fills the cache and ends leaves no lease."""
    client = RedisClient(make_connection_factory(settings, "client"))
    keep = Script("return redis.call('SET', KEYS[1], ARGV[1])")
    client.run(keep, ["k"], [0])
    client.run_later(keep, ["k"], [1], lambda _: None)
    client.close()
    assert redis_client.get("k") == b"1"


def test_a_child_process_connects_for_itself(client: RedisClient) -> None:
    """After a fork the child does not use the parent's sockets."""
    own_id = client.execute("CLIENT", "ID")
    client.close_in_child()
    assert client.execute("CLIENT", "ID") != own_id
