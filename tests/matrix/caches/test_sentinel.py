"""Sentinels: the primary that they name is used, and left as soon as another one is elected."""

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
from tests.matrix.caches.couple import Couple, find_servers, go_on, make_settings
from tests.matrix.caches.sentinels import SERVICE, Sentinels, run_sentinels
from tests.matrix.caches.servers import RedisServer
from tests.patience import wait_until


@pytest.fixture
def sentinels(program: str, server_directory: Callable[[], Path]) -> Iterator[Sentinels]:
    """A primary, a replica and three sentinels."""
    with run_sentinels(program, server_directory) as running:
        yield running


@pytest.fixture
def couple(sentinels: Sentinels) -> Iterator[Couple]:
    """A writer and a reader; the reader has no near cache, which may lag behind a primary that hangs."""
    with Couple(make_settings(sentinels.url()), make_settings(sentinels.url(), near=0)) as couple:
        couple.warm()
        yield couple


def test_a_failover_that_a_sentinel_orders(sentinels: Sentinels, couple: Couple) -> None:
    """The former primary still answers, but every process leaves it in time, and nothing is stale."""
    _, replica = sentinels.find_primary()
    sentinels.fail_over()
    assert_followed(couple, sentinels, replica)


def test_a_primary_that_is_killed(sentinels: Sentinels, couple: Couple) -> None:
    """Nothing is stale before, during or after the election, and all is healed within 5 s of it."""
    primary, replica = sentinels.find_primary()
    primary.kill()
    assert_followed(couple, sentinels, replica)


def test_a_primary_that_hangs_and_comes_back(sentinels: Sentinels, couple: Couple) -> None:
    """No process reads from the former primary, which still takes itself for the primary."""
    primary, replica = sentinels.find_primary()
    stale = list[str]()
    with primary.hung():
        wait_until(lambda: go_on(couple, stale) and sentinels.find_primary()[0] is replica, "elected", 20)
    assert primary.find_status("replication", "role") == "master"
    assert stale == []
    assert_followed(couple, sentinels, replica)


def test_a_primary_whose_host_is_cut_off(
    program: str, server_directory: Callable[[], Path], other_host: Host
) -> None:
    """Packets vanish until the election; then the former primary returns with its old values."""
    with run_sentinels(program, server_directory, host=other_host) as sentinels:
        writer, reader = make_settings(sentinels.url()), make_settings(sentinels.url(), near=0)
        with Couple(writer, reader) as couple:
            couple.warm()
            _, replica = sentinels.find_primary()
            stale = list[str]()
            other_host.cut_off()
            wait_until(lambda: go_on(couple, stale) and sentinels.find_primary()[0] is replica, "elected", 20)
            other_host.reconnect()
            assert_followed(couple, sentinels, replica)
            assert stale == []


def assert_followed(couple: Couple, sentinels: Sentinels, replica: RedisServer) -> None:
    """Write and read until the replica is elected and used; assert that nothing is stale meanwhile."""
    stale = list[str]()
    wait_until(lambda: go_on(couple, stale) and sentinels.find_primary()[0] is replica, "elected", 20)
    wait_until(
        lambda: go_on(couple, stale) and find_servers(couple) == {replica.port} and couple.is_used(),
        "the new primary is used",
    )
    assert stale == []
    couple.finish()


def test_sentinels_that_are_down(sentinels: Sentinels, couple: Couple) -> None:
    """The cache is used while its primary answers; a new process says that no sentinel answers."""
    for sentinel in sentinels.sentinels:
        sentinel.kill()
    stale = list[str]()
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        go_on(couple, stale)
    assert stale == []
    for cache in (couple.writer, couple.reader):
        cache._shared.guard.client.drop_connections()  # type: ignore[union-attr]  # it has one
    wait_until(couple.is_used, "new connections are possible")
    assert "no sentinel answers" in (couple.diagnose().reason or "")


def test_a_service_that_no_sentinel_knows(sentinels: Sentinels) -> None:
    """The reason for an unknown service says which part of the address is wrong."""
    with Couple(make_settings(sentinels.url(service="nobody"))) as couple:
        assert couple.find_stale() == []
        assert couple.are_down()
        assert "the sentinels know no service 'nobody'" in (couple.diagnose().reason or "")


def test_passwords_of_the_servers_and_of_the_sentinels(
    program: str, server_directory: Callable[[], Path]
) -> None:
    """Each password has a setting of its own, which the reason for a missing one names."""
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
        with Couple(signed_in) as couple:
            couple.finish()
        for field in ("redis_password", "redis_sentinel_username"):
            wrong = signed_in.model_copy(update={field: SecretStr("x") if "pass" in field else "nobody"})
            reason = RedisProbe(wrong, client_name="health").examine().reason or ""
            assert "WRONGPASS" in reason


# what whoever took over a program could use to lead all programs to another server
NOT_FOR_PROGRAMS = (
    f"SENTINEL FAILOVER {SERVICE}", f"SENTINEL SET {SERVICE} quorum 1", f"SENTINEL REMOVE {SERVICE}",
    "SENTINEL MONITOR mine 127.0.0.1 6379 1", "SENTINEL CONFIG GET *", "SENTINEL RESET *",
    "ACL LIST", "PUBLISH __sentinel__:hello x", "SHUTDOWN NOSAVE",
)  # fmt: skip  # one command a line would be longer than the tests


@pytest.fixture
def guarded(program: str, server_directory: Callable[[], Path]) -> Iterator[Sentinels]:
    """Sentinels with the users that those of the containers have."""
    with run_sentinels(
        program,
        server_directory,
        password="of echo",
        sentinel_password="of-sentinels",
        program_password="of programs",
    ) as running:
        yield running


def test_a_program_can_only_ask_the_sentinels_of_the_containers(guarded: Sentinels) -> None:
    """With the password that it has; without one it cannot even ask."""
    port = guarded.sentinels[1].port
    ask = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
    with redis.Redis(port=port, username=USER, password="of programs", protocol=2) as program:
        assert program.execute_command(*ask)
        for command in NOT_FOR_PROGRAMS:
            with pytest.raises(redis.exceptions.NoPermissionError):
                program.execute_command(*command.split())
    with redis.Redis(port=port, protocol=2) as anonymous:
        assert anonymous.ping()
        with pytest.raises(redis.exceptions.NoPermissionError):
            anonymous.execute_command(*ask)


def test_the_sentinels_of_the_containers_fail_over(guarded: Sentinels) -> None:
    """They sign in at each other, and a program that can only ask follows."""
    signed_in = make_settings(guarded.url(), password="of echo").model_copy(
        update={"redis_sentinel_username": USER, "redis_sentinel_password": SecretStr("of programs")}
    )
    with Couple(signed_in) as couple:
        couple.warm()
        primary, replica = guarded.find_primary()
        primary.kill()
        assert_followed(couple, guarded, replica)


def test_a_process_that_stays_with_the_former_primary_is_stale(
    sentinels: Sentinels, couple: Couple, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This suite notices a reader without epoch and sentinels, which believes the former primary."""
    shared: Any = couple.reader._shared
    capability, list_recheck = shared.guard.capability, shared.guard.capability.list_recheck
    monkeypatch.setattr(shared.guard.topology, "confirm", lambda _: None)
    monkeypatch.setattr(capability, "list_recheck", lambda protocol, _=b"": list_recheck(protocol))
    _, replica = sentinels.find_primary()
    sentinels.fail_over()
    wait_until(lambda: go_on(couple, []) and replica.port in find_servers(couple), "the writer has moved", 20)
    stale = list[str]()
    wait_until(lambda: go_on(couple, stale) and bool(stale), "a stale read")


def test_a_record_that_is_deleted_begins_an_epoch(sentinels: Sentinels, couple: Couple) -> None:
    """FLUSHALL deletes the record too; nothing is stale, and the cache is used again in time."""
    primary, _ = sentinels.find_primary()
    primary.run("FLUSHALL")
    stale = list[str]()
    wait_until(lambda: go_on(couple, stale) and couple.is_used(), "used again")
    assert stale == []
    couple.finish()
