"""E-mail addresses of users: in clear for callers, and nowhere else."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest
import redis
from frozendict import frozendict
from msgspec.structs import replace
from pydantic import SecretStr

from core import EnhancedDatabaseService, Settings, open_service
from core.encryption import new_key_line
from core.errors import EncryptionKeyMissing, InvalidInput
from core.queries import loads
from core.records import User
from core.service.writes import new_id
from core.stack.embedded_servers import find_postgres_programs
from tests.addresses import FIRST, SECOND, list_found, write_every_way
from tests.conftest import KEYS, Execute

STORED = "SELECT username, email, email_index FROM users ORDER BY username"


def without_key(settings: Settings) -> Settings:
    """Return the settings of a process that has no key."""
    return settings.model_copy(update={"encryption_keys": None})


def with_keys(settings: Settings, *lines: str) -> Settings:
    """Return the settings of a process with these keys."""
    return settings.model_copy(update={"encryption_keys": SecretStr("\n".join(lines))})


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    """The log of this process at the level DEBUG, in a file."""
    path = tmp_path / "log"
    handler = logging.FileHandler(path)
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield path
    root.removeHandler(handler)
    root.setLevel(before)
    handler.close()


def test_the_address_is_in_clear_for_callers_only(
    settings: Settings, execute: Execute, redis_client: redis.Redis, log: Path
) -> None:
    """Table, Redis, the log at DEBUG, statistics and metrics do not contain it."""
    noisy = settings.model_copy(update={"database_log_queries": "all", "log_level": "DEBUG"})
    with open_service(noisy) as service:
        alice, _, _ = write_every_way(service)
        execute("ANALYZE users")
        metrics = str([list(family.samples) for family in service.metrics.collect()])
        near = repr(vars(service._cache._near))
    keys = list(redis_client.scan_iter())
    values = {key: redis_client.get(key) for key in keys if redis_client.type(key) == b"string"}
    assert f"user:{alice.id}".encode() in values
    written = log.read_text(encoding="utf-8")
    assert "create_user" in written
    places = {
        "table": str(execute("SELECT * FROM users")),
        "statistics of the planner": str(execute("SELECT * FROM pg_stats WHERE tablename = 'users'")),
        "running statements": str(execute("SELECT query FROM pg_stat_activity")),
        "Redis": str(values),
        "near cache": near,
        "log": written,
        "metrics": metrics,
    }
    assert {place: list_found(text) for place, text in places.items()} == {place: [] for place in places}


def test_a_dump_has_no_address(service: EnhancedDatabaseService, database_url: str) -> None:
    """A reader of a backup learns no address."""
    write_every_way(service)
    program = find_postgres_programs() / "bin" / "pg_dump"
    dumped = subprocess.run([program, database_url], capture_output=True, text=True, check=True)
    assert "v1.tests." in dumped.stdout
    assert list_found(dumped.stdout) == []


def test_messages_show_no_address(service: EnhancedDatabaseService, caplog: pytest.LogCaptureFixture) -> None:
    """This holds for a wrong address, a wrong place of a record, and a taken name."""
    alice = service.create_user(username="alice", email=FIRST)
    calls: list[Callable[[], object]] = [
        lambda: service.create_user(username="bob", email=f"{FIRST} "),
        lambda: service.create_user(username="alice", email=SECOND),
        lambda: service.update_user_profile(alice.id, email=f"{FIRST}@"),
        lambda: service.load_users([replace(alice, email=f"{FIRST}\n")]),
        lambda: service.load_market_ticks([alice]),  # type: ignore[list-item]  # wrong on purpose
        lambda: service.list_market_ticks("A", after=alice),  # type: ignore[arg-type]  # as above
        lambda: service.list_users_by_email(f"{FIRST}\x00"),
    ]
    for call in calls:
        with pytest.raises(InvalidInput) as caught:
            call()
        assert list_found(str(caught.value)) == []
    assert list_found(caplog.text) == []


def test_a_load_can_be_repeated(service: EnhancedDatabaseService, execute: Execute) -> None:
    """Equal addresses are not encrypted again; a changed or removed one is written."""
    users = write_every_way(service)
    before = execute("SELECT xmin, * FROM users ORDER BY id")
    service.load_users(users[1:])
    assert execute("SELECT xmin, * FROM users ORDER BY id") == before
    service.load_users([replace(users[1], email=FIRST), replace(users[2], email=None)])
    assert [user.email for user in service.list_users()] == [FIRST, FIRST, None]
    assert [user.username for user in service.list_users_by_email(FIRST)] == ["alice", "bob"]


def test_a_load_binds_addresses_to_the_ids_that_rows_have(
    service: EnhancedDatabaseService, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This includes users that another writer creates between the look-up and the load."""
    find = loads.find_emails
    with open_service(settings) as other:

        def find_and_let_create(database: object, names: list[str]) -> object:
            found = find(database, names)  # type: ignore[arg-type]  # passed through
            monkeypatch.setattr(loads, "find_emails", find)
            other.create_user(username="alice", email=SECOND)
            return found

        monkeypatch.setattr(loads, "find_emails", find_and_let_create)
        now = service._clock()
        wanted = User(new_id(), "alice", None, FIRST, None, frozendict(), now, now)
        ids = service.load_users([wanted, replace(wanted, id=new_id(), username="bob", email=SECOND)])
    assert ids["alice"] != wanted.id
    assert {user.username: user.email for user in service.list_users()} == {"alice": FIRST, "bob": SECOND}
    assert service.get_user_by_id(ids["alice"]).email == FIRST


def test_without_a_key_everything_but_addresses_works(
    settings: Settings, execute: Execute, caplog: pytest.LogCaptureFixture
) -> None:
    """An address is refused with the setting's name, and the call stores nothing."""
    with open_service(settings) as service:
        alice = service.create_user(username="alice", email=FIRST)
    before = execute(STORED)
    with open_service(without_key(settings)) as service:
        bob = service.create_user(username="bob")
        refused: list[Callable[[], object]] = [
            lambda: service.create_user(username="charlie", email=SECOND),
            lambda: service.update_user_profile(bob.id, name="Bob", email=SECOND),
            lambda: service.load_users([replace(bob, name="Bob"), replace(bob, username="d", email=SECOND)]),
            lambda: service.list_users_by_email(FIRST),
            service.reencrypt_users,
        ]
        for call in refused:
            with pytest.raises(EncryptionKeyMissing, match="ENCRYPTION_KEYS is not set; `make up`"):
                call()
        assert execute(STORED) == [*before, ("bob", None, None)]
        assert service.get_user_by_id(bob.id) == bob
        assert [user.email for user in service.list_users()] == [
            "(unreadable: ENCRYPTION_KEYS has no key 'tests')",
            None,
        ]
        renamed = service.update_user_profile(alice.id, name="Alice")
        assert renamed.email == "(unreadable: ENCRYPTION_KEYS has no key 'tests')"
        with pytest.raises(InvalidInput):
            # an unreadable address does not become the address
            service.load_users([renamed])
        assert service.update_user_profile(alice.id, email=None).email is None
    assert len([record for record in caplog.records if "cannot be read" in record.getMessage()]) == 1


def test_a_damaged_row_breaks_no_list(service: EnhancedDatabaseService, execute: Execute) -> None:
    """An address that was moved to another row is not shown there, and the other rows are."""
    alice, bob, charlie = write_every_way(service)
    execute(
        "UPDATE users SET (email, email_index) = (SELECT email, email_index FROM users WHERE id = %s)"
        " WHERE id = %s",
        (str(alice.id), str(bob.id)),
    )
    service.clear_user_cache(bob.id)
    found = service.list_users()
    assert [found[0].email, found[2].email] == [FIRST, FIRST]
    assert str(found[1].email).startswith("(unreadable: it was changed, moved from another row")
    assert service.get_user_by_id(bob.id) == found[1]
    # nor is it found by an index that was copied
    assert [user.id for user in service.list_users_by_email(FIRST)] == [alice.id, charlie.id]
    # it does not prevent a load
    service.load_users([bob])
    assert service.get_user_by_id(bob.id).email == SECOND


@pytest.mark.parametrize(
    "values",
    [
        f"'{FIRST}', 'k.abc'",
        f"'{FIRST}', NULL",
        "'v1.clear@example.org', 'k.abc'",
        "'v1.k.abc', NULL",
        "NULL, 'k.abc'",
        "'v1.k.abc', 'l.abc'",
        "'', ''",
    ],
)
def test_the_database_refuses_an_address_in_clear(
    service: EnhancedDatabaseService, execute: Execute, values: str
) -> None:
    """It refuses it from every program, such as an older release."""
    with pytest.raises(psycopg2.errors.CheckViolation, match="users_email_encrypted"):
        execute(f"INSERT INTO users (username, email, email_index) VALUES ('eve', {values})")
    assert service.list_users() == ()


def test_addresses_are_found_under_every_key(settings: Settings) -> None:
    """While keys are rotated, rows have different keys."""
    new = new_key_line("new")
    with open_service(settings) as service:
        alice = service.create_user(username="alice", email=FIRST)
    with open_service(with_keys(settings, new, KEYS)) as service:
        bob = service.create_user(username="bob", email=FIRST.lower())
        assert service.list_users_by_email(FIRST) == (service.get_user_by_id(alice.id), bob)
        assert service.list_users_by_email(FIRST, limit=1)[0].id == alice.id
        assert service.list_users_by_email("nobody@example.org") == ()
    with open_service(with_keys(settings, new)) as service:
        assert [user.id for user in service.list_users_by_email(FIRST)] == [bob.id]


def test_the_log_of_a_program_shows_no_address(settings: Settings, tmp_path: Path) -> None:
    """The program logs a user, and an error with one, with the stack's configuration."""
    program = (
        "import sys, logging, core; from core.logs import configure_logs; configure_logs('DEBUG', 'text');"
        "s = core.open_service();"
        f"u = s.create_user(username='alice', email='{FIRST}');"
        "logging.getLogger('x').warning('made %s, %r', u, [u]); raise ValueError(u)"
    )
    environment = {
        **os.environ,
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "ENABLE_REDIS_CACHE": "false",
        "ENCRYPTION_KEYS": KEYS,
    }
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "made User(" in ended.stderr, ended.stderr
    # the text of the program itself is in the traceback
    shown = "\n".join(line for line in ended.stderr.splitlines() if "create_user" not in line)
    assert list_found(shown) == []
