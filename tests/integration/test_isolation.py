"""Row-level security limits players to their own rows: in every call, in raw SQL and after every fault."""

import inspect
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import pytest
import redis
from pydantic import SecretStr

from core import EnhancedDatabaseService, Settings, open_service
from core.database.identity import Identity, acting_as
from core.database.roles import APP, PLAYER
from core.database.row_security import OWN_ROWS
from core.errors import (
    DatabaseError,
    DatabaseUnavailable,
    EchoMarketsError,
    InvalidInput,
    PlayersNotIsolated,
    QueryTimeout,
    QuestNotFound,
    TransactionMisused,
    UserNotFound,
)
from core.migration import Migrator
from core.records import Position, Quest, Tick, Trade, User
from core.service.player_view import PlayerView
from core.service.writes import new_id
from core.testing import PostgresServer, ValkeyServer
from tests.conftest import connected, created_database
from tests.matrix.servers import run_debian_postgres, run_pgbouncer
from tests.roles import PASSWORDS, give_to_roles, settings_as

SERVERS = ("PostgreSQL 18", "Debian's", "PgBouncer")
ONE = Decimal(1)
NOW = datetime.now(UTC)
TODAY = NOW.date()
POOL = 4
THREADS = 20
ROUNDS = 40


class Player(NamedTuple):
    """A player with a row in each table of `OWN_ROWS`; the secret is in the player's own values."""

    user: User
    quest: Quest
    secret: str


@pytest.fixture(scope="module", params=SERVERS)
def app_url(request: pytest.FixtureRequest, server_directory: Callable[[], Path]) -> Iterator[Settings]:
    """Yield settings that connect as the application role to a database that the owner role owns.

    The tests run once for each of `SERVERS`.
    """
    with ExitStack() as stack:
        if request.param == "Debian's":
            server = stack.enter_context(run_debian_postgres(server_directory()))
        else:
            server = request.getfixturevalue("postgres_server")
        url = stack.enter_context(created_database(server))
        give_to_roles(url)
        if request.param == "PgBouncer":
            accounts = {APP: PASSWORDS[APP]}
            port = stack.enter_context(
                run_pgbouncer(server_directory(), server, accounts, default_pool_size="2")
            )
            url = url.replace(f":{server.port}/", f":{port}/")
        yield settings_as(APP, url)


@pytest.fixture
def settings(app_url: Settings, valkey_server: ValkeyServer) -> Settings:
    """Return the settings with Redis and a small pool, after emptying Redis."""
    with redis.Redis.from_url(valkey_server.url, password=valkey_server.password) as client:
        client.flushall()
    changes = {
        "redis_url": SecretStr(valkey_server.url),
        "redis_password": SecretStr(valkey_server.password),
        "database_connection_limit": POOL,
        "database_pool_timeout": 30_000,
    }
    return app_url.model_copy(update=changes)


@pytest.fixture
def direct(settings: Settings) -> Iterator[EnhancedDatabaseService]:
    """Yield a service without a cache and with one connection, which every unit of work uses."""
    changes = {"enable_redis_cache": False, "database_connection_limit": 1}
    with open_service(settings.model_copy(update=changes)) as service:
        yield service


def add_player(service: EnhancedDatabaseService) -> Player:
    """Create a player who owns one row in each table of `OWN_ROWS`."""
    secret = f"secret-{uuid4().hex[:12]}"
    user = service.create_user(username=f"u{uuid4().hex[:12]}", name=secret, email=f"{secret}@example.com")
    service.get_current_portfolio(user.id, TODAY)
    price = Decimal(int(secret[-6:], 16) + 1)
    service.load_positions([Position(user.id, TODAY, "AAPL", ONE, price)])
    service.load_trades([Trade(new_id(), user.id, TODAY, "AAPL", "BUY", ONE, price, NOW)])
    quest = service.create_quest(
        user.id, type="T", title=secret, target_value=Decimal(100), expires_at=NOW + timedelta(days=1)
    )
    service.update_leaderboard_entry(user.id, "c", price, TODAY)
    return Player(user, quest, secret)


@pytest.fixture
def alice(service: EnhancedDatabaseService) -> Player:
    """Return a player."""
    service.insert_market_ticks([Tick("AAPL", NOW, ONE)])
    return add_player(service)


@pytest.fixture
def bob(service: EnhancedDatabaseService, alice: Player) -> Player:
    """Return another player, whose rows alice must not see and the service has cached."""
    bob = add_player(service)
    service.create_market_event(type="T", title=f"of {alice.user.username}")
    for call in READS.values():
        call.of_service(service, bob.user.id)
    return bob


# -- calls of PlayerView --------------------------------------------------------------------


class Read(NamedTuple):
    """A read of `PlayerView` and the equivalent call of the service; `is_public` if it shows all players."""

    of_view: Callable[[PlayerView], object]
    of_service: Callable[[EnhancedDatabaseService, UUID], object]
    is_public: bool = False


def public_read(name: str, *arguments: Any, **options: Any) -> Read:
    """Return a public read, which has the same arguments in the view and the service."""
    return Read(
        lambda view: getattr(view, name)(*arguments, **options),
        lambda service, _: getattr(service, name)(*arguments, **options),
        is_public=True,
    )


READS = {
    "get_profile": Read(lambda v: v.get_profile(), lambda s, u: s.get_user_by_id(u)),
    "find_portfolio": Read(lambda v: v.find_portfolio(TODAY), lambda s, u: s.find_portfolio(u, TODAY)),
    "get_portfolio": Read(lambda v: v.get_portfolio(TODAY), lambda s, u: s.get_portfolio(u, TODAY)),
    "get_current_portfolio": Read(
        lambda v: v.get_current_portfolio(TODAY), lambda s, u: s.get_current_portfolio(u, TODAY)
    ),
    "get_portfolio_history": Read(
        lambda v: v.get_portfolio_history(limit=5), lambda s, u: s.get_portfolio_history(u, limit=5)
    ),
    "list_positions": Read(lambda v: v.list_positions(TODAY), lambda s, u: s.list_positions([u], TODAY)),
    "list_trades": Read(lambda v: v.list_trades(TODAY), lambda s, u: s.list_trades([u], TODAY)),
    "get_player_gains": Read(
        lambda v: v.get_player_gains(TODAY - timedelta(days=9), TODAY),
        lambda s, u: s.get_player_gains(u, TODAY - timedelta(days=9), TODAY),
    ),
    "get_user_active_quests": Read(
        lambda v: v.get_user_active_quests(), lambda s, u: s.get_user_active_quests(u)
    ),
    "get_user_quests": Read(lambda v: v.get_user_quests(limit=5), lambda s, u: s.get_user_quests(u, limit=5)),
    "get_user_rank": Read(
        lambda v: v.get_user_rank("c", TODAY), lambda s, u: s.get_user_rank(u, "c", TODAY), is_public=True
    ),
    "get_leaderboard_around": Read(
        lambda v: v.get_leaderboard_around("c", TODAY, radius=3),
        lambda s, u: s.get_leaderboard_around(u, "c", TODAY, radius=3),
        is_public=True,
    ),
    "get_leaderboard": public_read("get_leaderboard", "c", TODAY, 100),
    "list_leaderboard_categories": public_read("list_leaderboard_categories", TODAY),
    "list_leaderboard_dates": public_read("list_leaderboard_dates", "c"),
    "get_latest_market_data": public_read("get_latest_market_data", ["AAPL"]),
    "list_market_ticks": public_read("list_market_ticks", "AAPL"),
    "get_price_history": public_read("get_price_history", "AAPL", NOW - timedelta(days=1), NOW, "1h"),
    "get_sparklines": public_read("get_sparklines"),
    "get_recent_market_events": public_read("get_recent_market_events", 5),
    "list_market_events": public_read("list_market_events", 5),
    "list_market_event_types": public_read("list_market_event_types"),
}
WRITES: dict[str, Callable[[PlayerView, Quest], object]] = {
    "update_user_profile": lambda view, _: view.update_user_profile(name="new", preferences={"a": 1}),
    "touch_last_active": lambda view, _: view.touch_last_active(),
    "update_portfolio_value": lambda view, _: view.update_portfolio_value(TODAY, Decimal(9_000), -ONE),
    "update_quest_progress": lambda view, quest: view.update_quest_progress(quest.id, ONE),
}


def list_own(service: EnhancedDatabaseService, player: Player) -> list[object]:
    """Return the results of every read that is private to a player."""
    return [read.of_service(service, player.user.id) for read in READS.values() if not read.is_public]


def test_every_call_of_the_view_is_listed() -> None:
    """`READS` and `WRITES` list every call of `PlayerView`; no call takes a user or returns an iterator."""
    calls = {name: call for name, call in inspect.getmembers(PlayerView, callable) if name[0] != "_"}
    assert set(calls) == {*READS, *WRITES}
    for name, call in calls.items():
        assert not any("user" in parameter for parameter in inspect.signature(call).parameters), name
        assert "Iterator" not in str(inspect.signature(call).return_annotation), name


def test_a_read_of_the_view_equals_the_services(
    service: EnhancedDatabaseService, direct: EnhancedDatabaseService, alice: Player, bob: Player
) -> None:
    """A read of the view returns the service's value, cached or not, and no value of another player."""
    user_id = alice.user.id
    for name, call in READS.items():
        expected = call.of_service(direct, user_id)
        for opened in (service, direct):
            view = opened.as_user(user_id)
            answers = [call.of_view(view), call.of_view(view), call.of_service(opened, user_id)]
            assert answers == [expected] * 3, name
            assert call.is_public or bob.secret not in repr(answers), name
            assert call.is_public or str(bob.user.id) not in repr(answers), name


def test_a_write_changes_the_rows_of_the_player_alone(
    service: EnhancedDatabaseService, direct: EnhancedDatabaseService, alice: Player, bob: Player
) -> None:
    """After a write of alice's view her reads return the new value at once, and bob's rows are unchanged."""
    before = list_own(direct, bob)
    view = service.as_user(alice.user.id)
    for name, write in WRITES.items():
        for read in READS.values():
            read.of_view(view)
        own = list_own(direct, alice)
        write(view, alice.quest)
        assert list_own(direct, alice) != own, name
        for read in READS.values():
            assert read.of_view(view) == read.of_service(direct, alice.user.id), name
        assert list_own(direct, bob) == before, name


def test_the_view_opens_the_players_own_portfolio(service: EnhancedDatabaseService, alice: Player) -> None:
    """A portfolio that the view opens belongs to its player, and the service returns the same portfolio."""
    day = TODAY - timedelta(days=1)
    view = service.as_user(alice.user.id)
    assert view.find_portfolio(day) is None
    assert view.get_current_portfolio(day).user_id == alice.user.id
    assert service.get_portfolio(alice.user.id, day) == view.get_portfolio(day)


def test_quests_of_another_player_are_not_found(
    service: EnhancedDatabaseService, alice: Player, bob: Player
) -> None:
    """A call of the view with another player's quest raises and changes no row."""
    view = service.as_user(alice.user.id)
    with pytest.raises(QuestNotFound):
        view.update_quest_progress(bob.quest.id, ONE)
    with pytest.raises(InvalidInput):
        view.get_user_quests(after=bob.quest)
    assert service.get_user_quests(bob.user.id) == (bob.quest,)


def test_a_view_of_a_missing_user_has_no_rows(service: EnhancedDatabaseService, bob: Player) -> None:
    """The view of a user who does not exist or was deleted returns no rows and raises UserNotFound."""
    view = service.as_user(uuid4())
    with pytest.raises(UserNotFound):
        view.get_profile()
    with pytest.raises(UserNotFound):
        view.get_current_portfolio()
    assert view.get_user_quests() == view.get_portfolio_history() == view.list_trades(TODAY) == ()
    gone = service.as_user(bob.user.id)
    assert gone.get_profile() == bob.user
    service.delete_user(bob.user.id)
    with pytest.raises(UserNotFound):
        gone.get_profile()


@pytest.mark.parametrize(
    "user_id",
    [
        None,
        "",
        "alice",
        "' OR true --",
        "*",
        1,
        b"\xff" * 16,
        "018491fb-eb0a-732d-ad51-b6839c27c055' OR '1'='1",
        "018491fb-eb0a-732d-ad51-b6839c27c055; RESET ROLE",
    ],
)
def test_as_user_accepts_only_uuids(service: EnhancedDatabaseService, user_id: Any) -> None:
    """`as_user` raises InvalidInput for every value that is no UUID."""
    with pytest.raises(InvalidInput, match="user_id is"):
        service.as_user(user_id)


# -- raw SQL --------------------------------------------------------------------------------

# INSERT statements that write rows of another player.
INSERTS = {
    "portfolios": "INSERT INTO portfolios (id, user_id, session_date)"
    " VALUES (gen_random_uuid(), %(bob)s, '2020-01-01')",
    "positions": "INSERT INTO positions VALUES (%(bob)s, %(day)s, 'IBM', 1, 1)",
    "trades": "INSERT INTO trades (user_id, session_date, symbol, side, quantity, price)"
    " VALUES (%(bob)s, %(day)s, 'IBM', 'BUY', 1, 1)",
    "quests": "INSERT INTO quests (user_id, type, title, target_value) VALUES (%(bob)s, 'T', 'T', 1)",
    "users": "INSERT INTO users (username) VALUES ('mallory')",
    "leaderboard_entries": "INSERT INTO leaderboard_entries (user_id, session_date, category, score)"
    " VALUES (%(bob)s, %(day)s, 'c', 1)",
}
# Each statement must fail or change no row of another player.
ATTEMPTS = [
    *INSERTS.values(),
    *(f"DELETE FROM {table}" for table in OWN_ROWS),
    *(f"TRUNCATE {table} CASCADE" for table in OWN_ROWS),
    "UPDATE users SET name = 'stolen' WHERE id = %(bob)s",
    "UPDATE users SET id = %(bob)s",
    "UPDATE portfolios SET total_value = 0 WHERE user_id = %(bob)s",
    "UPDATE portfolios SET user_id = %(bob)s",
    "UPDATE quests SET status = 'COMPLETED' WHERE id = %(quest)s",
    "UPDATE quests SET user_id = %(bob)s",
    "UPDATE trades SET user_id = %(bob)s",
    "UPDATE usernames SET username = 'stolen'",
    "UPDATE leaderboard_entries SET score = 0",
    "WITH gone AS (DELETE FROM quests WHERE id = %(quest)s RETURNING *) SELECT * FROM gone",
    "INSERT INTO portfolios (user_id, session_date) VALUES (%(bob)s, %(day)s)"  # noqa: ISC004
    " ON CONFLICT (user_id, session_date) DO UPDATE SET total_value = 0",
    "SELECT leaderboard_set_score(gen_random_uuid(), %(bob)s, %(day)s, 'c', 0, '{}')",
    "SELECT * FROM users_search('u', 1000)",
    "SELECT * FROM audit_events",
    "SELECT * FROM pg_authid",
    "SET LOCAL row_security = off; SELECT * FROM users",
    "ALTER TABLE users DISABLE ROW LEVEL SECURITY",
    "DROP POLICY own_rows ON users",
    "CREATE TEMPORARY VIEW seen AS SELECT * FROM users; SELECT * FROM seen",
    "CREATE FUNCTION leak() RETURNS int LANGUAGE sql SECURITY DEFINER RETURN 1",
    "SET LOCAL ROLE postgres",
]  # fmt: skip  # one attempt a line


def run_as(service: EnhancedDatabaseService, user_id: UUID, statement: str, **values: Any) -> list[Any]:
    """Run a statement with the role and the user id of a player's view, and return its rows."""
    identity = Identity(role=PLAYER, user_id=user_id)
    with acting_as(identity), service._database.transaction_of("raw") as database:
        cursor = database.execute_sql(statement, values)
        return list(cursor.fetchall()) if cursor.description else []


def test_raw_statements_return_only_own_rows(
    direct: EnhancedDatabaseService, service: EnhancedDatabaseService, alice: Player, bob: Player
) -> None:
    """A SELECT that a player's role runs on any table returns only rows of the player."""
    view = direct.as_user(alice.user.id)
    for table, column in OWN_ROWS.items():
        assert run_as(direct, alice.user.id, f"SELECT DISTINCT {column} FROM {table}") == [(alice.user.id,)]
        assert (
            run_as(direct, alice.user.id, f"SELECT * FROM {table} WHERE {column} = %(bob)s", bob=bob.user.id)
            == []
        )
        assert view.get_profile() == alice.user
    assert bob.secret not in repr(run_as(direct, alice.user.id, "SELECT * FROM usernames"))
    leak = (
        "SELECT id FROM (SELECT id, length(username) AS n FROM users) AS u"
        " WHERE (CASE WHEN id = %(bob)s THEN 1 / (n - n) ELSE 1 END) = 1"
    )
    assert run_as(direct, alice.user.id, leak, bob=bob.user.id) == [(alice.user.id,)]


def test_raw_statements_change_no_rows_of_others(
    direct: EnhancedDatabaseService, alice: Player, bob: Player
) -> None:
    """A statement on another player's rows fails or changes none of them."""
    before = list_own(direct, bob)
    values = {"bob": bob.user.id, "quest": bob.quest.id, "day": TODAY}
    for statement in ATTEMPTS:
        try:
            found = run_as(direct, alice.user.id, statement, **values)
        except EchoMarketsError:
            found = []
        assert bob.secret not in repr(found), statement
        assert list_own(direct, bob) == before, statement
        assert direct.as_user(bob.user.id).get_profile() == bob.user, statement


def test_the_player_role_without_a_user_id_sees_no_rows(
    direct: EnhancedDatabaseService, alice: Player
) -> None:
    """With the player role but without a user id every table with rows of players is empty."""
    direct.as_user(alice.user.id).get_profile()
    for table in OWN_ROWS:
        with acting_as(Identity(role=PLAYER)), direct._database.session("raw") as database:
            assert database.execute_sql(f"SELECT count(*) FROM {table}").fetchone() == (0,)


# -- faults -----------------------------------------------------------------------------------

IDENTITY = "SELECT current_user::text, nullif(current_setting('app.user_id', true), '')"
FAULTS = {
    "error": "SELECT 1 / 0",
    "timeout": "SET LOCAL statement_timeout = 50; SELECT pg_sleep(30)",
    "cancelled": "SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(30)",
    "connection lost": "SELECT pg_terminate_backend(pg_backend_pid()), pg_sleep(30)",
    "refused": "DELETE FROM users",
    "session setting": "SELECT 1",
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("is_transaction", [False, True])
def test_a_fault_ends_the_identity_of_the_player(
    direct: EnhancedDatabaseService, alice: Player, bob: Player, fault: str, *, is_transaction: bool
) -> None:
    """After a fault the shared connection has the identity of the next caller, not of the failed one."""

    def check_identities() -> None:
        assert direct.as_user(alice.user.id).get_profile() == alice.user
        assert direct._database.read("look", lambda d: d.execute_sql(IDENTITY).fetchone()) == (APP, None)
        assert direct.as_user(bob.user.id).get_profile() == bob.user
        assert direct.get_user_by_id(alice.user.id) == alice.user

    def fail() -> None:
        database = direct._database
        block = database.transaction_of if is_transaction else database.session
        with acting_as(Identity(role=PLAYER, user_id=alice.user.id)), block("fail"):
            assert database.execute_sql(IDENTITY).fetchone() == (PLAYER, str(alice.user.id))
            database.execute_sql(FAULTS[fault])

    check_identities()
    if fault == "session setting":
        fail()
    else:
        with pytest.raises((DatabaseError, DatabaseUnavailable, QueryTimeout)):
            fail()
    check_identities()


def test_a_transaction_of_the_service_refuses_the_view(
    service: EnhancedDatabaseService, alice: Player
) -> None:
    """Calls of a view in a transaction of the service raise, because they would have the service's rights."""
    view = service.as_user(alice.user.id)
    view.get_profile()
    with service.transaction():
        for call in (view.get_profile, view.touch_last_active):
            with pytest.raises(TransactionMisused, match="identity"):
                call()
        service.update_user_profile(alice.user.id, name="kept")
    assert view.get_profile().name == "kept"


def test_an_error_of_another_role_is_not_cached(
    service: EnhancedDatabaseService, alice: Player, bob: Player
) -> None:
    """After a read failed for a role without rights, the service's read of the same key succeeds."""
    view_without_rights = PlayerView(service, bob.user.id, Identity(role="pg_monitor", user_id=bob.user.id))
    service.clear_user_cache(bob.user.id)
    with pytest.raises(DatabaseError):
        view_without_rights.get_portfolio(TODAY)
    assert service.get_portfolio(bob.user.id, TODAY).user_id == bob.user.id


# -- concurrent players -------------------------------------------------------------------------


def test_concurrent_players_see_only_their_own_rows(service: EnhancedDatabaseService) -> None:
    """Twenty threads that act for random players on four connections never see rows of another player."""
    service.insert_market_ticks([Tick("AAPL", NOW, ONE)])
    players = [add_player(service) for _ in range(8)]
    failures: list[BaseException] = []

    def play(seed: int) -> None:
        choose = random.Random(seed)
        try:
            for _ in range(ROUNDS):
                player = choose.choice(players)
                others = [other.secret for other in players if other is not player]
                play_round(service, choose, player, others)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=play, args=(seed,)) for seed in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failures
    assert service.pool_stats().pool_size <= POOL
    for player in players:
        assert service.get_user_by_id(player.user.id).name == player.secret


def play_round(
    service: EnhancedDatabaseService, choose: random.Random, player: Player, others: list[str]
) -> None:
    """Make a random call for a player, and check that the player's reads contain no secret of others."""
    view = service.as_user(player.user.id)
    action = choose.randrange(6)
    if action == 0:
        view.touch_last_active()
    elif action == 1:
        view.update_user_profile(name=player.secret, preferences={"n": choose.random()})
    elif action == 2:
        with pytest.raises(DatabaseError):
            run_as(service, player.user.id, "SELECT 1 / 0")
    elif action == 3:
        service.clear_user_cache(player.user.id)
        assert service.get_user_by_id(player.user.id).name == player.secret
    assert view.get_profile().name == player.secret
    own = [read for read in READS.values() if not read.is_public]
    answer = repr([read.of_view(view) for read in choose.sample(own, 3)])
    assert not any(secret in answer for secret in others)
    [(name,)] = run_as(service, player.user.id, "SELECT name FROM users")
    assert name == player.secret


# -- databases without the roles -----------------------------------------------------------------


def test_a_database_without_policies_has_no_view(postgres_server: PostgresServer) -> None:
    """If policies are missing, `as_user` raises PlayersNotIsolated, and migrating restores them."""
    with created_database(postgres_server) as url:
        give_to_roles(url)
        app = settings_as(APP, url, enable_redis_cache=False)
        with connected(url) as execute, open_service(app) as service:
            execute("DROP POLICY own_rows ON quests; ALTER TABLE trades NO FORCE ROW LEVEL SECURITY")
            with pytest.raises(PlayersNotIsolated, match="protects the rows of quests, trades;"):
                service.as_user(uuid4())
            execute("ALTER TABLE trades FORCE ROW LEVEL SECURITY")
            Migrator(app).up()
            assert service.as_user(uuid4()).get_user_quests() == ()


def test_a_database_with_one_role_has_no_view(database_url: str) -> None:
    """On a database without the roles `as_user` raises and names `echo-markets roles`; other calls work."""
    with open_service(Settings(database_url=SecretStr(database_url), enable_redis_cache=False)) as service:
        service.create_user(username="alice")
        with pytest.raises(PlayersNotIsolated, match="echo-markets roles"):
            service.as_user(uuid4())
