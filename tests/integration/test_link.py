"""The link to a real Valkey: scripts, errors, connections that were cut."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from core import Settings
from core.cache.guard import wires_to_redis
from core.cache.link import Link, Script
from core.cache.wire import ErrorReply, Wire

ECHO = Script("return {KEYS[1], ARGV[1]}")


@pytest.fixture
def link(settings: Settings) -> Iterator[Link]:
    """A link to the test's Valkey."""
    link = Link(wires_to_redis(settings, "link"))
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
        wait_until(link._idle[-1].is_readable)
        assert link.ask("PING") == b"PONG"


def test_each_connection_proves_itself(settings: Settings) -> None:
    """Behind a moved address one may have the new server and another the old one: no check is shared."""
    now, proved = [0.0], list[Wire]()

    def check(wire: Wire) -> tuple[()]:
        wire.connect()
        return ()

    link = Link(
        wires_to_redis(settings, "link"),
        check=check,
        recheck=proved.append,
        trust_seconds=1.0,
        clock=lambda: now[0],
    )
    first, second = link._take(is_proved=True), link._take(is_proved=True)
    for pause, wire in ((0.9, second), (0.1, first), (0.3, second)):
        now[0] += pause
        link._put(wire)
        assert link.get_many(["nothing"]) == link.get_many(["nothing"]) == [None]
        assert link._take() is wire
    link._put(first)
    link._put(second)
    assert proved == [second, first]
    link.close()


def wait_until(is_met: Callable[[], bool]) -> None:
    """Return once a condition is met."""
    deadline = time.monotonic() + 5
    while not is_met():
        assert time.monotonic() < deadline


def test_a_script_that_nobody_waits_for_is_heard_of_later(link: Link) -> None:
    """Its reply never is that to another command, and its error is no error of another command."""
    heard: list[Any] = []
    fail = Script("return redis.call('NONSENSE')")
    for script in (ECHO, ECHO, ECHO):
        link.run_later(script, ["k"], [b"v"], heard.append)
    assert link.ask("PING") == b"PONG"
    assert heard == [[b"k", b"v"]] * 3
    link._known.add(fail.sha)
    link.run_later(fail, [], [], heard.append)
    assert link.ask("PING") == b"PONG"
    # of which kind depends on what other tests have given the server
    assert isinstance(heard[-1], redis.ResponseError)
    assert len(link._idle) == 1


def test_a_script_is_sent_now_and_read_along_later(link: Link) -> None:
    """Meanwhile its connection is nobody else's; a script that the server has yet to learn is not sent."""
    assert link.send(ECHO, ["k"], [1]) is None
    sent = link.send(ECHO, ["k"], [1])
    assert sent is not None
    assert link.ask("PING") == b"PONG"
    assert sent.wire not in link._idle
    assert link.run_each(ECHO, [["a"]], [2], after=sent) == [[b"a", b"2"]]
    assert sent.wire in link._idle
    sent.give_up()
    assert link.ask("PING") == b"PONG", "it was read, so there is nothing to give up"


def test_what_is_given_up_is_done_all_the_same(link: Link, redis_client: redis.Redis) -> None:
    """Its connection is closed, so that nobody reads the reply as his own."""
    keep = Script("return redis.call('SET', KEYS[1], ARGV[1])")
    link.run(keep, ["k"], [0])
    sent = link.send(keep, ["k"], [1])
    assert sent is not None
    sent.give_up()
    assert link.ask("PING") == b"PONG"
    assert link._idle[-1] is not sent.wire
    wait_until(lambda: redis_client.get("k") == b"1")


def test_a_server_that_forgot_its_scripts_learns_them_again(link: Link, redis_client: redis.Redis) -> None:
    """Whether they are waited for or not."""
    heard: list[Any] = []
    link.run(ECHO, ["k"], [1])
    redis_client.script_flush()
    link.run_later(ECHO, ["k"], [1], heard.append)
    assert link.run_each(ECHO, [["a"]], [2]) == [[b"a", b"2"]]
    assert isinstance(heard[0], ErrorReply)
    assert heard[0].code == "NOSCRIPT"
    link.run_later(ECHO, ["k"], [1], heard.append)
    assert link.ask("PING") == b"PONG"
    assert heard[1:] == [[b"k", b"1"]]
    sent = link.send(ECHO, ["k"], [1])
    redis_client.script_flush()
    assert link.run_each(ECHO, [["a"]], [2], after=sent) == [[b"a", b"2"]]
    assert link.run(ECHO, ["k"], [1]) == [b"k", b"1"]


def test_one_script_that_is_gone_says_that_all_are(link: Link, redis_client: redis.Redis) -> None:
    """They are flushed together, so each is given anew before anybody sends it without waiting."""
    heard: list[Any] = []
    other = Script("return 2")
    link.run(ECHO, ["k"], [1])
    link.run(other, [], [])
    redis_client.script_flush()
    assert link.run(other, [], []) == 2
    link.run_later(ECHO, ["k"], [1], heard.append)
    assert heard == [[b"k", b"1"]]


def test_a_cut_connection_owes_no_reply(link: Link, redis_client: redis.Redis) -> None:
    """Whoever expects one is told of it or of the end, and the next command has another connection."""
    heard: list[Any] = []
    own_id = link.ask("CLIENT", "ID")
    link.run(ECHO, ["k"], [1])
    link.run_later(ECHO, ["k"], [1], heard.append)
    redis_client.client_kill_filter(_id=own_id)
    wire = link._idle[-1]
    wait_until(wire.is_readable)
    assert link.ask("CLIENT", "ID") != own_id
    assert len(heard) == 1


def test_closing_waits_until_what_was_sent_is_done(settings: Settings, redis_client: redis.Redis) -> None:
    """A process that fills the cache and ends leaves no lease behind."""
    link = Link(wires_to_redis(settings, "link"))
    keep = Script("return redis.call('SET', KEYS[1], ARGV[1])")
    link.run(keep, ["k"], [0])
    link.run_later(keep, ["k"], [1], lambda _: None)
    link.close()
    assert redis_client.get("k") == b"1"


def test_a_child_process_connects_for_itself(link: Link) -> None:
    """After a fork the parent's sockets are left alone."""
    own_id = link.ask("CLIENT", "ID")
    link._pid = -1
    assert link.ask("CLIENT", "ID") != own_id
