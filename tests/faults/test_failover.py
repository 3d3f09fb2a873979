"""The primary is killed and the standby is promoted; DATABASE_URL names both servers."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import UUID

import pytest
from pydantic import SecretStr

from core import EnhancedDatabaseService, Settings, open_service
from core.errors import DatabaseUnavailable, EchoMarketsError
from core.testing import PostgresServer
from tests.conftest import connected
from tests.faults.conftest import OwnValkey, on_valkey
from tests.faults.proxy import Proxy, run_proxy
from tests.patience import HEAL_SECONDS, stretch, wait_until
from tests.replicas import wait_until_replayed
from tests.replication import DATABASE, Pair


class StreamedPair(Pair):
    """A primary and standby with a proxy in between, which can interrupt the replication."""

    replication_proxy: Proxy

    def __init__(self, stack: ExitStack, make_directory: Callable[[], Path]) -> None:
        def through(port: int) -> int:
            self.replication_proxy = stack.enter_context(run_proxy(port))
            return self.replication_proxy.port

        super().__init__(stack, make_directory, through=through)


@pytest.fixture
def pair(server_directory: Callable[[], Path]) -> Iterator[StreamedPair]:
    """Yield a migrated primary with a standby."""
    with ExitStack() as stack:
        yield StreamedPair(stack, server_directory)


@pytest.fixture
def pair_settings(settings: Settings, pair: StreamedPair, valkey: OwnValkey) -> Settings:
    """Return settings whose DATABASE_URL names primary and standby."""
    given = {"database_url": pair.url, "database_query_timeout": 2_000, "database_connect_timeout": 2_000}
    return on_valkey(settings.model_copy(update=given), valkey.server, valkey.server.port)


def read_names(server: PostgresServer) -> dict[UUID, str]:
    """Return the name of each user, read from the table."""
    with connected(server.url(DATABASE)) as run:
        return dict(run("SELECT id, name FROM users"))


def test_no_acknowledged_write_is_lost(pair_settings: Settings, pair: StreamedPair) -> None:
    """When the primary is killed while four threads write, the standby has all acknowledged writes."""
    pair.make_synchronous()
    acknowledged: dict[UUID, list[str]] = {}
    unacknowledged: dict[UUID, set[str]] = {}
    written_at: list[float] = []
    stale: list[str] = []
    is_over = threading.Event()

    def read_own(service: EnhancedDatabaseService, user_id: UUID, name: str) -> None:
        with contextlib.suppress(EchoMarketsError):
            found = service.get_user_by_id(user_id).name
            if found != name and service.stale_seconds() is None:
                stale.append(f"{found} instead of {name}")

    def write(service: EnhancedDatabaseService, user_id: UUID) -> None:
        number = 0
        while not is_over.is_set():
            number += 1
            try:
                service.update_user_profile(user_id, name=f"name {number}")
            except EchoMarketsError:
                unacknowledged[user_id].add(f"name {number}")
                time.sleep(0.02)
            else:
                acknowledged[user_id].append(f"name {number}")
                unacknowledged[user_id].clear()
                written_at.append(time.monotonic())
                read_own(service, user_id, f"name {number}")

    with open_service(pair_settings) as service, open_service(pair_settings) as other:
        users = [service.create_user(username=f"player_{place}", name="start") for place in range(4)]
        acknowledged.update({user.id: ["start"] for user in users})
        unacknowledged.update({user.id: set() for user in users})
        threads = [threading.Thread(target=write, args=(service, user.id)) for user in users]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(written_at) > 100, "writes are acknowledged")
        pair.kill_primary()
        promoted_at = pair.promote()
        wait_until(lambda: written_at[-1] > promoted_at, "writes are acknowledged again")
        healed_after = next(at for at in written_at if at > promoted_at) - promoted_at
        is_over.set()
        for thread in threads:
            thread.join()
        assert not stale
        rows = read_names(pair.standby)
        for user in users:
            assert rows[user.id] in {acknowledged[user.id][-1], *unacknowledged[user.id]}
            assert other.get_user_by_id(user.id).name == rows[user.id]
        assert healed_after < stretch(HEAL_SECONDS)


@pytest.mark.parametrize("near_cache_size", [0, 1_000])
def test_a_write_lost_in_failover_is_not_served(
    pair_settings: Settings,
    pair: StreamedPair,
    near_cache_size: int,
) -> None:
    """After a failover, no process serves a cached write that never reached the standby."""
    readers = pair_settings.model_copy(update={"near_cache_size": near_cache_size})
    with open_service(pair_settings) as writer, open_service(readers) as reader:
        user = writer.create_user(username="alice", name="kept")
        wait_until_replayed(pair.primary, pair.standby)
        pair.replication_proxy.pause()
        writer.update_user_profile(user.id, name="lost")
        for _ in range(3):
            assert writer.get_user_by_id(user.id).name == "lost"
            assert reader.get_user_by_id(user.id).name == "lost"
        pair.kill_primary()
        pair.replication_proxy.refuse()
        # while no database answers, the reader answers from its cache
        assert reader.get_user_by_id(user.id).name == "lost"
        pair.promote()

        def writes() -> bool:
            try:
                writer.create_user(username="bob", name="Bob")
            except DatabaseUnavailable:
                return False
            return True

        wait_until(writes, "the writer writes to the new primary")
        assert reader.get_user_by_id(user.id).name == "kept"
        assert writer.get_user_by_id(user.id).name == "kept"
        before = reader.cache_stats().caches["user"].hits
        wait_until(
            lambda: (
                reader.get_user_by_id(user.id).name == "kept"
                and reader.cache_stats().caches["user"].hits + near_cache_size > before
            ),
            "the cache is used again",
        )


def test_a_former_primary_is_not_used_again(pair_settings: Settings, pair: StreamedPair) -> None:
    """A former primary that comes back is not used, although it accepts writes and is first in the URL."""
    with open_service(pair_settings) as service:
        user = service.create_user(username="alice", name="Alice")
        wait_until_replayed(pair.primary, pair.standby)
        pair.kill_primary()
        pair.promote()

        def writes(name: str) -> bool:
            try:
                service.update_user_profile(user.id, name=name)
            except DatabaseUnavailable:
                return False
            return True

        wait_until(lambda: writes("second"), "writes go to the new primary")
        former = pair.start_former_primary()
        service._database._pool.expire_all()
        wait_until(lambda: writes("third"), "writes go on")
        assert read_names(pair.standby)[user.id] == "third"
        assert read_names(former)[user.id] == "Alice"
        # the URL may also contain target_session_attrs
        chosen = SecretStr(f"{pair.url.get_secret_value()}?target_session_attrs=read-write")
        with open_service(pair_settings.model_copy(update={"database_url": chosen})) as other:
            assert other.get_user_by_id(user.id).name == "third"
        only = SecretStr(former.url(DATABASE))
        # a process whose URL names only the former primary learns the new timeline from Redis
        with (
            open_service(pair_settings.model_copy(update={"database_url": only})) as outdated,
            pytest.raises(DatabaseUnavailable, match="former primary: it is on timeline 1, and timeline 2"),
        ):
            outdated.get_user_by_id(user.id)
