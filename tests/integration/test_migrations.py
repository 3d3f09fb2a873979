"""Migrations: the resulting schema, `down`, adoption of existing tables, and concurrent runs."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import peewee
import pytest
from pydantic import SecretStr

from core import Settings, open_service
from core.errors import DatabaseUnavailable, InvalidInput, MigrationFailed
from core.installation import MIGRATIONS
from core.migration import Migrator
from core.models import ALL_MODELS
from core.testing import PostgresServer
from tests.conftest import Execute, connected, created_database
from tests.integration.catalog import MODELLED, describe

LEGACY = """
    CREATE TABLE users (
        id uuid PRIMARY KEY, username varchar(50) UNIQUE, name varchar(100), email text,
        created_at timestamp NOT NULL DEFAULT now(), nickname text);
    CREATE TABLE ticks (
        id bigserial PRIMARY KEY, symbol varchar(10) NOT NULL, timestamp timestamp NOT NULL,
        price double precision NOT NULL, volume integer);
    INSERT INTO users (id, username, name, created_at, nickname) VALUES
        ('00000000-0000-0000-0000-000000000001', 'alice', 'Alice', '2020-01-01 12:00', 'al'),
        ('00000000-0000-0000-0000-000000000002', NULL, NULL, '2020-01-02 12:00', NULL);
    INSERT INTO ticks (symbol, timestamp, price, volume) VALUES
        ('AAPL', '2020-01-01 21:00', 101.25, 10), ('AAPL', '2020-01-01 21:00', 101.5, NULL),
        ('AAPL', '2020-01-01 21:00', 101.75, 30), ('AAPL', '2020-01-01 21:00:00.000001', 102, 40),
        ('msft', '2020-01-01 21:00', 50, 5)"""


@pytest.fixture
def migrator(empty_database_url: str) -> Migrator:
    """Return the migrator of an empty database."""
    return Migrator(Settings(database_url=SecretStr(empty_database_url)))


@pytest.fixture
def model_database(postgres_server: PostgresServer) -> Iterator[Execute]:
    """Yield a function that runs SQL on a database whose tables peewee created from the models."""
    with created_database(postgres_server) as url:
        database = peewee.PostgresqlDatabase(url)
        with database.connection_context(), database.bind_ctx(ALL_MODELS):
            database.create_tables(ALL_MODELS)
        with connected(url) as execute:
            yield execute


def test_the_migrated_schema_equals_the_models(
    migrator: Migrator, empty_execute: Execute, model_database: Execute
) -> None:
    """Columns, constraints and indexes of the migrated schema equal those that the models declare."""
    migrator.up()
    migrated, declared = describe(empty_execute), describe(model_database)
    for part in MODELLED:
        assert migrated[part] == declared[part]


def test_every_down_reverses_its_up(migrator: Migrator, empty_execute: Execute) -> None:
    """Reverting all migrations one by one leaves an empty schema, from which `up` builds the same schema."""
    names = sorted(path.stem for path in MIGRATIONS.glob("0*.py"))
    assert migrator.up() == names
    after_all = describe(empty_execute)
    for name in reversed(names):
        assert migrator.down() == [name]
    assert not any(describe(empty_execute).values())
    assert migrator.down() == []
    assert migrator.up() == names
    assert describe(empty_execute) == after_all


def test_each_single_migration_is_reversible(
    postgres_server: PostgresServer, tmp_path: Path, empty_database_url: str, empty_execute: Execute
) -> None:
    """After `up` and `down` of one migration the schema is the same as before."""
    settings = Settings(database_url=SecretStr(empty_database_url))
    for path in sorted(MIGRATIONS.glob("0*.py")):
        before = describe(empty_execute)
        (tmp_path / path.name).write_bytes(path.read_bytes())
        migrator = Migrator(settings, directory=tmp_path)
        assert migrator.up() == [path.stem]
        assert migrator.down() == [path.stem]
        assert describe(empty_execute) == before
        migrator.up()


def test_older_completed_quests_have_no_completion_time(
    empty_database_url: str, empty_execute: Execute, tmp_path: Path
) -> None:
    """The migration keeps quests that were completed before it, with NULL as their completion time."""
    settings = Settings(database_url=SecretStr(empty_database_url))
    for path in sorted(MIGRATIONS.glob("0*.py"))[:15]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    Migrator(settings, directory=tmp_path).up()
    empty_execute("""
        INSERT INTO users (username) VALUES ('alice');
        INSERT INTO quests (user_id, type, title, target_value, current_progress, status)
        SELECT id, 'T', 'Title', 3, 3, status FROM users, unnest('{ACTIVE,COMPLETED,EXPIRED}'::text[]) status;
        INSERT INTO leaderboard_entries (user_id, session_date, category, score)
        SELECT id, '2026-03-02', 'quests_completed', 1 FROM users""")
    before = empty_execute("SELECT * FROM quests ORDER BY id")
    assert Migrator(settings).up()[0] == "0016_quest_completion"
    assert empty_execute("SELECT * FROM quests ORDER BY id") == [(*row, None) for row in before]
    settings = settings.model_copy(update={"enable_redis_cache": False})
    with open_service(settings) as service:
        [alice] = service.search_users("alice")
        assert service.count_completed_quests([alice.id]) == {alice.id: 1}


def test_a_second_up_applies_no_migration(migrator: Migrator) -> None:
    """A second `up` returns no applied migration."""
    assert migrator.up()
    assert migrator.up() == []
    assert all(row.applied_at for row in migrator.status())


def test_adopting_plain_tables_keeps_every_row(migrator: Migrator, empty_execute: Execute) -> None:
    """`up` keeps every user and tick of plain tables and converts their columns, with times in UTC."""
    empty_execute(LEGACY)
    migrator.up()
    users = empty_execute(
        "SELECT username, name, nickname, preferences, created_at AT TIME ZONE 'UTC' FROM users ORDER BY id"
    )
    assert [row[0] for row in users] == ["alice", "player-00000000-0000-0000-0000-000000000002"]
    assert users[0][1:4] == ("Alice", "al", {})
    assert str(users[0][4]) == "2020-01-01 12:00:00"
    ticks = empty_execute("SELECT id, symbol, price, volume, timestamp FROM ticks ORDER BY id")
    assert [(row[0], row[1], float(row[2]), row[3]) for row in ticks] == [
        (1, "AAPL", 101.25, 10),
        (2, "AAPL", 101.5, 0),
        (3, "AAPL", 101.75, 30),
        (4, "AAPL", 102.0, 40),
        (5, "msft", 50.0, 5),
    ]
    times = [row[4] for row in ticks]
    assert len(set(times[:4])) == 4
    assert (max(times) - min(times)).total_seconds() < 0.001


def test_the_service_works_on_adopted_tables(
    migrator: Migrator, empty_execute: Execute, empty_database_url: str
) -> None:
    """The service reads and updates users and ticks that existed before the adoption."""
    empty_execute(LEGACY)
    migrator.up()
    settings = Settings(database_url=SecretStr(empty_database_url), enable_redis_cache=False)
    with open_service(settings) as service:
        alice = service.get_user_by_username("alice")
        service.touch_last_active(alice.id)
        assert service.get_current_portfolio(alice.id).total_value == 10_000
        assert service.get_latest_market_data(["AAPL"])[0].price == 102
        assert len(service.get_latest_market_data()) == 2


def test_down_restores_adopted_tables(migrator: Migrator, empty_execute: Execute) -> None:
    """After `down` adopted tables have their former columns and every row."""
    empty_execute(LEGACY)
    before = describe(empty_execute)
    migrator.up()
    migrator.down("0001_adopt_users_and_ticks")
    after = describe(empty_execute)
    for part in before:
        assert after[part] == before[part]
    assert empty_execute("SELECT count(*) FROM ticks") == [(5,)]
    assert empty_execute("SELECT count(*) FROM users") == [(2,)]


def test_adopted_ticks_keep_indexes_grants_and_ids(
    migrator: Migrator, empty_execute: Execute, database_url: str
) -> None:
    """Partitioning adopted ticks keeps ids, an added index and grants; old ticks are in `ticks_before`."""
    empty_execute(LEGACY)
    empty_execute("CREATE INDEX ticks_volume ON ticks (volume); GRANT SELECT ON ticks TO PUBLIC")
    empty_execute("INSERT INTO ticks (symbol, timestamp, price) VALUES ('AAPL', now() AT TIME ZONE 'UTC', 1)")
    for _ in range(2):
        migrator.up()
        empty_execute("INSERT INTO ticks (symbol, timestamp, price) VALUES ('AAPL', clock_timestamp(), 1)")
        where = "SELECT tableoid::regclass::text, count(*) FROM ticks GROUP BY 1 ORDER BY 2"
        assert empty_execute(where)[1] == ("ticks_before", 5)
        migrator.down("0004_partition_ticks")
    assert empty_execute("SELECT array_agg(id ORDER BY id) FROM ticks") == [([1, 2, 3, 4, 5, 6, 7, 8],)]
    assert empty_execute("SELECT has_table_privilege('pg_monitor', 'ticks', 'SELECT')") == [(True,)]
    assert empty_execute("SELECT to_regclass('ticks_volume') IS NOT NULL") == [(True,)]


def test_adoption_names_a_missing_required_column(migrator: Migrator, empty_execute: Execute) -> None:
    """If a table lacks a required column, `up` raises with the column's name and changes no table."""
    empty_execute("CREATE TABLE ticks (symbol text, timestamp timestamp)")
    before = describe(empty_execute)
    with pytest.raises(MigrationFailed, match="ticks has no column price"):
        migrator.up()
    assert describe(empty_execute) == before


def test_a_failing_migration_is_rolled_back(
    empty_database_url: str, empty_execute: Execute, tmp_path: Path
) -> None:
    """A migration that fails stores no change and stays pending."""
    (tmp_path / "0001_broken.py").write_text(
        "def up(migrator, db):\n"
        "    db.execute_sql('CREATE TABLE half (id int)')\n"
        "    db.execute_sql('SELECT 1 / 0')\n"
    )
    migrator = Migrator(Settings(database_url=SecretStr(empty_database_url)), directory=tmp_path)
    with pytest.raises(MigrationFailed, match="division by zero"):
        migrator.up()
    assert describe(empty_execute)["columns"] == []
    assert [row.applied_at for row in migrator.status()] == [None]


def test_concurrent_runs_apply_migrations_once(migrator: Migrator, empty_execute: Execute) -> None:
    """Of eight concurrent runs one applies all migrations, and seven apply none."""
    applied: list[list[str]] = []
    barrier = threading.Barrier(8)

    def start() -> None:
        barrier.wait()
        applied.append(migrator.up())

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(map(len, applied)) == [0] * 7 + [len(migrator.status())]


def test_migrations_connect_to_direct_url(
    postgres_server: PostgresServer, empty_database_url: str, empty_execute: Execute
) -> None:
    """If DIRECT_URL is set, migrations connect to it and not to DATABASE_URL, which may be a pooler."""
    settings = Settings(
        database_url=SecretStr("postgresql://nobody:nothing@127.0.0.1:1/nowhere"),
        direct_url=SecretStr(empty_database_url),
    )
    assert Migrator(settings).up()
    assert empty_execute("SELECT count(*) FROM users") == [(0,)]


def test_an_unknown_target_is_refused(migrator: Migrator) -> None:
    """`down` to a migration that is not applied raises InvalidInput and reverts no migration."""
    applied = migrator.up()
    with pytest.raises(InvalidInput, match="'0009_none' is not applied"):
        migrator.down("0009_none")
    assert len(migrator.status()) == len(applied)
    assert all(row.applied_at for row in migrator.status())


def test_a_connection_error_shows_no_password() -> None:
    """If the server cannot be reached, `status` raises DatabaseUnavailable without the password."""
    settings = Settings(database_url=SecretStr("postgresql://echo:s3cr3t@127.0.0.1:1/echo"))
    with pytest.raises(DatabaseUnavailable, match="cannot connect") as caught:
        Migrator(settings).status()
    assert "s3cr3t" not in str(caught.value)


def test_status_exits_1_while_a_migration_is_pending(empty_database_url: str, repository: Path) -> None:
    """`migrate status` exits with 1 while a migration is pending, even after `down`, else with 0."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "core.cli", "migrate", *arguments],
            cwd=repository,
            env={"DATABASE_URL": empty_database_url, "PATH": ""},
            capture_output=True,
            text=True,
            check=False,
        )

    pending = run("status")
    assert (pending.returncode, "pending" in pending.stdout) == (1, True)
    assert run("up").returncode == 0
    assert run("status").returncode == 0
    assert run("down").returncode == 0
    assert run("status").returncode == 1


def test_migrations_are_numbered_without_a_gap() -> None:
    """Migrations are numbered from 1 without a gap, because equal numbers would run in the order of names."""
    names = sorted(path.name for path in MIGRATIONS.glob("[0-9]*.py"))
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))
