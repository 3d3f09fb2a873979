"""Migrations on a database with tables of other applications, in the same schema or in other schemas."""

import pytest
from pydantic import SecretStr

from core import Settings, open_service
from core.errors import DatabaseError, DatabaseUnavailable, MigrationFailed
from core.installation import MIGRATIONS
from core.migration import Migrator
from tests.conftest import Execute
from tests.integration.catalog import describe
from tests.integration.test_migrations import LEGACY

OURS_ALL_THE_SAME = "COMMENT ON TABLE users IS 'echo-markets'"
PLAIN_USERS = "CREATE TABLE users (id uuid PRIMARY KEY, username text)"
PLAIN_TICKS = "CREATE TABLE ticks (symbol text, timestamp timestamptz, price numeric)"
TEAM_OF_USER = """CREATE TABLE teams (id int PRIMARY KEY);
    ALTER TABLE users ADD COLUMN team int REFERENCES teams"""
TRIGGER = """CREATE TRIGGER own BEFORE UPDATE ON ticks FOR EACH ROW
    EXECUTE FUNCTION suppress_redundant_updates_trigger()"""
FOREIGN = {
    "other columns": ("CREATE TABLE users (id serial PRIMARY KEY, email text)", "has no column username"),
    "numbers as ids": (
        f"CREATE TABLE users (id serial PRIMARY KEY, username text); {PLAIN_TICKS}",
        "has id as integer, which cannot become uuid",
    ),
    "a column to be filled": (
        f"CREATE TABLE users (id uuid PRIMARY KEY, username text, password text NOT NULL); {PLAIN_TICKS}",
        "has the column password, which every row needs",
    ),
    "users alone": (PLAIN_USERS, "it is there without ticks"),
    "ticks alone": (PLAIN_TICKS, "it is there without users"),
    "referred to": (
        f"{PLAIN_USERS}; {PLAIN_TICKS}; CREATE TABLE orders (id int, buyer uuid REFERENCES users)",
        "foreign key orders_buyer_fkey of orders",
    ),
    "refers": (
        f"{PLAIN_USERS}; {PLAIN_TICKS}; {TEAM_OF_USER}",
        "foreign key users_team_fkey of users",
    ),
    "with a trigger": (
        f"{PLAIN_USERS}; {PLAIN_TICKS}; {TRIGGER}",
        "trigger own",
    ),
    "with policies": (
        f"{PLAIN_USERS}; {PLAIN_TICKS}; ALTER TABLE users ENABLE ROW LEVEL SECURITY",
        "row security",
    ),
    "a view": (f"CREATE VIEW users AS SELECT 1 AS id; {PLAIN_TICKS}", "is a view"),
    "partitioned": (
        f"{PLAIN_TICKS} PARTITION BY LIST (symbol); {PLAIN_USERS}",
        "is a partitioned table",
    ),
    "another table of ours": (f"{PLAIN_USERS}; {PLAIN_TICKS}; CREATE TABLE quests (id int)", "quests"),
}


@pytest.fixture
def migrator(empty_database_url: str) -> Migrator:
    """Return the migrator of an empty database."""
    return Migrator(Settings(database_url=SecretStr(empty_database_url)))


@pytest.mark.parametrize(("statements", "reason"), FOREIGN.values(), ids=FOREIGN.keys())
def test_tables_of_another_application_are_refused(
    migrator: Migrator, empty_execute: Execute, statements: str, reason: str
) -> None:
    """If another application's table has one of our names, `up` raises an error and changes no table."""
    empty_execute(statements)
    before = describe(empty_execute)
    with pytest.raises(MigrationFailed, match=reason) as caught:
        migrator.up()
    assert "\n" not in str(caught.value)
    assert describe(empty_execute) == before
    assert empty_execute("SELECT to_regclass('schema_migration')") == [(None,)]


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE schema_migration (version bigint)",
        """CREATE TABLE schema_migration (id serial, name text, applied timestamp);
            INSERT INTO schema_migration (name) VALUES ('0001_initial')""",
    ],
)
def test_the_history_of_another_application_is_not_continued(
    migrator: Migrator, empty_execute: Execute, statement: str
) -> None:
    """If another application has the table `schema_migration`, `up` and `down` raise and change no table."""
    empty_execute(statement)
    before = describe(empty_execute), empty_execute("SELECT * FROM schema_migration")
    for run in (migrator.up, migrator.down):
        with pytest.raises(MigrationFailed, match=r"schema_migration in the schema 'public' is another"):
            run()
    assert (describe(empty_execute), empty_execute("SELECT * FROM schema_migration")) == before


def test_a_table_with_our_comment_is_adopted(migrator: Migrator, empty_execute: Execute) -> None:
    """A table with the comment `echo-markets` is adopted among other tables; `down` restores the comment."""
    empty_execute(f"{PLAIN_USERS}; {OURS_ALL_THE_SAME}")
    before = describe(empty_execute)
    migrator.up()
    migrator.down("0001_adopt_users_and_ticks")
    assert describe(empty_execute) == before
    assert empty_execute("SELECT obj_description('users'::regclass)") == [("echo-markets",)]


def test_down_restores_the_comment_of_an_adopted_table(migrator: Migrator, empty_execute: Execute) -> None:
    """`down` restores a table's own comment, in which the adoption has stored its state."""
    empty_execute(f"{LEGACY}; COMMENT ON TABLE users IS '50 % of it''s owners'")
    migrator.up()
    migrator.down("0001_adopt_users_and_ticks")
    assert empty_execute("SELECT obj_description('users'::regclass), obj_description('ticks'::regclass)") == [
        ("50 % of it's owners", None)
    ]


def with_search_path(url: str, path: str) -> Migrator:
    """Return a migrator whose connections have this search path."""
    return Migrator(Settings(database_url=SecretStr(f"{url}?options=-csearch_path%3D{path}")))


def test_other_schemas_of_the_search_path_are_unchanged(
    empty_database_url: str, empty_execute: Execute
) -> None:
    """`up`, the service and `down` use only the first schema of the search path."""
    empty_execute(
        f"CREATE SCHEMA echo; {LEGACY}; CREATE TABLE schema_migration (name text); CREATE TABLE quests ()"
    )
    before = describe(empty_execute)
    migrator = with_search_path(empty_database_url, "echo,public")
    names = migrator.up()
    assert len(names) == len(list(MIGRATIONS.glob("0*.py")))
    assert describe(empty_execute) == before
    foreign = "SELECT conname FROM pg_constraint WHERE confrelid = 'public.users'::regclass"
    assert empty_execute(foreign) == []
    assert empty_execute("SELECT count(*) FROM pg_class WHERE relnamespace = 'echo'::regnamespace")[0][0] > 50
    with open_service(
        Settings(
            database_url=SecretStr(f"{empty_database_url}?options=-csearch_path%3Decho,public"),
            enable_redis_cache=False,
        )
    ) as service:
        service.create_user(username="alice")
        assert service.health().migrations_pending == 0
    assert empty_execute("SELECT count(*) FROM public.users") == [(2,)]
    assert migrator.down(names[0]) == names[::-1]
    assert describe(empty_execute) == before


def test_a_service_ignores_tables_of_other_schemas(empty_database_url: str, empty_execute: Execute) -> None:
    """Before migrations ran, tables are missing, even if a later schema has tables of the same names."""
    empty_execute(f"CREATE SCHEMA echo; {LEGACY}; CREATE TABLE schema_migration (name text)")
    url = SecretStr(f"{empty_database_url}?options=-csearch_path%3Decho,public")
    with open_service(Settings(database_url=url, enable_redis_cache=False)) as service:
        with pytest.raises(DatabaseError, match="42P01"):
            service.get_user_by_username("alice")
        health = service.health()
    assert (health.status, health.migrations_applied) == ("degraded", 0)


def test_a_service_refuses_a_missing_first_schema(empty_database_url: str, empty_execute: Execute) -> None:
    """If the first schema of the search path is missing, calls raise and write to no other schema."""
    empty_execute(LEGACY)
    before = empty_execute("SELECT * FROM users")
    url = SecretStr(f"{empty_database_url}?options=-csearch_path%3Decho,public")
    with open_service(Settings(database_url=url, enable_redis_cache=False)) as service:
        with pytest.raises(DatabaseUnavailable, match=r"the schema 'echo', which the search path .* names"):
            service.create_user(username="alice")
        assert (health := service.health()).status == "unhealthy"
        assert "the schema 'echo'" in (health.database_reason or "")
        assert empty_execute("SELECT * FROM users") == before
        empty_execute("CREATE SCHEMA echo")
        with_search_path(empty_database_url, "echo,public").up()
        assert service.create_user(username="alice").username == "alice"


@pytest.mark.parametrize("path", ["echo,public", "%22$user%22,echo,public"])
def test_migrations_refuse_a_missing_first_schema(
    empty_database_url: str, empty_execute: Execute, path: str
) -> None:
    """If the first schema of the search path is missing, `up` raises and creates no table elsewhere."""
    before = describe(empty_execute)
    with pytest.raises(MigrationFailed, match=r"the schema 'echo', which the search path .* names first"):
        with_search_path(empty_database_url, path).up()
    with pytest.raises(MigrationFailed, match="no schema of the search path"):
        with_search_path(empty_database_url, "echo").up()
    assert describe(empty_execute) == before


def test_triggers_write_to_their_own_schema(empty_database_url: str, empty_execute: Execute) -> None:
    """Triggers write to their own schema, even if the search path names a schema with the same tables."""
    empty_execute(
        "CREATE SCHEMA echo; CREATE TABLE leaderboard_counters (id int); CREATE TABLE symbols (symbol text)"
    )
    with_search_path(empty_database_url, "echo").up()
    empty_execute("SET search_path = public")
    empty_execute("INSERT INTO echo.users (username) VALUES ('alice')")
    empty_execute(
        "INSERT INTO echo.leaderboard_entries (user_id, session_date, category, score)"
        " SELECT id, '2026-03-02', 'c', 1 FROM echo.users"
    )
    empty_execute("INSERT INTO echo.ticks (symbol, timestamp, price) VALUES ('AAPL', now(), 1)")
    empty_execute("UPDATE echo.ticks SET symbol = 'MSFT'")
    empty_execute("SELECT echo.leaderboard_fold('2026-03-02', 'c')")
    assert empty_execute("SELECT sum(entries) FROM echo.leaderboard_counters") == [(1,)]
    assert empty_execute("SELECT symbol FROM echo.symbols ORDER BY 1") == [("AAPL",), ("MSFT",)]
    assert empty_execute("SELECT count(*) FROM leaderboard_counters, symbols") == [(0,)]


def test_every_function_has_a_fixed_schema(migrator: Migrator, empty_execute: Execute) -> None:
    """Every SQL function has its own search path or a body that was parsed when it was created."""
    migrator.up()
    unpinned = """SELECT proname FROM pg_proc p WHERE pronamespace = 'public'::regnamespace
        AND prosqlbody IS NULL AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = p.oid AND deptype = 'e')
        AND NOT 'search_path=public, pg_temp' = ANY (COALESCE(proconfig, '{}'))"""
    assert empty_execute(unpinned) == []
