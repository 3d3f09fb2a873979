"""Redis that restarts from an older snapshot, or is promoted with older data, serves no invalidated value."""

from collections.abc import Iterator

import pytest

from tests.matrix.caches.cache_pair import PLAYERS, CachePair, make_settings
from tests.matrix.caches.conftest import MakeServer, set_user
from tests.matrix.caches.servers import RedisServer
from tests.matrix.caches.test_roles import start_replication
from tests.patience import wait_until


@pytest.fixture
def pair(server: RedisServer) -> Iterator[CachePair]:
    """Yield two processes that have cached every row; the reader has no near cache and always asks Redis."""
    with CachePair(make_settings(server.url()), reader=make_settings(server.url(), near=0)) as pair:
        pair.warm()
        yield pair


def test_a_snapshot_restores_no_old_value(pair: CachePair, server: RedisServer) -> None:
    """After a restart from a snapshot that is older than a write, both processes read the written row."""
    server.run("SAVE")
    written = {player: pair.write(player) for player in PLAYERS}
    server.kill()
    server.start()
    wait_until(pair.both_use_cache, "both use the cache")
    for player, row in written.items():
        for cache in (pair.reader, pair.writer):
            assert pair.read(player, cache=cache) == row


def test_a_later_process_reads_no_old_value(pair: CachePair, server: RedisServer) -> None:
    """A process that starts after the restart from an older snapshot reads the written row too."""
    server.run("SAVE")
    written = pair.write()
    server.kill()
    server.start()
    with CachePair(make_settings(server.url(), near=0)) as later:
        later.rows = pair.rows
        assert later.read() == written


def test_a_promoted_replica_serves_no_old_value(make_server: MakeServer) -> None:
    """A promoted replica that did not receive the last invalidation does not serve the old value."""
    primary, replica = make_server(), make_server()
    with CachePair(make_settings(primary.url(), near=0)) as pair:
        pair.warm()
        start_replication(replica, primary)
        replica.run("REPLICAOF", "NO", "ONE")
        written = pair.write()
    with CachePair(make_settings(replica.url(), near=0)) as later:
        later.rows = pair.rows
        assert later.read() == written
        later.assert_recovered()


def test_a_failover_and_back_restores_no_old_value(make_server: MakeServer) -> None:
    """A former primary that gets its old values back from the promoted replica does not serve them."""
    first, second = make_server(), make_server()
    with CachePair(make_settings(first.url(), near=0)) as pair:
        pair.warm()
        start_replication(second, first)
        second.run("REPLICAOF", "NO", "ONE")
        written = pair.write()
    start_replication(first, second)
    first.run("REPLICAOF", "NO", "ONE")
    with CachePair(make_settings(first.url(), near=0)) as later:
        later.rows = pair.rows
        assert later.read() == written


def test_a_server_that_refuses_info_is_used(server: RedisServer) -> None:
    """A server that refuses INFO is used, although the protection from snapshots needs INFO."""
    account = set_user(server, "-info")
    url = server.url(account)
    with CachePair(make_settings(url), reader=make_settings(url, near=0)) as pair:
        pair.warm()
        assert pair.find_stale() == []
