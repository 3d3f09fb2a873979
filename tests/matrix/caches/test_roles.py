"""Redis that refuses writes, as a replica or for another reason: it is bypassed, and no read is stale."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from core.settings.texts import LOOPBACK
from tests.matrix.caches.cache_pair import CachePair, make_settings
from tests.matrix.caches.conftest import MakeServer, set_user
from tests.matrix.caches.servers import RedisServer
from tests.patience import wait_until


def start_replication(server: RedisServer, primary: RedisServer) -> None:
    """Make `server` a replica of `primary`, and return once it is connected to the primary."""
    server.run("REPLICAOF", LOOPBACK, primary.port)
    wait_until(lambda: server.find_status("replication", "master_link_status") == "up", "a link", 20)


@pytest.mark.parametrize("read_only", ["yes", "no"])
def test_a_primary_that_becomes_a_replica_is_bypassed(make_server: MakeServer, read_only: str) -> None:
    """When the primary becomes a replica, it is bypassed until it is the primary again; no read is stale."""
    server, other = make_server("--replica-read-only", read_only), make_server()
    with CachePair(make_settings(server.url()), reader=make_settings(server.url(), near=0)) as pair:
        pair.warm()
        server.run("REPLICAOF", LOOPBACK, other.port)
        assert pair.find_stale() == []
        wait_until(pair.both_bypass_redis, "both have noticed")
        assert pair.find_stale() == []
        diagnosis = pair.diagnose()
        assert not diagnosis.is_usable
        assert "it is a replica: REDIS_URL has to name the primary" in (pair.writer.stats().reason or "")
        start_replication(server, other)
        assert pair.find_stale() == []
        server.run("REPLICAOF", "NO", "ONE")
        pair.assert_recovered()


def test_a_replica_is_bypassed_from_the_start(make_server: MakeServer) -> None:
    """A server that is a replica when the processes start is bypassed, although it has cached values."""
    primary, server = make_server(), make_server()
    with CachePair(make_settings(primary.url())) as used:
        used.warm()
    start_replication(server, primary)
    with CachePair(make_settings(server.url())) as pair:
        pair.rows["alice"] = "newer than the replica"
        assert pair.read() == "newer than the replica"
        assert pair.find_stale() == []
        assert pair.both_bypass_redis()
        assert "READONLY" in (pair.diagnose().reason or "")
        server.run("REPLICAOF", "NO", "ONE")
        pair.assert_recovered()


def test_a_replica_without_a_primary_is_bypassed(make_server: MakeServer) -> None:
    """A replica that has lost its primary is bypassed too."""
    primary, server = make_server(), make_server("--replica-serve-stale-data", "no")
    start_replication(server, primary)
    primary.kill()
    wait_until(lambda: server.find_status("replication", "master_link_status") == "down", "it is alone")
    with CachePair(make_settings(server.url())) as pair:
        assert pair.find_stale() == []
        assert pair.both_bypass_redis()
        assert "it is a replica" in (pair.diagnose().reason or "")
        server.run("REPLICAOF", "NO", "ONE")
        pair.assert_recovered()
    primary.start()


@contextmanager
def unable_to_save(server: RedisServer) -> Iterator[None]:
    """Make BGSAVE fail, so that the server refuses writes with MISCONF."""
    blocked = server.socket.parent / "dump.rdb"
    server.run("CONFIG", "SET", "save", "3600 1")
    # BGSAVE fails because the server cannot replace a folder by its snapshot file
    blocked.mkdir()
    (blocked / "full").touch()
    server.run("BGSAVE")
    wait_until(lambda: server.find_status("persistence", "rdb_last_bgsave_status") == "err", "a failure")
    yield
    shutil.rmtree(blocked)
    server.run("CONFIG", "SET", "save", "")
    server.run("BGSAVE")
    wait_until(lambda: server.find_status("persistence", "rdb_last_bgsave_status") == "ok", "a success")


@contextmanager
def without_replicas(server: RedisServer) -> Iterator[None]:
    """Set min-replicas-to-write to 1 on a server without replicas, so that it refuses writes."""
    server.run("CONFIG", "SET", "min-replicas-to-write", 1)
    yield
    server.run("CONFIG", "SET", "min-replicas-to-write", 0)


@contextmanager
def busy(server: RedisServer) -> Iterator[None]:
    """Run an endless script on the server, so that it refuses other commands with BUSY."""
    server.run("CONFIG", "SET", "lua-time-limit", 20)
    once = Retry(NoBackoff(), 0)
    with redis.Redis(unix_socket_path=str(server.socket), socket_timeout=0.2, retry=once) as client:
        with pytest.raises(redis.TimeoutError):
            client.eval("while true do end", 0)
        yield
        server.run("SCRIPT", "KILL")


@contextmanager
def pausing_writes(server: RedisServer) -> Iterator[None]:
    """Pause writes, as in a planned failover; the server still answers reads."""
    server.run("CLIENT", "PAUSE", 60_000, "WRITE")
    yield
    server.run("CLIENT", "UNPAUSE")


@contextmanager
def hung(server: RedisServer) -> Iterator[None]:
    """Stop the server's process, so that it answers no command."""
    with server.hung():
        yield


REFUSING = {
    "MISCONF": unable_to_save,
    "NOREPLICAS": without_replicas,
    "BUSY": busy,
    "no answer within 250 ms": pausing_writes,
    "no answer within 250 ms ": hung,
}


@pytest.mark.parametrize("words", REFUSING)
def test_a_server_that_refuses_writes_is_bypassed(
    server: RedisServer, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    """While the server refuses writes or hangs, it is bypassed, and no read is stale."""
    with CachePair(make_settings(server.url()), reader=make_settings(server.url(), near=0)) as pair:
        pair.warm()
        with REFUSING[words](server):
            assert pair.find_stale() == []
            wait_until(pair.both_bypass_redis, "both have noticed")
            assert words.strip() in (pair.writer.stats().reason or "")
            diagnosis = pair.diagnose()
            assert not diagnosis.is_usable
            assert words.strip() in (diagnosis.reason or "")
            assert pair.find_stale() == []
        pair.assert_recovered()
    for line in ("Redis bypassed", "Redis is used again"):
        assert sum(line in record.getMessage() for record in caplog.records) <= 2, "once for each process"


def test_only_the_first_refused_write_waits(server: RedisServer) -> None:
    """The first write that Redis refuses waits for other processes; the next writes do not wait."""
    with CachePair(make_settings(server.url())) as pair:
        pair.warm()
        with without_replicas(server):
            seconds = []
            for _ in range(4):
                started = time.monotonic()
                pair.write()
                seconds.append(time.monotonic() - started)
        assert seconds[0] > 0.2
        assert sum(seconds[1:]) < seconds[0], "the later writes found the breaker open"


def test_a_full_server_is_used_for_hits(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """A server with full memory is used for hits and invalidations; health says that it stores nothing."""
    with CachePair(make_settings(server.url()), reader=make_settings(server.url(), near=0)) as pair:
        pair.warm()
        server.run("CONFIG", "SET", "maxmemory-policy", "noeviction")
        server.run("CONFIG", "SET", "maxmemory", 1)
        hits = pair.reader.stats().caches["user"].hits
        pair.read("bob")
        assert pair.reader.stats().caches["user"].hits == hits + 1
        assert pair.find_stale() == []
        assert pair.reader.stats().state == "enabled"
        diagnosis = pair.diagnose()
        assert diagnosis.is_usable
        assert (diagnosis.reason or "").startswith("stores nothing: OOM")
        server.run("CONFIG", "SET", "maxmemory", 0)
        pair.assert_recovered()
    lines = [record.getMessage() for record in caplog.records if "stores nothing" in record.getMessage()]
    assert len(lines) == 2, "one for each process, however often it refuses"


def test_a_full_server_gets_deletions_instead_of_fences(server: RedisServer) -> None:
    """If the memory is full, a writer deletes the keys before its commit instead of setting fences."""
    with CachePair(make_settings(server.url()), reader=make_settings(server.url(), near=0)) as pair:
        pair.warm()
        server.run("CONFIG", "SET", "maxmemory-policy", "noeviction")
        server.run("CONFIG", "SET", "maxmemory", 1)
        players = ("alice", "bob")
        fence = pair.writer.fence([f"user:{player}" for player in players], is_awaited=True)
        for player in players:
            # the state after a writer has committed and died before it invalidates
            pair.rows[player] = "committed"
            assert pair.read(player) == "committed"
        pair.writer.invalidate([f"user:{player}" for player in players], fence)
        server.run("CONFIG", "SET", "maxmemory", 0)
        pair.assert_recovered()


def test_a_server_that_restarts_as_a_replica_is_bypassed(make_server: MakeServer) -> None:
    """After a restart as another server's replica, the server at the same address is bypassed."""
    server = make_server()
    primary = make_server()
    with CachePair(make_settings(server.url())) as pair:
        pair.warm()
        server.kill()
        assert pair.find_stale() == []
        server.options = ("--replicaof", LOOPBACK, str(primary.port))
        server.start()
        wait_until(lambda: "READONLY" in (pair.diagnose().reason or ""), "another one answers")
        assert pair.find_stale() == []
        server.kill()
        server.options = ()
        server.start()
        set_user(server)
        pair.assert_recovered()
