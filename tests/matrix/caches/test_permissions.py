"""A user who may do less than invalidation needs: nothing is stale, and the reason is said."""

import logging
import re
import time
from pathlib import Path

import pytest
import redis
from pydantic import SecretStr

from core import Settings, open_service
from core.cache.kinds import FAMILIES, KINDS
from core.cache.position_slots import SLOT_FAMILY
from core.cache.timeline_claim import KEY
from core.selftest import run_self_test
from core.stack.embedded_servers import find_valkey_program
from core.stack.redis_access import COMMANDS, build_acl
from exporter.collectors.redis import InfoConnection, collect_redis
from tests.matrix.caches.conftest import MakeServer, set_user
from tests.matrix.caches.couple import ROW, Couple, make_settings
from tests.matrix.caches.servers import RedisServer, run_server
from tests.patience import wait_until

# The rules that take something away -> what the one line has to name.
DENIED = {
    "-time": "TIME",
    "-unlink": "UNLINK",
    "-del": "DEL",
    "-unlink -del": "UNLINK",
    "-set": "SET",
    "-mget": "MGET",
    "-pttl": "PTTL",
    "-scan": "SCAN",
    "-eval": "EVAL",
    "-evalsha": "EVALSHA",
    "-@scripting": "EVAL",
    "-@write": "SET",
    "-@all": "EVAL",
}
KEYS = {
    "no version keys": " ".join(f"~{kind.name}:*" for kind in KINDS),
    "version keys alone": "~version:*",
    "keys to read alone": "%R~*",
    "keys to write alone": "%W~*",
    "keys of another prefix": "~other:*",
    "no keys": "",
}


def lines_of(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    """Return the lines of the log that have these words."""
    return [record.getMessage() for record in caplog.records if words in record.getMessage()]


def assert_refused(couple: Couple, caplog: pytest.LogCaptureFixture, named: str) -> None:
    """Assert that nothing is stale, and that log, state and health say the same."""
    assert couple.find_stale() == []
    for cache in (couple.writer, couple.reader):
        assert cache.stats().state == "down"
        # that of the check, which names all commands
        wait_until(lambda cache=cache: named in (cache.stats().reason or ""), "the reason")  # type: ignore[misc]  # bound at once
    diagnosis = couple.diagnose()
    assert not diagnosis.is_usable
    assert named in (diagnosis.reason or "")
    wait_until(lambda: len(lines_of(caplog, "Redis bypassed")) == 2, "a line for each process")
    lines = lines_of(caplog, "Redis bypassed")
    assert all(named.lower() in line.lower() for line in lines)


@pytest.mark.parametrize("rules", DENIED)
def test_a_command_that_is_missing_from_the_start(
    server: RedisServer, caplog: pytest.LogCaptureFixture, rules: str
) -> None:
    """Nothing is read from that server; one line names the command in the server's words."""
    url = server.url(set_user(server, *rules.split()))
    with Couple(make_settings(url)) as couple:
        assert_refused(couple, caplog, DENIED[rules])
        assert couple.diagnose().reason.startswith(("NOPERM", "ERR"))  # type: ignore[union-attr]  # asserted above
        set_user(server)
        couple.finish()


# An invalidation does without these; whoever misses one finds out when he uses it.
SELDOM = {"-del", "-pttl", "-scan"}


@pytest.mark.parametrize("rules", sorted(DENIED.keys() - SELDOM))
def test_a_command_that_is_taken_away_while_it_is_used(
    server: RedisServer, caplog: pytest.LogCaptureFixture, rules: str
) -> None:
    """Neither the process that writes nor one that only reads serves values from before."""
    url = server.url(set_user(server))
    with Couple(make_settings(url), reader=make_settings(url, near=0)) as couple:
        couple.warm()
        set_user(server, *rules.split())
        assert couple.find_stale() == []
        wait_until(couple.are_down, "both have noticed")
        assert_refused(couple, caplog, DENIED[rules])
        set_user(server)
        couple.finish()


@pytest.mark.parametrize("rules", sorted(SELDOM))
def test_a_command_that_is_seldom_used_is_taken_away(server: RedisServer, rules: str) -> None:
    """Nothing is stale, whether the command is missed or not; a new connection misses it."""
    url = server.url(set_user(server))
    with Couple(make_settings(url), reader=make_settings(url, near=0)) as couple:
        couple.warm()
        set_user(server, rules)
        for _ in range(5):
            written = couple.write()
            assert couple.read() == couple.read(cache=couple.writer) == written
        server.run("CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "YES")
        wait_until(couple.are_down, "both have noticed")
        set_user(server)
        couple.finish()


def test_a_process_that_only_reads_notices_by_itself(server: RedisServer) -> None:
    """It notices although all that it reads is in its near cache, so no call to Redis fails first."""
    url = server.url(set_user(server))
    with Couple(make_settings(url)) as couple:
        couple.warm()
        set_user(server, "-time")
        written = couple.write()
        # the write has waited for two heartbeats; the thread that hears them may be late on a busy machine
        wait_until(lambda: couple.read() == written, "it has noticed", 0.1)
        assert couple.find_stale() == []


def test_a_refused_writer_waits_for_the_checks_of_others(server: RedisServer) -> None:
    """However short its own timeout is, it waits as long as another process trusts its last check."""
    reader = make_settings(server.url(set_user(server)), near=0)
    with Couple(reader.model_copy(update={"redis_timeout": 60}), reader) as couple:
        couple.warm()
        for _ in range(3):
            set_user(server)
            wait_until(lambda: couple.is_used(near=False), "both processes use the cache")
            # a check of the reader's connection, made right before the permission is gone
            couple.reader.get_or_load(ROW, lambda _: "nobody", f"nobody {time.monotonic()}")
            set_user(server, "-time")
            assert couple.find_stale(rounds=2) == []
        set_user(server)
        couple.finish()


INVALID = {
    "another password": ("ACL", "SETUSER", "echo", "resetpass", ">new"),
    "switched off": ("ACL", "SETUSER", "echo", "off"),
}


@pytest.mark.parametrize("near", [0, 1_000])
@pytest.mark.parametrize("name", INVALID)
def test_an_account_that_is_not_valid_any_more(server: RedisServer, name: str, near: int) -> None:
    """Open connections stay signed in, but new ones cannot invalidate, so no process reads on."""
    url = server.url(set_user(server))
    with Couple(make_settings(url), reader=make_settings(url, near=near)) as couple:
        couple.warm()
        server.run(*INVALID[name])
        cut_connections(server, "writer")
        written = couple.write()
        # the write has waited; the thread that hears heartbeats may be late on a busy machine
        wait_until(lambda: couple.read() == written, "it has noticed", 0.1)
        assert couple.find_stale() == []
        wait_until(couple.are_down, "both have noticed")
        for reason in (couple.reader.stats().reason, couple.diagnose().reason):
            assert "WRONGPASS" in (reason or "")
        set_user(server)
        couple.finish()


def test_a_password_that_a_server_wants_while_it_is_used(server: RedisServer) -> None:
    """Clients without a password bypass the cache, on old connections too, until none is required."""
    with Couple(make_settings(server.url()), reader=make_settings(server.url(), near=0)) as couple:
        couple.warm()
        server.run("CONFIG", "SET", "requirepass", "new")
        cut_connections(server, "writer")
        assert couple.find_stale() == []
        wait_until(couple.are_down, "both have noticed")
        assert "set REDIS_PASSWORD" in (couple.diagnose().reason or "")
        server.run("CONFIG", "SET", "requirepass", "")
        couple.finish()


def test_a_user_without_a_password(server: RedisServer) -> None:
    """A user that is named signs in under that name, and not as the default user."""
    set_user(server, "nopass")
    with Couple(make_settings(server.url("echo"))) as couple:
        couple.finish()
        users = {client["user"] for client in server.admin.client_list() if client["name"] == "writer"}
        assert users == {"echo"}


def cut_connections(server: RedisServer, client_name: str) -> None:
    """Cut the connections of one process, as a restart or a proxy does."""
    for client in server.admin.client_list():
        if client["name"] == client_name:
            server.run("CLIENT", "KILL", "ID", client["id"])


@pytest.mark.parametrize("name", KEYS)
def test_keys_that_the_user_may_not_use(
    server: RedisServer, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """A user without the pattern of one family, or with too weak a one, may not use the cache."""
    url = server.url(set_user(server, keys=KEYS[name]))
    with Couple(make_settings(url)) as couple:
        assert_refused(couple, caplog, "NOPERM")
        set_user(server)
        couple.finish()


def test_a_key_that_is_refused_keeps_no_other_from_being_dropped(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The writer may not invalidate bob, but still invalidates alice for a reader with all permissions."""
    scratch = " ".join(f"~{family}capability-check:*" for family in FAMILIES)
    url = server.url(set_user(server, keys=f"{scratch} ~{KEY} ~{SLOT_FAMILY}* ~user:alice"))
    with Couple(make_settings(url), reader=make_settings(server.url())) as couple:
        wait_until(lambda: couple.is_used(near=True), "both use the cache")
        couple.write("bob")
        wait_until(lambda: couple.writer.stats().state == "down", "the writer uses Redis no more")
        for _ in range(5):
            written = couple.write("alice")
            wait_until(lambda written=written: couple.read() == written, "it is dropped", 1.0)  # type: ignore[misc]  # bound at once
        assert "NOPERM" in (couple.writer.stats().reason or "")
        set_user(server)
        couple.finish()


@pytest.mark.parametrize("command", ["TIME", "EVALSHA", "UNLINK", "SCAN", "HELLO"])
def test_a_command_that_the_server_does_not_have(
    make_server: MakeServer, caplog: pytest.LogCaptureFixture, command: str
) -> None:
    """If a command was renamed or never existed, the cache is not used, and the reason names it."""
    server = make_server("--rename-command", command, "")
    with Couple(make_settings(server.url())) as couple:
        assert_refused(couple, caplog, command)
        assert "unknown command" in (couple.diagnose().reason or "")


@pytest.mark.parametrize("rules", ["-client|tracking", "-client"])
def test_a_feed_that_is_refused(server: RedisServer, caplog: pytest.LogCaptureFixture, rules: str) -> None:
    """Without a feed Redis is used, but no near cache; health is degraded and a line says why."""
    url = server.url(set_user(server, rules))
    with Couple(make_settings(url)) as couple:
        wait_until(lambda: couple.is_used(near=False), "both use the cache")
        assert couple.find_stale() == []
        assert couple.reader.stats().caches["user"].near_hits == 0
        diagnosis = couple.diagnose()
        assert diagnosis.is_usable
        assert re.match(r"near cache off: NOPERM .*CLIENT TRACKING", diagnosis.reason or "")
        wait_until(lambda: "near cache off: NOPERM" in (couple.reader.stats().reason or ""), "its reason")
        wait_until(lambda: len(lines_of(caplog, "near cache off: NOPERM")) == 2, "a line for each process")
        set_user(server)
        couple.finish()


def test_permissions_that_nobody_needs(server: RedisServer) -> None:
    """SCRIPT, GET, CLIENT and every dangerous command may be forbidden."""
    url = server.url(set_user(server, "-script", "-get", "-client|setname", "-@dangerous", "+info"))
    with Couple(make_settings(url)) as couple:
        couple.finish()
        assert couple.diagnose().reason is None


def read_rule(repository: Path) -> str:
    """Return the rule of docs/redis.md."""
    text = (repository / "docs/redis.md").read_text(encoding="utf-8")
    [rule] = [line.strip() for line in text.splitlines() if "ACL SETUSER" in line]
    return rule


def test_the_documented_rule_is_the_tested_one(repository: Path) -> None:
    """docs/redis.md grants exactly the commands that the other tests grant."""
    assert read_rule(repository) == f"ACL SETUSER echo on >PASSWORD ~* {COMMANDS}"


def test_the_acl_file_of_the_containers_is_enough(
    make_server: MakeServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The file allows all that the cache does; a client without a password may PING and nothing else."""
    path = tmp_path / "redis.acl"
    path.write_text(f"user admin on >admin allkeys allcommands\n{build_acl('of echo')}", encoding="utf-8")
    server = make_server("--aclfile", str(path), user="admin", password="admin")
    with Couple(make_settings(server.url("echo:of%20echo"))) as couple:
        couple.finish()
        assert couple.reader.stats().reason is None
    with redis.Redis.from_url(server.url()) as stranger:
        assert stranger.ping()
        for command in (("GET", "user:1"), ("INFO",), ("ACL", "LIST"), ("CONFIG", "GET", "dir")):
            with pytest.raises(redis.exceptions.NoPermissionError):
                stranger.execute_command(*command)
    with redis.Redis.from_url(server.url("echo:of%20echo")) as program:
        for command in (
            ("FLUSHALL",),
            ("CONFIG", "GET", "dir"),
            ("ACL", "LIST"),
            ("SHUTDOWN",),
            ("KEYS", "*"),
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                program.execute_command(*command)


@pytest.mark.parametrize("prefix", ["", "echo:"])
def test_the_documented_rule_is_enough(
    settings: Settings, repository: Path, make_server: MakeServer, prefix: str
) -> None:
    """Service, feed, health, exporter and self-test work with it; a prefix allows no other keys."""
    server = make_server()
    rule = read_rule(repository).replace("~*", f"~{prefix}*").replace("PASSWORD", "secret")
    server.run(*rule.split())
    mine = settings.model_copy(
        update={
            "redis_url": SecretStr(server.url("echo:secret").replace("/0", "/1")),
            "redis_password": None,
            "redis_key_prefix": prefix,
        }
    )
    with open_service(mine, role="exporter") as service:
        lines: list[str] = []
        assert run_self_test(service, report=lines.append), [line for line in lines if "FAIL" in line]
        user = service.create_user(username="alice")

        def is_near() -> bool:
            before = service.cache_stats().caches["user"].near_hits
            service.get_user_by_id(user.id)
            return service.cache_stats().caches["user"].near_hits > before

        wait_until(is_near, "the near cache answers")
        service.delete_user(user.id)
        health = service.health()
        assert (health.status, health.redis, health.redis_reason) == ("healthy", "healthy", None)
        assert service.cache_stats().reason is None
    assert [metric.name for metric in collect_redis(InfoConnection(mine))]
    for entry in server.run("ACL", "LOG"):
        raise AssertionError(f"something was refused: {entry}")


def test_health_says_what_the_cache_says(
    settings: Settings, server_directory: object, caplog: pytest.LogCaptureFixture
) -> None:
    """For a user who may not ask for the time, the whole service is degraded, with the reason."""
    caplog.set_level(logging.INFO)
    with run_server(str(find_valkey_program()), server_directory()) as server:  # type: ignore[operator]  # makes folders
        mine = settings.model_copy(
            update={
                "redis_url": SecretStr(server.url(set_user(server, "-time"))),
                "redis_password": None,
            }
        )
        with open_service(mine) as service:
            user = service.create_user(username="alice")
            assert service.get_user_by_id(user.id) == user
            health = service.health()
            stats = service.cache_stats()
    assert (health.status, health.redis) == ("degraded", "unhealthy")
    assert "'time'" in (health.redis_reason or "")
    assert "refused: TIME" in (health.redis_reason or "")
    assert stats.state == "down"
    assert "refused: TIME" in (stats.reason or "")
    assert len(lines_of(caplog, "Redis bypassed")) == 1
