"""Migrations and the tables of others: in their own schema, in other schemas, under our names."""

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
    """The migrations of an empty database."""
    return Migrator(Settings(database_url=SecretStr(empty_database_url)))


@pytest.mark.parametrize(("statements", "reason"), FOREIGN.values(), ids=FOREIGN.keys())
def test_tables_of_another_application_are_refused(
    migrator: Migrator, empty_execute: Execute, statements: str, reason: str
) -> None:
    """One line has the reason and the remedy; nothing is changed or recorded."""
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
    """Two applications with a history of the same name would revert each other's steps."""
    empty_execute(statement)
    before = describe(empty_execute), empty_execute("SELECT * FROM schema_migration")
    for run in (migrator.up, migrator.down):
        with pytest.raises(MigrationFailed, match=r"schema_migration in the schema 'public' is another"):
            run()
    assert (describe(empty_execute), empty_execute("SELECT * FROM schema_migration")) == before


def test_a_comment_says_that_a_table_is_ours(migrator: Migrator, empty_execute: Execute) -> None:
    """Other tables do not keep a table with the comment from being adopted; `down` restores the comment."""
    empty_execute(f"{PLAIN_USERS}; {OURS_ALL_THE_SAME}")
    before = describe(empty_execute)
    migrator.up()
    migrator.down("0001_adopt_users_and_ticks")
    assert describe(empty_execute) == before
    assert empty_execute("SELECT obj_description('users'::regclass)") == [("echo-markets",)]


def test_a_comment_of_a_plain_table_is_put_back(migrator: Migrator, empty_execute: Execute) -> None:
    """Meanwhile the adoption stores its notes in the comment."""
    empty_execute(f"{LEGACY}; COMMENT ON TABLE users IS '50 % of it''s owners'")
    migrator.up()
    migrator.down("0001_adopt_users_and_ticks")
    assert empty_execute("SELECT obj_description('users'::regclass), obj_description('ticks'::regclass)") == [
        ("50 % of it's owners", None)
    ]


def with_search_path(url: str, path: str) -> Migrator:
    """Return the migrations of a schema."""
    return Migrator(Settings(database_url=SecretStr(f"{url}?options=-csearch_path%3D{path}")))


def test_other_schemas_of_the_search_path_are_left_alone(
    empty_database_url: str, empty_execute: Execute
) -> None:
    """If names were resolved along the path, plain tables there would be adopted."""
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


def test_a_service_does_not_take_the_tables_of_another_schema_for_its_own(
    empty_database_url: str, empty_execute: Execute
) -> None:
    """Before migrate the tables are missing, and the other application's are not written."""
    empty_execute(f"CREATE SCHEMA echo; {LEGACY}; CREATE TABLE schema_migration (name text)")
    url = SecretStr(f"{empty_database_url}?options=-csearch_path%3Decho,public")
    with open_service(Settings(database_url=url, enable_redis_cache=False)) as service:
        with pytest.raises(DatabaseError, match="42P01"):
            service.get_user_by_username("alice")
        health = service.health()
    assert (health.status, health.migrations_applied) == ("degraded", 0)


def test_a_service_does_not_use_the_next_schema_in_place_of_a_missing_one(
    empty_database_url: str, empty_execute: Execute
) -> None:
    """Otherwise it would read and write the tables of another application."""
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
def test_a_schema_that_is_missing_is_not_replaced_by_the_next(
    empty_database_url: str, empty_execute: Execute, path: str
) -> None:
    """Otherwise the tables would be created among those of another application."""
    before = describe(empty_execute)
    with pytest.raises(MigrationFailed, match=r"the schema 'echo', which the search path .* names first"):
        with_search_path(empty_database_url, path).up()
    with pytest.raises(MigrationFailed, match="no schema of the search path"):
        with_search_path(empty_database_url, "echo").up()
    assert describe(empty_execute) == before


def test_triggers_write_to_the_schema_that_they_are_in(
    empty_database_url: str, empty_execute: Execute
) -> None:
    """The writer is psql with another search path and tables of the same names in `public`."""
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


def test_every_function_names_its_schema(migrator: Migrator, empty_execute: Execute) -> None:
    """The function has its own search path, or its body was parsed at creation."""
    migrator.up()
    unpinned = """SELECT proname FROM pg_proc p WHERE pronamespace = 'public'::regnamespace
        AND prosqlbody IS NULL AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = p.oid AND deptype = 'e')
        AND NOT 'search_path=public, pg_temp' = ANY (COALESCE(proconfig, '{}'))"""
    assert empty_execute(unpinned) == []
