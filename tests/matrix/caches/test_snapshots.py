"""A server that comes back with older data: what it has was invalidated since, and nothing says so."""

from collections.abc import Iterator

import pytest

from tests.matrix.caches.conftest import MakeServer, set_user
from tests.matrix.caches.couple import PLAYERS, Couple, make_settings
from tests.matrix.caches.servers import RedisServer
from tests.matrix.caches.test_roles import make_replica
from tests.patience import wait_until


@pytest.fixture
def couple(server: RedisServer) -> Iterator[Couple]:
    """Two processes that have everything in the cache; the reader asks the server each time."""
    with Couple(make_settings(server.url()), reader=make_settings(server.url(), near=0)) as couple:
        couple.warm()
        yield couple


def test_a_snapshot_brings_no_value_back(couple: Couple, server: RedisServer) -> None:
    """After save, write, kill and start, no value from before the write is served from the snapshot."""
    server.run("SAVE")
    written = {player: couple.write(player) for player in PLAYERS}
    server.kill()
    server.start()
    wait_until(couple.is_used, "both use the cache")
    for player, row in written.items():
        for cache in (couple.reader, couple.writer):
            assert couple.read(player, cache=cache) == row


def test_a_process_that_starts_later_reads_no_snapshot(couple: Couple, server: RedisServer) -> None:
    """A process that has never seen the server before does not read the snapshot's values either."""
    server.run("SAVE")
    written = couple.write()
    server.kill()
    server.start()
    with Couple(make_settings(server.url(), near=0)) as later:
        later.rows = couple.rows
        assert later.read() == written


def test_a_replica_that_missed_an_invalidation(make_server: MakeServer) -> None:
    """A replica that is promoted without the last change serves no value from before the change."""
    primary, replica = make_server(), make_server()
    with Couple(make_settings(primary.url(), near=0)) as couple:
        couple.warm()
        make_replica(replica, primary)
        replica.run("REPLICAOF", "NO", "ONE")
        written = couple.write()
    with Couple(make_settings(replica.url(), near=0)) as later:
        later.rows = couple.rows
        assert later.read() == written
        later.finish()


def test_a_failover_and_back_brings_no_value_back(make_server: MakeServer) -> None:
    """The first primary gets its own old values back from the second one, and none is served."""
    first, second = make_server(), make_server()
    with Couple(make_settings(first.url(), near=0)) as couple:
        couple.warm()
        make_replica(second, first)
        second.run("REPLICAOF", "NO", "ONE")
        written = couple.write()
    make_replica(first, second)
    first.run("REPLICAOF", "NO", "ONE")
    with Couple(make_settings(first.url(), near=0)) as later:
        later.rows = couple.rows
        assert later.read() == written


def test_a_server_that_does_not_tell_is_used(server: RedisServer) -> None:
    """Without the permission for INFO all works as before, except the protection from snapshots."""
    account = set_user(server, "-info")
    url = server.url(account)
    with Couple(make_settings(url), reader=make_settings(url, near=0)) as couple:
        couple.warm()
        assert couple.find_stale() == []
