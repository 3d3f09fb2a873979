"""Redis fails in every way: the caller gets an answer, and nothing is stale afterwards."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import redis

from core.cache.leases_and_fences import FENCE, RELEASE
from core.database import Database
from tests.faults.conftest import OwnValkey
from tests.faults.proxy import Proxy
from tests.faults.subject import Subject
from tests.patience import wait_until

Stop = Callable[..., AbstractContextManager[None]]


def client_of(valkey: OwnValkey) -> redis.Redis:
    """Return a third party's client."""
    return redis.Redis(port=valkey.server.port, password=valkey.server.password)


def ends_answering(seen: str) -> bool:
    """Say whether no call got an error."""
    return seen.startswith("reads: answers; writes: answers;")


def test_refused(cached: Subject, redis_proxy: Proxy) -> None:
    """One process does without Redis; its writes reach the cache of the others later."""
    redis_proxy.refuse()
    seen = cached.use()
    redis_proxy.accept_again()
    assert ends_answering(seen)
    cached.finish("Redis refuses connections", seen)


def test_hung(cached: Subject, valkey: OwnValkey, stopped: Stop) -> None:
    """While SIGSTOP holds Redis, reads and writes succeed; the invalidations are sent afterwards."""
    with stopped(valkey.server.pid):
        seen = cached.use()
    assert ends_answering(seen)
    cached.finish("Redis hung (SIGSTOP)", seen)


def test_an_idle_writer_pays_its_debt(cached: Subject, redis_proxy: Proxy) -> None:
    """Other processes stop reading the stale value although the writer makes no further call."""
    redis_proxy.pause()
    assert cached.write() == "answers"
    redis_proxy.resume()
    wait_until(
        lambda: cached.other.get_user_by_id(cached.user_id).name == cached.acknowledged,
        "the other process reads the write",
    )
    cached.finish("Redis hung for one writer, which then idles", "answers")


def test_hung_while_a_lease_is_asked_for(cached: Subject, redis_proxy: Proxy, valkey: OwnValkey) -> None:
    """The answer to a lease comes too late; nobody waits for the reader that gave up."""
    with client_of(valkey) as client:
        client.delete(f"user:{cached.user_id}")

        def pause(sent: bytes) -> None:
            if b"EVALSHA" in sent:
                redis_proxy.after_sent = None
                redis_proxy.pause()

        redis_proxy.after_sent = pause
        wait_until(lambda: cached.read() == "answers" and redis_proxy.after_sent is None, "a lease is lost")
        redis_proxy.resume()
        wait_until(lambda: (client.get(f"user:{cached.user_id}") or b"")[:1] != b"L", "the lease is given up")
    seen = cached.use()
    assert ends_answering(seen)
    cached.finish("Redis hung while a lease was asked for", seen)


def test_killed_and_restarted_empty(cached: Subject, valkey: OwnValkey) -> None:
    """After SIGKILL, a new and empty server is used on the same port."""
    valkey.kill()
    seen = cached.use()
    valkey.start()
    assert ends_answering(seen)
    cached.finish("Redis killed, restarted empty", seen)


def test_killed_between_fence_and_release(
    cached: Subject, valkey: OwnValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server dies while a write commits; the write is acknowledged, and no reader sees an older row."""
    commit = Database.commit

    def commit_and_kill(database: Database) -> None:
        commit(database)
        monkeypatch.undo()
        valkey.kill()

    monkeypatch.setattr(Database, "commit", commit_and_kill)
    assert cached.write() == "answers"
    seen = cached.use()
    valkey.start()
    assert ends_answering(seen)
    cached.finish("Redis killed between fence and release", seen)


def test_out_of_memory(cached: Subject, valkey: OwnValkey) -> None:
    """Maxmemory with noeviction refuses fences and fills, but no invalidations."""
    with client_of(valkey) as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")
        seen = cached.use()
        client.config_set("maxmemory", "0")
    assert ends_answering(seen)
    cached.finish("Redis out of memory (noeviction)", seen)


@pytest.mark.parametrize("denied", ["-@all", "-evalsha", "-unlink -del", "-set", "-mget"])
def test_forbidden_commands(cached: Subject, valkey: OwnValkey, denied: str) -> None:
    """Without the commands that the cache needs, Redis is not used."""
    with client_of(valkey) as client:
        keeping = "+auth +hello +client +config +acl" if denied == "-@all" else ""
        client.execute_command("ACL", "SETUSER", "default", *denied.split(), *keeping.split())
        seen = cached.use()
        client.execute_command("ACL", "SETUSER", "default", "+@all")
    assert ends_answering(seen)
    cached.finish(f"Redis forbids commands (ACL {denied})", seen)


@pytest.mark.parametrize(
    "answer",
    [
        b"-ERR scripted failure\r\n",
        b"-LOADING server is loading\r\n",
        b"-READONLY replica\r\n",
        b"-MISCONF cannot persist\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"$abc\r\n",
        b"*-7\r\n",
        b"+OK\r\n",
        b":99\r\n",
        b"*1\r\n:1\r\n",
    ],
)
def test_wrong_answers(cached: Subject, redis_proxy: Proxy, answer: bytes) -> None:
    """Errors, other protocols and answers of the wrong type count as no Redis."""
    redis_proxy.script = lambda _: (b"", answer)
    seen = cached.use()
    redis_proxy.script = None
    redis_proxy.sever()
    assert ends_answering(seen)
    cached.finish(f"Redis answers {answer.decode().strip().splitlines()[0]!r}", seen)


@pytest.mark.parametrize(
    "value",
    [b"V" + b"\0" * 300, b"F", b"Foreign", b"L" + b"x" * 40, b"Lorem ipsum....", b"\xff" * 4096],
)
@pytest.mark.parametrize("key", ["user", "version:usernames", "version:leaderboard"])
def test_foreign_values(cached: Subject, valkey: OwnValkey, key: str, value: bytes) -> None:
    """What looks like a value, a fence, a lease or nothing known is replaced at once."""
    board = cached.service.get_leaderboard("b")
    key = {
        "user": f"user:{cached.user_id}",
        "version:leaderboard": f"version:leaderboard:b:{cached.service._clock().date()}",
    }.get(key, key)
    with client_of(valkey) as client:
        client.set(key, value)
        assert cached.service.get_leaderboard("b") == board
        seen = cached.use()
        assert cached.other.get_leaderboard("b") == board
    assert ends_answering(seen)
    assert float(seen.split()[-2]) < 1.5, "nobody waits for a lease that is none"
    cached.finish("a foreign value lies under a key", seen)


def test_feed_cut(cached: Subject, valkey: OwnValkey) -> None:
    """Only the feeds are killed; what changes meanwhile is read within their bound."""
    with client_of(valkey) as client:
        for each in client.client_list():
            if "t" in each["flags"]:
                client.client_kill_filter(_id=each["id"])
        seen = cached.use()
    assert ends_answering(seen)
    cached.finish("near-cache feed cut", seen)


def test_network_severed(cached: Subject, redis_proxy: Proxy) -> None:
    """All connections, feed included, are cut at once; new ones are used."""
    redis_proxy.sever()
    seen = cached.use()
    assert ends_answering(seen)
    cached.finish("connections to Redis severed", seen)


def test_network_paused_while_reading(cached: Subject, redis_proxy: Proxy, valkey: OwnValkey) -> None:
    """A process that is cut off from Redis never reads anything older than its own writes."""
    redis_proxy.pause()
    seen = cached.use(rounds=20)
    redis_proxy.resume()
    assert ends_answering(seen)
    cached.finish("one process cut off from Redis", seen)


def test_a_fence_arrives_after_its_release(cached: Subject, redis_proxy: Proxy, valkey: OwnValkey) -> None:
    """The network delivers a fence after its release; its keys are cached again soon."""
    kept: list[bytes] = []
    arrived: list[int] = []

    def keep_fence(data: bytes) -> tuple[bytes, bytes]:
        if FENCE.sha.encode() in data and not kept:
            kept.append(data)
            return b"", b""
        return data, b""

    def deliver(data: bytes) -> None:
        if RELEASE.sha.encode() in data and kept and not arrived:
            with client_of(valkey) as client:
                connection = client.connection_pool.get_connection()
                connection.send_packed_command([kept[0]])
                arrived.append(connection.read_response())

    redis_proxy.script, redis_proxy.after_sent = keep_fence, deliver
    seen = cached.write()
    wait_until(lambda: bool(arrived), "the fence is there")
    redis_proxy.script = redis_proxy.after_sent = None
    assert seen == "answers"
    cached.finish("Redis receives a fence after its release", seen)
