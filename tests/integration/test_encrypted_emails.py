"""Tests of encrypted e-mail addresses: only callers of the service see them in clear."""

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
from tests.addresses import FIRST, SECOND, list_address_parts, write_with_every_call
from tests.conftest import KEYS, Execute

STORED = "SELECT username, email, email_index FROM users ORDER BY username"


def without_key(settings: Settings) -> Settings:
    """Return settings without an encryption key."""
    return settings.model_copy(update={"encryption_keys": None})


def with_keys(settings: Settings, *lines: str) -> Settings:
    """Return settings with these lines as ENCRYPTION_KEYS."""
    return settings.model_copy(update={"encryption_keys": SecretStr("\n".join(lines))})


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    """Yield the path of a file with this process's log at the level DEBUG."""
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


def test_only_callers_see_an_address_in_clear(
    settings: Settings, execute: Execute, redis_client: redis.Redis, log: Path
) -> None:
    """Tables, Redis, the near cache, the log at DEBUG, statistics and metrics contain no address."""
    noisy = settings.model_copy(update={"database_log_queries": "all", "log_level": "DEBUG"})
    with open_service(noisy) as service:
        alice, _, _ = write_with_every_call(service)
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
    assert {place: list_address_parts(text) for place, text in places.items()} == {
        place: [] for place in places
    }


def test_a_dump_has_no_address(service: EnhancedDatabaseService, database_url: str) -> None:
    """A dump by pg_dump contains encrypted values and no address."""
    write_with_every_call(service)
    program = find_postgres_programs() / "bin" / "pg_dump"
    dumped = subprocess.run([program, database_url], capture_output=True, text=True, check=True)
    assert "v1.tests." in dumped.stdout
    assert list_address_parts(dumped.stdout) == []


def test_messages_show_no_address(service: EnhancedDatabaseService, caplog: pytest.LogCaptureFixture) -> None:
    """Error messages and the log contain no address, for invalid arguments and for a taken name."""
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
        assert list_address_parts(str(caught.value)) == []
    assert list_address_parts(caplog.text) == []


def test_a_load_can_be_repeated(service: EnhancedDatabaseService, execute: Execute) -> None:
    """A second load does not encrypt unchanged addresses again.

    It stores a changed address, and removes an address if the record has None.
    """
    users = write_with_every_call(service)
    before = execute("SELECT xmin, * FROM users ORDER BY id")
    service.load_users(users[1:])
    assert execute("SELECT xmin, * FROM users ORDER BY id") == before
    service.load_users([replace(users[1], email=FIRST), replace(users[2], email=None)])
    assert [user.email for user in service.list_users()] == [FIRST, FIRST, None]
    assert [user.username for user in service.list_users_by_email(FIRST)] == ["alice", "bob"]


def test_a_load_encrypts_for_the_id_of_the_existing_row(
    service: EnhancedDatabaseService, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load encrypts an address for the id of the stored row, not for the id in the record.

    This is also true for a user that another writer creates between the look-up of ids and the load.
    """
    find = loads.find_emails
    with open_service(settings) as other:

        def find_and_create(database: object, names: list[str]) -> object:
            found = find(database, names)  # type: ignore[arg-type]  # passed through
            monkeypatch.setattr(loads, "find_emails", find)
            other.create_user(username="alice", email=SECOND)
            return found

        monkeypatch.setattr(loads, "find_emails", find_and_create)
        now = service._clock()
        wanted = User(new_id(), "alice", None, FIRST, None, frozendict(), now, now)
        ids = service.load_users([wanted, replace(wanted, id=new_id(), username="bob", email=SECOND)])
    assert ids["alice"] != wanted.id
    assert {user.username: user.email for user in service.list_users()} == {"alice": FIRST, "bob": SECOND}
    assert service.get_user_by_id(ids["alice"]).email == FIRST


def test_without_a_key_only_addresses_are_refused(
    settings: Settings, execute: Execute, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a key, calls that need an address raise an error with the setting's name and store nothing.

    Other calls work and show a stored address as unreadable.
    """
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
            # the text for an unreadable address is not accepted as an address
            service.load_users([renamed])
        assert service.update_user_profile(alice.id, email=None).email is None
    assert len([record for record in caplog.records if "cannot be read" in record.getMessage()]) == 1


def test_a_damaged_row_does_not_hide_other_rows(service: EnhancedDatabaseService, execute: Execute) -> None:
    """An address that was copied to another row is shown as unreadable; the other rows are readable."""
    alice, bob, charlie = write_with_every_call(service)
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
    # the copied search index does not find the row
    assert [user.id for user in service.list_users_by_email(FIRST)] == [alice.id, charlie.id]
    # a load can replace the unreadable address
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
    """A check constraint refuses an address in clear from any program, such as an older release."""
    with pytest.raises(psycopg2.errors.CheckViolation, match="users_email_encrypted"):
        execute(f"INSERT INTO users (username, email, email_index) VALUES ('eve', {values})")
    assert service.list_users() == ()


def test_addresses_are_found_under_every_key(settings: Settings) -> None:
    """`list_users_by_email` finds rows that are encrypted with different keys, as during a key rotation."""
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
    """A program that logs a user and an error with a user writes no address to its log."""
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
    # ignore the traceback's line with the program's own text, which contains the address
    shown = "\n".join(line for line in ended.stderr.splitlines() if "create_user" not in line)
    assert list_address_parts(shown) == []
