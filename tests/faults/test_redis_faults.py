"""Redis faults: every call succeeds without Redis, and no read is stale afterwards."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import redis

from core.cache.leases_and_fences import FENCE, RELEASE
from core.database import Database
from tests.faults.conftest import OwnValkey
from tests.faults.probe import FaultProbe
from tests.faults.proxy import Proxy
from tests.patience import wait_until

Stop = Callable[..., AbstractContextManager[None]]


def connect_client(valkey: OwnValkey) -> redis.Redis:
    """Return a Redis client that is independent of the services."""
    return redis.Redis(port=valkey.server.port, password=valkey.server.password)


def has_no_errors(seen: str) -> bool:
    """Return whether every read and write succeeded."""
    return seen.startswith("reads: answers; writes: answers;")


def test_connections_refused(redis_probe: FaultProbe, redis_proxy: Proxy) -> None:
    """While Redis refuses one process, its calls succeed; the other process reads its writes afterwards."""
    redis_proxy.refuse()
    seen = redis_probe.read_and_write()
    redis_proxy.accept_again()
    assert has_no_errors(seen)
    redis_probe.assert_healed("Redis refuses connections", seen)


def test_hung(redis_probe: FaultProbe, valkey: OwnValkey, stopped: Stop) -> None:
    """While Redis hangs (SIGSTOP), reads and writes succeed; the invalidations are sent afterwards."""
    with stopped(valkey.server.pid):
        seen = redis_probe.read_and_write()
    assert has_no_errors(seen)
    redis_probe.assert_healed("Redis hung (SIGSTOP)", seen)


def test_an_idle_writer_sends_its_invalidation(redis_probe: FaultProbe, redis_proxy: Proxy) -> None:
    """A pending invalidation is sent although the writer makes no further call."""
    redis_proxy.pause()
    assert redis_probe.write() == "answers"
    redis_proxy.resume()
    wait_until(
        lambda: redis_probe.other.get_user_by_id(redis_probe.user_id).name == redis_probe.acknowledged,
        "the other process reads the write",
    )
    redis_probe.assert_healed("Redis hung for one writer, which then idles", "answers")


def test_hung_during_a_lease_request(redis_probe: FaultProbe, redis_proxy: Proxy, valkey: OwnValkey) -> None:
    """When the reply to a lease request is late, the lease is released, and later calls do not wait."""
    with connect_client(valkey) as client:
        client.delete(f"user:{redis_probe.user_id}")

        def pause(sent: bytes) -> None:
            if b"EVALSHA" in sent:
                redis_proxy.after_sent = None
                redis_proxy.pause()

        redis_proxy.after_sent = pause
        wait_until(
            lambda: redis_probe.read() == "answers" and redis_proxy.after_sent is None,
            "a lease request times out",
        )
        redis_proxy.resume()
        wait_until(
            lambda: (client.get(f"user:{redis_probe.user_id}") or b"")[:1] != b"L", "the lease is released"
        )
    seen = redis_probe.read_and_write()
    assert has_no_errors(seen)
    redis_probe.assert_healed("Redis hung while a lease was asked for", seen)


def test_killed_and_restarted_empty(redis_probe: FaultProbe, valkey: OwnValkey) -> None:
    """After Redis is killed, calls succeed; a new empty server on the same port is then used."""
    valkey.kill()
    seen = redis_probe.read_and_write()
    valkey.start()
    assert has_no_errors(seen)
    redis_probe.assert_healed("Redis killed, restarted empty", seen)


def test_killed_between_fence_and_release(
    redis_probe: FaultProbe, valkey: OwnValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When Redis is killed just after a commit, the write is acknowledged and no read is stale."""
    commit = Database.commit

    def commit_and_kill(database: Database) -> None:
        commit(database)
        monkeypatch.undo()
        valkey.kill()

    monkeypatch.setattr(Database, "commit", commit_and_kill)
    assert redis_probe.write() == "answers"
    seen = redis_probe.read_and_write()
    valkey.start()
    assert has_no_errors(seen)
    redis_probe.assert_healed("Redis killed between fence and release", seen)


def test_out_of_memory(redis_probe: FaultProbe, valkey: OwnValkey) -> None:
    """While Redis is out of memory (`noeviction`), calls succeed and no read is stale."""
    with connect_client(valkey) as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")
        seen = redis_probe.read_and_write()
        client.config_set("maxmemory", "0")
    assert has_no_errors(seen)
    redis_probe.assert_healed("Redis out of memory (noeviction)", seen)


@pytest.mark.parametrize("denied", ["-@all", "-evalsha", "-unlink -del", "-set", "-mget"])
def test_forbidden_commands(redis_probe: FaultProbe, valkey: OwnValkey, denied: str) -> None:
    """While an ACL forbids commands that the cache needs, calls succeed without Redis."""
    with connect_client(valkey) as client:
        still_allowed = "+auth +hello +client +config +acl" if denied == "-@all" else ""
        client.execute_command("ACL", "SETUSER", "default", *denied.split(), *still_allowed.split())
        seen = redis_probe.read_and_write()
        client.execute_command("ACL", "SETUSER", "default", "+@all")
    assert has_no_errors(seen)
    redis_probe.assert_healed(f"Redis forbids commands (ACL {denied})", seen)


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
def test_wrong_answers(redis_probe: FaultProbe, redis_proxy: Proxy, answer: bytes) -> None:
    """While Redis replies with errors, other protocols or wrong types, calls succeed without Redis."""
    redis_proxy.script = lambda _: (b"", answer)
    seen = redis_probe.read_and_write()
    redis_proxy.script = None
    redis_proxy.sever()
    assert has_no_errors(seen)
    redis_probe.assert_healed(f"Redis answers {answer.decode().strip().splitlines()[0]!r}", seen)


@pytest.mark.parametrize(
    "value",
    [b"V" + b"\0" * 300, b"F", b"Foreign", b"L" + b"x" * 40, b"Lorem ipsum....", b"\xff" * 4096],
)
@pytest.mark.parametrize("key", ["user", "version:usernames", "version:leaderboard"])
def test_foreign_values(redis_probe: FaultProbe, valkey: OwnValkey, key: str, value: bytes) -> None:
    """A foreign value under a cache key is replaced at once, even if it looks like a lease or a fence."""
    leaderboard = redis_probe.service.get_leaderboard("b")
    key = {
        "user": f"user:{redis_probe.user_id}",
        "version:leaderboard": f"version:leaderboard:b:{redis_probe.service._clock().date()}",
    }.get(key, key)
    with connect_client(valkey) as client:
        client.set(key, value)
        assert redis_probe.service.get_leaderboard("b") == leaderboard
        seen = redis_probe.read_and_write()
        assert redis_probe.other.get_leaderboard("b") == leaderboard
    assert has_no_errors(seen)
    assert float(seen.split()[-2]) < 1.5, "a call waited for a value that is no lease"
    redis_probe.assert_healed("a foreign value lies under a key", seen)


def test_feed_cut(redis_probe: FaultProbe, valkey: OwnValkey) -> None:
    """After the invalidation feeds are cut, calls succeed and no read is stale after 5 s."""
    with connect_client(valkey) as client:
        for each in client.client_list():
            if "t" in each["flags"]:
                client.client_kill_filter(_id=each["id"])
        seen = redis_probe.read_and_write()
    assert has_no_errors(seen)
    redis_probe.assert_healed("near-cache feed cut", seen)


def test_network_severed(redis_probe: FaultProbe, redis_proxy: Proxy) -> None:
    """After all connections to Redis are cut, calls succeed on new connections."""
    redis_proxy.sever()
    seen = redis_probe.read_and_write()
    assert has_no_errors(seen)
    redis_probe.assert_healed("connections to Redis severed", seen)


def test_network_paused_for_one_process(
    redis_probe: FaultProbe, redis_proxy: Proxy, valkey: OwnValkey
) -> None:
    """A process whose traffic to Redis is held back always reads its own writes."""
    redis_proxy.pause()
    seen = redis_probe.read_and_write(rounds=20)
    redis_proxy.resume()
    assert has_no_errors(seen)
    redis_probe.assert_healed("one process cut off from Redis", seen)


def test_a_fence_arrives_after_its_release(
    redis_probe: FaultProbe, redis_proxy: Proxy, valkey: OwnValkey
) -> None:
    """When Redis receives a fence after its release, the keys are cached again within 5 s."""
    kept: list[bytes] = []
    arrived: list[int] = []

    def keep_fence(data: bytes) -> tuple[bytes, bytes]:
        if FENCE.sha.encode() in data and not kept:
            kept.append(data)
            return b"", b""
        return data, b""

    def deliver(data: bytes) -> None:
        if RELEASE.sha.encode() in data and kept and not arrived:
            with connect_client(valkey) as client:
                connection = client.connection_pool.get_connection()
                connection.send_packed_command([kept[0]])
                arrived.append(connection.read_response())

    redis_proxy.script, redis_proxy.after_sent = keep_fence, deliver
    seen = redis_probe.write()
    wait_until(lambda: bool(arrived), "the fence has arrived")
    redis_proxy.script = redis_proxy.after_sent = None
    assert seen == "answers"
    redis_probe.assert_healed("Redis receives a fence after its release", seen)
