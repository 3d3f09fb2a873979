"""Tests of the migration that encrypts e-mail addresses."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from core import Settings, open_service
from core.encryption import new_key_line
from core.errors import MigrationFailed
from core.migration import Migrator
from core.testing import PostgresServer
from tests.conftest import KEYS, Execute, administered

MIGRATION = "0022_encrypted_emails"
# Some values are no addresses: rows from another application may have any text.
ADDRESSES = {
    "alice": "Quokka@example.org",
    "bob": "quokka@EXAMPLE.org",
    "charlie": None,
    "dora": "",
    "eve": "é",
}
READ = "SELECT username, email FROM users ORDER BY username"


def make_migrator(url: str, keys: str | None) -> Migrator:
    """Return a migrator with these encryption keys."""
    return Migrator(
        Settings(database_url=SecretStr(url), encryption_keys=None if keys is None else SecretStr(keys))
    )


@pytest.fixture
def _addresses_in_clear(empty_database_url: str, empty_execute: Execute) -> None:
    """Create a database at the migration before `MIGRATION`, with addresses in clear."""
    migrator = make_migrator(empty_database_url, None)
    migrator.up()
    migrator.down(MIGRATION)
    for username, email in ADDRESSES.items():
        empty_execute("INSERT INTO users (username, email) VALUES (%s, %s)", (username, email))
    # more rows than one batch of the migration
    empty_execute(
        "INSERT INTO users (username, email)"
        " SELECT 'p' || n, n || '@quokka.org' FROM generate_series(1, 6000) n"
    )
    empty_execute("ANALYZE users")


@pytest.mark.usefixtures("_addresses_in_clear")
def test_addresses_are_encrypted_and_decrypted(empty_database_url: str, empty_execute: Execute) -> None:
    """`up` encrypts each address, and `down` restores exactly the earlier values."""
    before = empty_execute(READ)
    make_migrator(empty_database_url, KEYS).up()
    stored: dict[str, str | None] = dict(empty_execute(READ))
    assert all(email is None or email.startswith("v1.tests.") for email in stored.values())
    assert stored["charlie"] is None
    settings = Settings(
        database_url=SecretStr(empty_database_url), encryption_keys=SecretStr(KEYS), enable_redis_cache=False
    )
    with open_service(settings) as service:
        found = {user.username: user.email for user in service.stream_users()}
        assert found == dict(before)
        assert len(service.list_users_by_email("quokka@example.org")) == 2
    make_migrator(empty_database_url, KEYS).down(MIGRATION)
    assert empty_execute(READ) == before


@pytest.mark.usefixtures("_addresses_in_clear")
def test_nothing_in_clear_stays_on_the_disk(
    empty_database_url: str, empty_execute: Execute, postgres_server: PostgresServer
) -> None:
    """After `up` no address is in the table's file, dead rows included, or in the planner's statistics."""

    def read_file() -> bytes:
        with administered(postgres_server) as execute:
            execute("CHECKPOINT")
        [(folder, path)] = empty_execute(
            "SELECT current_setting('data_directory'), pg_relation_filepath('users')"
        )
        return Path(folder, path).read_bytes()

    def read_statistics() -> str:
        return str(empty_execute("SELECT * FROM pg_stats WHERE tablename = 'users'"))

    assert b"@quokka.org" in read_file()
    assert "@quokka.org" in read_statistics()
    make_migrator(empty_database_url, KEYS).up()
    content = read_file()
    assert b"v1.tests." in content
    assert b"quokka" not in content.lower()
    assert "quokka" not in read_statistics().lower()


@pytest.mark.usefixtures("_addresses_in_clear")
def test_without_a_key_nothing_is_changed(empty_database_url: str, empty_execute: Execute) -> None:
    """Without the keys, `up` and `down` change nothing; the error names the missing setting or key."""
    before = empty_execute(READ)
    with pytest.raises(MigrationFailed, match=r"users have e-mail addresses.*ENCRYPTION_KEYS is not set"):
        make_migrator(empty_database_url, None).up()
    assert empty_execute(READ) == before
    make_migrator(empty_database_url, KEYS).up()
    encrypted = empty_execute(READ)
    with pytest.raises(MigrationFailed, match=r"cannot be decrypted: ENCRYPTION_KEYS has no key 'tests'"):
        make_migrator(empty_database_url, new_key_line("other")).down(MIGRATION)
    assert empty_execute(READ) == encrypted


def test_without_addresses_no_key_is_needed(empty_database_url: str, empty_execute: Execute) -> None:
    """A process without keys can migrate a database in which no user has an address."""
    migrator = make_migrator(empty_database_url, None)
    migrator.up()
    empty_execute("INSERT INTO users (username) VALUES ('alice')")
    migrator.down(MIGRATION)
    assert MIGRATION in migrator.up()
