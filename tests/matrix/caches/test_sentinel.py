"""Redis Sentinel: processes use the primary that the sentinels name, and read nothing stale in a failover."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from pydantic import SecretStr

from core.cache.capability import RedisProbe
from core.stack.redis_access import USER
from tests.hosts import Host
from tests.matrix.caches.cache_pair import CachePair, collect_stale, find_servers, make_settings
from tests.matrix.caches.sentinels import SERVICE, Sentinels, run_sentinels
from tests.matrix.caches.servers import RedisServer
from tests.patience import wait_until


@pytest.fixture
def sentinels(program: str, server_directory: Callable[[], Path]) -> Iterator[Sentinels]:
    """Yield a primary, a replica and three sentinels."""
    with run_sentinels(program, server_directory) as running:
        yield running


@pytest.fixture
def pair(sentinels: Sentinels) -> Iterator[CachePair]:
    """Yield a writer and a reader. The reader has no near cache, which would lag while the primary hangs."""
    with CachePair(make_settings(sentinels.url()), make_settings(sentinels.url(), near=0)) as pair:
        pair.warm()
        yield pair


def test_a_manual_failover_is_followed(sentinels: Sentinels, pair: CachePair) -> None:
    """After a manual failover both processes use the new primary, and no read is stale."""
    _, replica = sentinels.find_primary()
    sentinels.fail_over()
    assert_followed(pair, sentinels, replica)


def test_the_replica_of_a_killed_primary_is_used(sentinels: Sentinels, pair: CachePair) -> None:
    """After the primary is killed, both processes use the elected replica, and no read is stale."""
    primary, replica = sentinels.find_primary()
    primary.kill()
    assert_followed(pair, sentinels, replica)


def test_a_primary_that_hung_causes_no_stale_read(sentinels: Sentinels, pair: CachePair) -> None:
    """A primary that hangs during the election and then continues as a primary serves no stale read."""
    primary, replica = sentinels.find_primary()
    stale = list[str]()
    with primary.hung():
        wait_until(
            lambda: collect_stale(pair, stale) and sentinels.find_primary()[0] is replica, "elected", 20
        )
    assert primary.find_status("replication", "role") == "master"
    assert stale == []
    assert_followed(pair, sentinels, replica)


def test_a_primary_that_was_cut_off_causes_no_stale_read(
    program: str, server_directory: Callable[[], Path], other_host: Host
) -> None:
    """A primary whose host is cut off during the election and then reconnected serves no stale read."""
    with run_sentinels(program, server_directory, host=other_host) as sentinels:
        writer, reader = make_settings(sentinels.url()), make_settings(sentinels.url(), near=0)
        with CachePair(writer, reader) as pair:
            pair.warm()
            _, replica = sentinels.find_primary()
            stale = list[str]()
            other_host.cut_off()
            wait_until(
                lambda: collect_stale(pair, stale) and sentinels.find_primary()[0] is replica, "elected", 20
            )
            other_host.reconnect()
            assert_followed(pair, sentinels, replica)
            assert stale == []


def assert_followed(pair: CachePair, sentinels: Sentinels, replica: RedisServer) -> None:
    """Write and read until the replica is elected and both processes use it; assert that no read is stale."""
    stale = list[str]()
    wait_until(lambda: collect_stale(pair, stale) and sentinels.find_primary()[0] is replica, "elected", 20)
    wait_until(
        lambda: collect_stale(pair, stale) and find_servers(pair) == {replica.port} and pair.both_use_cache(),
        "the new primary is used",
    )
    assert stale == []
    pair.assert_recovered()


def test_a_primary_is_used_without_sentinels(sentinels: Sentinels, pair: CachePair) -> None:
    """If all sentinels are down, the cache uses its last primary; health says that no sentinel answers."""
    for sentinel in sentinels.sentinels:
        sentinel.kill()
    stale = list[str]()
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        collect_stale(pair, stale)
    assert stale == []
    for cache in (pair.writer, pair.reader):
        cache._shared.guard.client.drop_connections()  # type: ignore[union-attr]  # it has one
    wait_until(pair.both_use_cache, "new connections are possible")
    assert "no sentinel answers" in (pair.diagnose().reason or "")


def test_an_unknown_service_is_reported(sentinels: Sentinels) -> None:
    """If the sentinels do not know the service of REDIS_URL, the reason names the service."""
    with CachePair(make_settings(sentinels.url(service="nobody"))) as pair:
        assert pair.find_stale() == []
        assert pair.both_bypass_redis()
        assert "the sentinels know no service 'nobody'" in (pair.diagnose().reason or "")


def test_wrong_passwords_are_reported(program: str, server_directory: Callable[[], Path]) -> None:
    """Wrong credentials are refused; if a sentinel wants a password, the reason names the setting."""
    with run_sentinels(
        program, server_directory, password="of echo", sentinel_password="of sentinels"
    ) as sentinels:
        settings = make_settings(sentinels.url(), password="of echo")
        for given in (None, SecretStr("wrong")):
            refused = settings.model_copy(update={"redis_sentinel_password": given})
            reason = RedisProbe(refused, client_name="health").examine().reason or ""
            assert "a sentinel refuses" in reason
            assert "REDIS_SENTINEL_PASSWORD" in reason
        signed_in = settings.model_copy(update={"redis_sentinel_password": SecretStr("of sentinels")})
        with CachePair(signed_in) as pair:
            pair.assert_recovered()
        for field in ("redis_password", "redis_sentinel_username"):
            wrong = signed_in.model_copy(update={field: SecretStr("x") if "pass" in field else "nobody"})
            reason = RedisProbe(wrong, client_name="health").examine().reason or ""
            assert "WRONGPASS" in reason


# Commands with which an attacker could redirect every process to another server.
FORBIDDEN = (
    f"SENTINEL FAILOVER {SERVICE}", f"SENTINEL SET {SERVICE} quorum 1", f"SENTINEL REMOVE {SERVICE}",
    "SENTINEL MONITOR mine 127.0.0.1 6379 1", "SENTINEL CONFIG GET *", "SENTINEL RESET *",
    "ACL LIST", "PUBLISH __sentinel__:hello x", "SHUTDOWN NOSAVE",
)  # fmt: skip  # keep several commands on a line


@pytest.fixture
def guarded(program: str, server_directory: Callable[[], Path]) -> Iterator[Sentinels]:
    """Yield sentinels with the same users as the sentinels of the containers."""
    with run_sentinels(
        program,
        server_directory,
        password="of echo",
        sentinel_password="of-sentinels",
        program_password="of programs",
    ) as running:
        yield running


def test_a_program_may_only_ask_for_the_primary(guarded: Sentinels) -> None:
    """A client with a program's password may only ask for the primary; a client without one may only PING."""
    port = guarded.sentinels[1].port
    query = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
    with redis.Redis(port=port, username=USER, password="of programs", protocol=2) as program:
        assert program.execute_command(*query)
        for command in FORBIDDEN:
            with pytest.raises(redis.exceptions.NoPermissionError):
                program.execute_command(*command.split())
    with redis.Redis(port=port, protocol=2) as anonymous:
        assert anonymous.ping()
        with pytest.raises(redis.exceptions.NoPermissionError):
            anonymous.execute_command(*query)


def test_sentinels_with_users_of_the_containers_fail_over(guarded: Sentinels) -> None:
    """Sentinels with the users of the containers elect a new primary, and a program follows the failover."""
    signed_in = make_settings(guarded.url(), password="of echo").model_copy(
        update={"redis_sentinel_username": USER, "redis_sentinel_password": SecretStr("of programs")}
    )
    with CachePair(signed_in) as pair:
        pair.warm()
        primary, replica = guarded.find_primary()
        primary.kill()
        assert_followed(pair, guarded, replica)


def test_a_reader_without_epochs_is_stale(
    sentinels: Sentinels, pair: CachePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that ignores epochs and sentinels stays with the former primary and reads stale values."""
    shared: Any = pair.reader._shared
    capability, list_recheck = shared.guard.capability, shared.guard.capability.list_recheck
    monkeypatch.setattr(shared.guard.topology, "confirm", lambda _: None)
    monkeypatch.setattr(capability, "list_recheck", lambda protocol, _=b"": list_recheck(protocol))
    _, replica = sentinels.find_primary()
    sentinels.fail_over()
    wait_until(
        lambda: collect_stale(pair, []) and replica.port in find_servers(pair), "the writer has moved", 20
    )
    stale = list[str]()
    wait_until(lambda: collect_stale(pair, stale) and bool(stale), "a stale read")


def test_a_deleted_epoch_record_begins_an_epoch(sentinels: Sentinels, pair: CachePair) -> None:
    """After FLUSHALL has deleted the epoch's record, no read is stale and the cache is used again."""
    primary, _ = sentinels.find_primary()
    primary.run("FLUSHALL")
    stale = list[str]()
    wait_until(lambda: collect_stale(pair, stale) and pair.both_use_cache(), "used again")
    assert stale == []
    pair.assert_recovered()
