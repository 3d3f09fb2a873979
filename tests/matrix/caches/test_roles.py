"""A server that stops accepting changes while it is used, and one that never did."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from core.settings.texts import LOOPBACK
from tests.matrix.caches.conftest import MakeServer, set_user
from tests.matrix.caches.couple import Couple, make_settings
from tests.matrix.caches.servers import RedisServer
from tests.patience import wait_until


def make_replica(server: RedisServer, primary: RedisServer) -> None:
    """Let a server follow another one, and return once it does."""
    server.run("REPLICAOF", LOOPBACK, primary.port)
    wait_until(lambda: server.find_status("replication", "master_link_status") == "up", "a link", 20)


@pytest.mark.parametrize("read_only", ["yes", "no"])
def test_a_primary_that_becomes_a_replica(make_server: MakeServer, read_only: str) -> None:
    """Nothing is stale in a failover and back, even if replicas accept writes; both are used again."""
    server, other = make_server("--replica-read-only", read_only), make_server()
    with Couple(make_settings(server.url()), reader=make_settings(server.url(), near=0)) as couple:
        couple.warm()
        server.run("REPLICAOF", LOOPBACK, other.port)
        assert couple.find_stale() == []
        wait_until(couple.are_down, "both have noticed")
        assert couple.find_stale() == []
        diagnosis = couple.diagnose()
        assert not diagnosis.is_usable
        assert "it is a replica: REDIS_URL has to name the primary" in (couple.writer.stats().reason or "")
        make_replica(server, other)
        assert couple.find_stale() == []
        server.run("REPLICAOF", "NO", "ONE")
        couple.finish()


def test_a_replica_from_the_start(make_server: MakeServer) -> None:
    """A replica with the values of its primary in it is not used."""
    primary, server = make_server(), make_server()
    with Couple(make_settings(primary.url())) as used:
        used.warm()
    make_replica(server, primary)
    with Couple(make_settings(server.url())) as couple:
        couple.rows["alice"] = "newer than the replica"
        assert couple.read() == "newer than the replica"
        assert couple.find_stale() == []
        assert couple.are_down()
        assert "READONLY" in (couple.diagnose().reason or "")
        server.run("REPLICAOF", "NO", "ONE")
        couple.finish()


def test_a_replica_that_lost_its_primary(make_server: MakeServer) -> None:
    """A replica that lost its primary is not read either."""
    primary, server = make_server(), make_server("--replica-serve-stale-data", "no")
    make_replica(server, primary)
    primary.kill()
    wait_until(lambda: server.find_status("replication", "master_link_status") == "down", "it is alone")
    with Couple(make_settings(server.url())) as couple:
        assert couple.find_stale() == []
        assert couple.are_down()
        assert "it is a replica" in (couple.diagnose().reason or "")
        server.run("REPLICAOF", "NO", "ONE")
        couple.finish()
    primary.start()


@contextmanager
def unable_to_save(server: RedisServer) -> Iterator[None]:
    """Let it fail to save, and therefore refuse writes."""
    blocked = server.socket.parent / "dump.rdb"
    server.run("CONFIG", "SET", "save", "3600 1")
    # a folder cannot be replaced by a file
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
    """Let it want a replica that it does not have."""
    server.run("CONFIG", "SET", "min-replicas-to-write", 1)
    yield
    server.run("CONFIG", "SET", "min-replicas-to-write", 0)


@contextmanager
def busy(server: RedisServer) -> Iterator[None]:
    """Let it run somebody's endless script."""
    server.run("CONFIG", "SET", "lua-time-limit", 20)
    once = Retry(NoBackoff(), 0)
    with redis.Redis(unix_socket_path=str(server.socket), socket_timeout=0.2, retry=once) as client:
        with pytest.raises(redis.TimeoutError):
            client.eval("while true do end", 0)
        yield
        server.run("SCRIPT", "KILL")


@contextmanager
def pausing_writes(server: RedisServer) -> Iterator[None]:
    """Let it hold writes back, as for a failover that is prepared, and answer reads."""
    server.run("CLIENT", "PAUSE", 60_000, "WRITE")
    yield
    server.run("CLIENT", "UNPAUSE")


@contextmanager
def hung(server: RedisServer) -> Iterator[None]:
    """Let it answer nothing."""
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
def test_a_server_that_stops_accepting_changes(
    server: RedisServer, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether it refuses or hangs, nothing is stale, both give the reason, and it is used again later."""
    with Couple(make_settings(server.url()), reader=make_settings(server.url(), near=0)) as couple:
        couple.warm()
        with REFUSING[words](server):
            assert couple.find_stale() == []
            wait_until(couple.are_down, "both have noticed")
            assert words.strip() in (couple.writer.stats().reason or "")
            diagnosis = couple.diagnose()
            assert not diagnosis.is_usable
            assert words.strip() in (diagnosis.reason or "")
            assert couple.find_stale() == []
        couple.finish()
    for line in ("Redis bypassed", "Redis is used again"):
        assert sum(line in record.getMessage() for record in caplog.records) <= 2, "once for each process"


def test_a_refused_write_waits_once(server: RedisServer) -> None:
    """A refused write waits for the other processes once, for at most one timeout, and then no more."""
    with Couple(make_settings(server.url())) as couple:
        couple.warm()
        with without_replicas(server):
            seconds = []
            for _ in range(4):
                started = time.monotonic()
                couple.write()
                seconds.append(time.monotonic() - started)
        assert seconds[0] > 0.2
        assert sum(seconds[1:]) < seconds[0], "the others found the breaker open"


def test_a_full_server_is_used_for_what_it_has(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """A full server refuses to store but not to invalidate: nothing is stale, and health says it is full."""
    with Couple(make_settings(server.url()), reader=make_settings(server.url(), near=0)) as couple:
        couple.warm()
        server.run("CONFIG", "SET", "maxmemory-policy", "noeviction")
        server.run("CONFIG", "SET", "maxmemory", 1)
        hits = couple.reader.stats().caches["user"].hits
        couple.read("bob")
        assert couple.reader.stats().caches["user"].hits == hits + 1
        assert couple.find_stale() == []
        assert couple.reader.stats().state == "enabled"
        diagnosis = couple.diagnose()
        assert diagnosis.is_usable
        assert (diagnosis.reason or "").startswith("stores nothing: OOM")
        server.run("CONFIG", "SET", "maxmemory", 0)
        couple.finish()
    lines = [record.getMessage() for record in caplog.records if "stores nothing" in record.getMessage()]
    assert len(lines) == 2, "one for each process, however often it refuses"


def test_a_full_server_outlives_a_writer(server: RedisServer) -> None:
    """Without room for a fence, what a writer is about to change is dropped before the commit."""
    with Couple(make_settings(server.url()), reader=make_settings(server.url(), near=0)) as couple:
        couple.warm()
        server.run("CONFIG", "SET", "maxmemory-policy", "noeviction")
        server.run("CONFIG", "SET", "maxmemory", 1)
        players = ("alice", "bob")
        fence = couple.writer.fence([f"user:{player}" for player in players], is_awaited=True)
        for player in players:
            # committed by a writer that dies then
            couple.rows[player] = "committed"
            assert couple.read(player) == "committed"
        couple.writer.invalidate([f"user:{player}" for player in players], fence)
        server.run("CONFIG", "SET", "maxmemory", 0)
        couple.finish()


def test_a_server_that_is_replaced_by_another(make_server: MakeServer) -> None:
    """Another server behind the same address is checked before anything is read from it."""
    server = make_server()
    primary = make_server()
    with Couple(make_settings(server.url())) as couple:
        couple.warm()
        server.kill()
        assert couple.find_stale() == []
        server.options = ("--replicaof", LOOPBACK, str(primary.port))
        server.start()
        wait_until(lambda: "READONLY" in (couple.diagnose().reason or ""), "another one answers")
        assert couple.find_stale() == []
        server.kill()
        server.options = ()
        server.start()
        set_user(server)
        couple.finish()
