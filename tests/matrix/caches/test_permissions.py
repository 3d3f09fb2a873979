"""Redis users without a permission that invalidation needs: the cache is bypassed, and no read is stale."""

import logging
import re
import time
from pathlib import Path

import pytest
import redis
from pydantic import SecretStr

from core import Settings, open_service
from core.cache.kinds import FAMILIES, KINDS
from core.cache.lsn_slots import SLOT_FAMILY
from core.cache.timeline_claim import KEY
from core.selftest import run_self_test
from core.stack.embedded_servers import find_valkey_program
from core.stack.redis_access import COMMANDS, build_acl
from exporter.collectors.redis import InfoConnection, collect_redis
from tests.matrix.caches.cache_pair import ROW, CachePair, make_settings
from tests.matrix.caches.conftest import MakeServer, set_user
from tests.matrix.caches.servers import RedisServer, run_server
from tests.patience import wait_until

# For each set of ACL rules: the forbidden command that the reason and the log line must name.
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


def list_messages(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    """Return the log messages that contain `words`."""
    return [record.getMessage() for record in caplog.records if words in record.getMessage()]


def assert_refused(pair: CachePair, caplog: pytest.LogCaptureFixture, named: str) -> None:
    """Assert that Redis is bypassed, no read is stale, and log, statistics and health name the command."""
    assert pair.find_stale() == []
    for cache in (pair.writer, pair.reader):
        assert cache.stats().state == "down"
        # wait for the reason of the capability check, which names every refused command
        wait_until(lambda cache=cache: named in (cache.stats().reason or ""), "the reason")  # type: ignore[misc]  # bound at once
    diagnosis = pair.diagnose()
    assert not diagnosis.is_usable
    assert named in (diagnosis.reason or "")
    wait_until(lambda: len(list_messages(caplog, "Redis bypassed")) == 2, "a line for each process")
    lines = list_messages(caplog, "Redis bypassed")
    assert all(named.lower() in line.lower() for line in lines)


@pytest.mark.parametrize("rules", DENIED)
def test_a_forbidden_command_bypasses_redis(
    server: RedisServer, caplog: pytest.LogCaptureFixture, rules: str
) -> None:
    """While a command is forbidden, Redis is bypassed with the server's message as the reason."""
    url = server.url(set_user(server, *rules.split()))
    with CachePair(make_settings(url)) as pair:
        assert_refused(pair, caplog, DENIED[rules])
        assert pair.diagnose().reason.startswith(("NOPERM", "ERR"))  # type: ignore[union-attr]  # asserted above
        set_user(server)
        pair.assert_recovered()


# An invalidation needs none of these commands. A process notices a forbidden one only when it sends it.
RARELY_SENT = {"-del", "-pttl", "-scan"}


@pytest.mark.parametrize("rules", sorted(DENIED.keys() - RARELY_SENT))
def test_a_command_forbidden_during_use_bypasses_redis(
    server: RedisServer, caplog: pytest.LogCaptureFixture, rules: str
) -> None:
    """If a command is forbidden during use, both processes bypass Redis, and neither serves a stale row."""
    url = server.url(set_user(server))
    with CachePair(make_settings(url), reader=make_settings(url, near=0)) as pair:
        pair.warm()
        set_user(server, *rules.split())
        assert pair.find_stale() == []
        wait_until(pair.both_bypass_redis, "both have noticed")
        assert_refused(pair, caplog, DENIED[rules])
        set_user(server)
        pair.assert_recovered()


@pytest.mark.parametrize("rules", sorted(RARELY_SENT))
def test_a_forbidden_rarely_sent_command_causes_no_stale_read(server: RedisServer, rules: str) -> None:
    """If a command outside invalidation is forbidden, no read is stale, and new connections bypass Redis."""
    url = server.url(set_user(server))
    with CachePair(make_settings(url), reader=make_settings(url, near=0)) as pair:
        pair.warm()
        set_user(server, rules)
        for _ in range(5):
            written = pair.write()
            assert pair.read() == pair.read(cache=pair.writer) == written
        server.run("CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "YES")
        wait_until(pair.both_bypass_redis, "both have noticed")
        set_user(server)
        pair.assert_recovered()


def test_a_reading_process_notices_a_forbidden_command(server: RedisServer) -> None:
    """A process that reads only from its near cache notices a forbidden command without a failed call."""
    url = server.url(set_user(server))
    with CachePair(make_settings(url)) as pair:
        pair.warm()
        set_user(server, "-time")
        written = pair.write()
        # the write has waited for two heartbeats, but the thread that receives them may be late under load
        wait_until(lambda: pair.read() == written, "the reader has the new row", 0.1)
        assert pair.find_stale() == []


def test_a_refused_writer_waits_for_other_processes(server: RedisServer) -> None:
    """A writer whose invalidation is refused waits until no other process trusts its last check any more."""
    reader = make_settings(server.url(set_user(server)), near=0)
    with CachePair(reader.model_copy(update={"redis_timeout": 60}), reader) as pair:
        pair.warm()
        for _ in range(3):
            set_user(server)
            wait_until(lambda: pair.both_use_cache(near=False), "both processes use the cache")
            # this read makes the reader check its connection just before the command is forbidden
            pair.reader.get_or_load(ROW, lambda _: "nobody", f"nobody {time.monotonic()}")
            set_user(server, "-time")
            assert pair.find_stale(rounds=2) == []
        set_user(server)
        pair.assert_recovered()


INVALID = {
    "another password": ("ACL", "SETUSER", "echo", "resetpass", ">new"),
    "switched off": ("ACL", "SETUSER", "echo", "off"),
}


@pytest.mark.parametrize("near", [0, 1_000])
@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_account_bypasses_redis(server: RedisServer, name: str, near: int) -> None:
    """If password or account become invalid, both processes bypass Redis, on open connections too."""
    url = server.url(set_user(server))
    with CachePair(make_settings(url), reader=make_settings(url, near=near)) as pair:
        pair.warm()
        server.run(*INVALID[name])
        close_connections(server, "writer")
        written = pair.write()
        # the write has waited, but the thread that receives heartbeats may be late under load
        wait_until(lambda: pair.read() == written, "the reader has the new row", 0.1)
        assert pair.find_stale() == []
        wait_until(pair.both_bypass_redis, "both have noticed")
        for reason in (pair.reader.stats().reason, pair.diagnose().reason):
            assert "WRONGPASS" in (reason or "")
        set_user(server)
        pair.assert_recovered()


def test_a_new_password_bypasses_redis(server: RedisServer) -> None:
    """While the server requires a new password, both processes bypass Redis, on old connections too."""
    with CachePair(make_settings(server.url()), reader=make_settings(server.url(), near=0)) as pair:
        pair.warm()
        server.run("CONFIG", "SET", "requirepass", "new")
        close_connections(server, "writer")
        assert pair.find_stale() == []
        wait_until(pair.both_bypass_redis, "both have noticed")
        assert "set REDIS_PASSWORD" in (pair.diagnose().reason or "")
        server.run("CONFIG", "SET", "requirepass", "")
        pair.assert_recovered()


def test_a_user_without_a_password_signs_in(server: RedisServer) -> None:
    """A URL with a user name and no password signs in as that user, not as the default user."""
    set_user(server, "nopass")
    with CachePair(make_settings(server.url("echo"))) as pair:
        pair.assert_recovered()
        users = {client["user"] for client in server.admin.client_list() if client["name"] == "writer"}
        assert users == {"echo"}


def close_connections(server: RedisServer, client_name: str) -> None:
    """Close the connections of one process, as a restart or a proxy does."""
    for client in server.admin.client_list():
        if client["name"] == client_name:
            server.run("CLIENT", "KILL", "ID", client["id"])


@pytest.mark.parametrize("name", KEYS)
def test_forbidden_keys_bypass_redis(
    server: RedisServer, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """A user who may not read and write every key family bypasses Redis with the reason NOPERM."""
    url = server.url(set_user(server, keys=KEYS[name]))
    with CachePair(make_settings(url)) as pair:
        assert_refused(pair, caplog, "NOPERM")
        set_user(server)
        pair.assert_recovered()


def test_a_refused_key_does_not_block_other_invalidations(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A writer who may not invalidate bob still invalidates alice for a reader with all permissions."""
    scratch = " ".join(f"~{family}capability-check:*" for family in FAMILIES)
    url = server.url(set_user(server, keys=f"{scratch} ~{KEY} ~{SLOT_FAMILY}* ~user:alice"))
    with CachePair(make_settings(url), reader=make_settings(server.url())) as pair:
        wait_until(lambda: pair.both_use_cache(near=True), "both use the cache")
        pair.write("bob")
        wait_until(lambda: pair.writer.stats().state == "down", "the writer bypasses Redis")
        for _ in range(5):
            written = pair.write("alice")
            wait_until(lambda written=written: pair.read() == written, "alice is invalidated", 1.0)  # type: ignore[misc]  # bound at once
        assert "NOPERM" in (pair.writer.stats().reason or "")
        set_user(server)
        pair.assert_recovered()


@pytest.mark.parametrize("command", ["TIME", "EVALSHA", "UNLINK", "SCAN", "HELLO"])
def test_a_missing_command_bypasses_redis(
    make_server: MakeServer, caplog: pytest.LogCaptureFixture, command: str
) -> None:
    """If the server lacks a command, Redis is bypassed, and the reason names the command."""
    server = make_server("--rename-command", command, "")
    with CachePair(make_settings(server.url())) as pair:
        assert_refused(pair, caplog, command)
        assert "unknown command" in (pair.diagnose().reason or "")


@pytest.mark.parametrize("rules", ["-client|tracking", "-client"])
def test_a_refused_feed_leaves_only_redis(
    server: RedisServer, caplog: pytest.LogCaptureFixture, rules: str
) -> None:
    """If the invalidation feed is refused, Redis is used without a near cache, and health has the reason."""
    url = server.url(set_user(server, rules))
    with CachePair(make_settings(url)) as pair:
        wait_until(lambda: pair.both_use_cache(near=False), "both use the cache")
        assert pair.find_stale() == []
        assert pair.reader.stats().caches["user"].near_hits == 0
        diagnosis = pair.diagnose()
        assert diagnosis.is_usable
        assert re.match(r"near cache off: NOPERM .*CLIENT TRACKING", diagnosis.reason or "")
        wait_until(lambda: "near cache off: NOPERM" in (pair.reader.stats().reason or ""), "its reason")
        wait_until(
            lambda: len(list_messages(caplog, "near cache off: NOPERM")) == 2, "a line for each process"
        )
        set_user(server)
        pair.assert_recovered()


def test_unneeded_permissions_may_be_missing(server: RedisServer) -> None:
    """The cache works without SCRIPT, GET and CLIENT SETNAME, and without @dangerous commands except INFO."""
    url = server.url(set_user(server, "-script", "-get", "-client|setname", "-@dangerous", "+info"))
    with CachePair(make_settings(url)) as pair:
        pair.assert_recovered()
        assert pair.diagnose().reason is None


def read_rule(repository: Path) -> str:
    """Return the ACL SETUSER rule of docs/redis.md."""
    text = (repository / "docs/redis.md").read_text(encoding="utf-8")
    [rule] = [line.strip() for line in text.splitlines() if "ACL SETUSER" in line]
    return rule


def test_the_documented_rule_has_the_tested_commands(repository: Path) -> None:
    """The rule in docs/redis.md grants exactly the commands that the other tests grant."""
    assert read_rule(repository) == f"ACL SETUSER echo on >PASSWORD ~* {COMMANDS}"


def test_the_acl_file_of_the_containers_is_enough(
    make_server: MakeServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The ACL file of the containers allows the cache's commands; without a password only PING is allowed."""
    path = tmp_path / "redis.acl"
    path.write_text(f"user admin on >admin allkeys allcommands\n{build_acl('of echo')}", encoding="utf-8")
    server = make_server("--aclfile", str(path), user="admin", password="admin")
    with CachePair(make_settings(server.url("echo:of%20echo"))) as pair:
        pair.assert_recovered()
        assert pair.reader.stats().reason is None
    with redis.Redis.from_url(server.url()) as anonymous:
        assert anonymous.ping()
        for command in (("GET", "user:1"), ("INFO",), ("ACL", "LIST"), ("CONFIG", "GET", "dir")):
            with pytest.raises(redis.exceptions.NoPermissionError):
                anonymous.execute_command(*command)
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
    """With the ACL rule of docs/redis.md no command of service, health, exporter or self-test is refused."""
    server = make_server()
    rule = read_rule(repository).replace("~*", f"~{prefix}*").replace("PASSWORD", "secret")
    server.run(*rule.split())
    settings_of_echo = settings.model_copy(
        update={
            "redis_url": SecretStr(server.url("echo:secret").replace("/0", "/1")),
            "redis_password": None,
            "redis_key_prefix": prefix,
        }
    )
    with open_service(settings_of_echo, role="exporter") as service:
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
    assert [metric.name for metric in collect_redis(InfoConnection(settings_of_echo))]
    for entry in server.run("ACL", "LOG"):
        raise AssertionError(f"something was refused: {entry}")


def test_health_and_statistics_have_the_same_reason(
    settings: Settings, server_directory: object, caplog: pytest.LogCaptureFixture
) -> None:
    """If Redis refuses TIME, the service is degraded, and health and statistics have the same reason."""
    caplog.set_level(logging.INFO)
    with run_server(str(find_valkey_program()), server_directory()) as server:  # type: ignore[operator]  # makes folders
        settings_of_echo = settings.model_copy(
            update={
                "redis_url": SecretStr(server.url(set_user(server, "-time"))),
                "redis_password": None,
            }
        )
        with open_service(settings_of_echo) as service:
            user = service.create_user(username="alice")
            assert service.get_user_by_id(user.id) == user
            health = service.health()
            stats = service.cache_stats()
    assert (health.status, health.redis) == ("degraded", "unhealthy")
    assert "'time'" in (health.redis_reason or "")
    assert "refused: TIME" in (health.redis_reason or "")
    assert stats.state == "down"
    assert "refused: TIME" in (stats.reason or "")
    assert len(list_messages(caplog, "Redis bypassed")) == 1
