"""Tests of the service on a Citus cluster, which distributes the rows of its tables over several servers."""

import random
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from frozendict import frozendict

from core import EnhancedDatabaseService, Settings, open_service
from core.database.citus import DISTRIBUTED as TABLES
from core.errors import (
    InvalidInput,
    MigrationFailed,
    NotSupported,
    PlayersNotIsolated,
    SettingsError,
    UserNotFound,
)
from core.migration import Migrator
from core.queries.rows import DISTRIBUTED
from core.records import LeaderboardUpdate, User
from core.selftest import run_self_test
from tests.conftest import Execute, connected
from tests.integration.test_query_plans import HOT
from tests.matrix.answers import play
from tests.matrix.citus_cluster import created_citus_database, require_citus

NOW = datetime.now(UTC)
TODAY = NOW.date()
LEADERBOARD = "daily_returns"
# Queries of `HOT` that need rows of several shards, because they name no single player, session or symbol.
ON_ALL_SHARDS = {
    "batch update",
    "scores of players",
    "ranks of players",
    "user by username",
    "users by e-mail",
    "search",
    "users after one",
    "most active",
    "portfolios of a session",
    "session dates",
    "latest of all in a month",
    "days of a board",
    "returns of the market",
    "quests after one",
    "quest by id",
    "expiry",
    "trades around an event",
}
# Queries of `HOT` that need no shard: the audit log is on the coordinator, and gains are refused.
OF_NO_SHARD = {
    "actions of people after one",
    "changes by people after one",
    "changes of a row",
    "gains of a player",
}
# The calls that docs/citus.md lists as not possible.
REFUSED: dict[str, Callable[[EnhancedDatabaseService], object]] = {
    "get_session_summaries": lambda s: s.get_session_summaries(),
    "get_player_gains": lambda s: s.get_player_gains(uuid4(), TODAY, TODAY),
    "get_player_report": lambda s: s.get_player_report(),
    "list_silent_players": lambda s: s.list_silent_players(),
    "stream_silent_players": lambda s: list(s.stream_silent_players()),
    "get_quest_returns": lambda s: s.get_quest_returns(),
    "get_completion_times": lambda s: s.get_completion_times(),
    "find_event_effect": lambda s: s.find_event_effect(
        s.create_market_event(type="a", title="b").id, timedelta(hours=1)
    ),
}
# Results of `answers.play` that differ on Citus: refused calls, and calls that need recorded changes of rows.
OTHER_RESULTS = {
    "leaderboard: sessions", "gains", "player report", "silent", "all silent", "returns", "times", "effect",
    "audited profile", "audit changes", "all audit changes", "sealed",
}  # fmt: skip  # keep several names on a line


@pytest.fixture(scope="module")
def citus_settings() -> Iterator[Settings]:
    """Yield settings of a migrated database whose tables are distributed over every worker."""
    with created_citus_database(require_citus()) as settings:
        Migrator(settings).up()
        yield settings


@pytest.fixture(scope="module")
def service(citus_settings: Settings) -> Iterator[EnhancedDatabaseService]:
    """Yield a service on the Citus database, without a cache, so that every read runs a query."""
    with open_service(citus_settings) as service:
        yield service


@pytest.fixture
def execute(citus_settings: Settings) -> Iterator[Execute]:
    """Yield a function that runs SQL on the coordinator without the service."""
    with connected(citus_settings.database_url.get_secret_value()) as run:
        yield run


def test_results_are_those_of_a_plain_database(plain_results: dict[str, Any]) -> None:
    """Every call of `play` has the same result as on a plain server, except those in `OTHER_RESULTS`."""
    with created_citus_database(require_citus()) as settings:
        Migrator(settings).up()
        with open_service(settings) as service:
            found = play(service)
    assert found.keys() == plain_results.keys()
    different = {name for name in found if _drop_zeros(found[name]) != _drop_zeros(plain_results[name])}
    assert different == OTHER_RESULTS


def _drop_zeros(answer: object) -> str:
    """Return a result as text with 0 instead of 0.00: a sum of differences can be either."""
    return re.sub(r"Decimal\('0\.0+'\)", "Decimal('0')", repr(answer))


def test_migrating_again_changes_nothing(citus_settings: Settings, execute: Execute) -> None:
    """A second migration changes no table; each table is co-located with the table of its foreign key."""
    query = """SELECT c.relname, p.partmethod, p.colocationid FROM pg_dist_partition p
        JOIN pg_class c ON c.oid = p.logicalrelid WHERE NOT c.relispartition ORDER BY 1"""
    before = execute(query)
    assert Migrator(citus_settings).up() == []
    assert execute(query) == before
    groups = {name: group for name, kind, group in before if kind == "h"}
    assert groups.keys() == TABLES.keys()
    assert all(
        groups[name] == groups[table.colocate_with]
        for name, table in TABLES.items()
        if table.colocate_with in TABLES
    )
    assert {name for name, kind, _ in before if kind == "n"} == {"usernames", "market_events"}


@pytest.mark.parametrize("name", sorted(set(HOT) - ON_ALL_SHARDS - OF_NO_SHARD))
def test_a_frequent_query_is_one_task(execute: Execute, name: str) -> None:
    """Citus runs each frequent query on one shard, that of its player, session or symbol."""
    statement, parameters, _ = HOT[name]
    if isinstance(parameters, dict) and "symbols" in parameters:
        parameters = {**parameters, "symbols": ["S1"]}
    plan = execute(f"EXPLAIN {DISTRIBUTED.get(statement, statement)}", parameters)
    assert [line for (line,) in plan if "Task Count" in line] == ["  Task Count: 1"], plan


# -- shards of a call ---------------------------------------------------------------------

# Frequent calls, for a player: all statements of a call, also those inside functions, run on one shard.
FREQUENT_CALLS: dict[str, Callable[[EnhancedDatabaseService, UUID], object]] = {
    "get_user_by_id": lambda s, player: s.get_user_by_id(player),
    "touch_last_active": lambda s, player: s.touch_last_active(player),
    "get_current_portfolio": lambda s, player: s.get_current_portfolio(player, TODAY),
    "update_portfolio_value": lambda s, player: s.update_portfolio_value(
        player, TODAY, total_value=Decimal(9), day_change=Decimal(1)
    ),
    "get_portfolio_history": lambda s, player: s.get_portfolio_history(player),
    "list_positions": lambda s, player: s.list_positions([player], TODAY),
    "list_trades": lambda s, player: s.list_trades([player], TODAY),
    "get_user_active_quests": lambda s, player: s.get_user_active_quests(player),
    "get_user_quests": lambda s, player: s.get_user_quests(player),
    "create_quest": lambda s, player: s.create_quest(
        user_id=player, type="a", title="b", target_value=Decimal(1)
    ),
    "update_leaderboard_entry": lambda s, player: s.update_leaderboard_entry(
        player, LEADERBOARD, Decimal(5), TODAY
    ),
    "get_leaderboard": lambda s, _: s.get_leaderboard(LEADERBOARD, TODAY, 50),
    "a page": lambda s, _: s.get_leaderboard(LEADERBOARD, TODAY, 2, offset=3),
    "get_user_rank": lambda s, player: s.get_user_rank(player, LEADERBOARD, TODAY),
    "get_leaderboard_around": lambda s, player: s.get_leaderboard_around(
        player, LEADERBOARD, TODAY, radius=2
    ),
    "count_leaderboard": lambda s, _: s.count_leaderboard(LEADERBOARD, TODAY),
    "insert_market_tick": lambda s, _: s.insert_market_tick("AAPL", Decimal(3)),
    "get_latest_market_data": lambda s, _: s.get_latest_market_data(["AAPL"]),
    "get_price_history": lambda s, _: s.get_price_history("AAPL", NOW - timedelta(days=1), NOW, "1h"),
}
# Number of statements that used one shard, and of those that used several, in all sessions of the database.
SHARD_COUNTERS = """SELECT sum(query_execution_single_shard), sum(query_execution_multi_shard)
    FROM citus_stat_counters WHERE name = current_database()"""


@pytest.fixture(scope="module")
def player(service: EnhancedDatabaseService) -> UUID:
    """Return the id of one of nine players on a leaderboard of today."""
    users = [service.create_user(username=f"player-{n}") for n in range(9)]
    scores = [LeaderboardUpdate(user.id, Decimal(n)) for n, user in enumerate(users)]
    service.batch_update_leaderboard(LEADERBOARD, scores, TODAY)
    service.get_current_portfolio(users[4].id, TODAY)
    return users[4].id


@pytest.mark.parametrize("name", FREQUENT_CALLS)
def test_a_frequent_call_uses_one_shard(
    citus_settings: Settings, service: EnhancedDatabaseService, player: UUID, execute: Execute, name: str
) -> None:
    """The statements of a frequent call, including those inside functions, never use several shards."""
    execute(
        f"ALTER DATABASE {execute('SELECT current_database()')[0][0]} SET citus.enable_stat_counters = on"
    )
    with open_service(citus_settings) as counted:
        [(single_before, multi_before)] = execute(SHARD_COUNTERS)
        FREQUENT_CALLS[name](counted, player)
        [(single, multi)] = execute(SHARD_COUNTERS)
    assert (single > single_before, multi) == (True, multi_before)


# -- constraints that Citus cannot enforce with foreign keys and triggers -----------------


def test_usernames_are_unique(service: EnhancedDatabaseService) -> None:
    """Of eight threads that create the same username one succeeds; after a rename the username is free."""
    outcomes: list[UUID | None] = []

    def create() -> None:
        try:
            outcomes.append(service.create_user(username="wanted").id)
        except InvalidInput:
            outcomes.append(None)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    [winner] = filter(None, outcomes)
    assert service.update_user_profile(winner, username="renamed").username == "renamed"
    assert service.create_user(username="wanted").id != winner
    with pytest.raises(InvalidInput, match="taken"):
        service.update_user_profile(winner, username="wanted")
    assert service.get_user_by_username("renamed").id == winner


def test_a_user_is_deleted_from_every_shard(service: EnhancedDatabaseService, execute: Execute) -> None:
    """The portfolios, quests and leaderboard entries of a deleted user are gone, and the username is free."""
    user = service.create_user(username="leaving")
    service.get_current_portfolio(user.id, TODAY)
    service.create_quest(user_id=user.id, type="a", title="b", target_value=Decimal(1))
    days = [TODAY - timedelta(days=n) for n in range(6)]
    for day in days:
        service.update_leaderboard_entry(user.id, "leavers", Decimal(1), day)
    service.delete_user(user.id)
    for table in ("portfolios", "quests", "leaderboard_entries"):
        assert execute(f"SELECT count(*) FROM {table} WHERE user_id = %s", (str(user.id),)) == [(0,)], table
    assert [service.count_leaderboard("leavers", day) for day in days] == [0] * 6
    assert service.create_user(username="leaving").id != user.id


def test_a_score_of_an_unknown_user_is_refused(service: EnhancedDatabaseService) -> None:
    """A score for an unknown user raises `UserNotFound`; in a batch it updates nothing."""
    with pytest.raises(UserNotFound):
        service.update_leaderboard_entry(uuid4(), LEADERBOARD, Decimal(1), TODAY)
    result = service.batch_update_leaderboard(LEADERBOARD, [LeaderboardUpdate(uuid4(), Decimal(1))], TODAY)
    assert result.updated == 0


def test_counters_stay_exact_under_writers(service: EnhancedDatabaseService, execute: Execute) -> None:
    """After concurrent writes that split buckets of counters, every rank is the one that SQL computes."""
    users = service.load_users([_make_user(n) for n in range(1_500)])
    ids = list(users.values())

    def write(seed: int) -> None:
        chosen = random.Random(seed)
        for category in ("exact-a", "exact-b") * 3:
            scores = [LeaderboardUpdate(user_id, Decimal(chosen.randint(0, 300))) for user_id in ids]
            service.batch_update_leaderboard(category, scores, TODAY)
            for user_id in chosen.sample(ids, 20):
                service.update_leaderboard_entry(user_id, category, Decimal(chosen.randint(0, 300)), TODAY)

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    ranked = """SELECT user_id, rank() OVER (ORDER BY score DESC) FROM leaderboard_entries
        WHERE session_date = %s AND category = %s"""
    for category in ("exact-a", "exact-b"):
        [(buckets, entries)] = execute(
            "SELECT count(DISTINCT depth), sum(entries) FROM leaderboard_counters"
            " WHERE session_date = %s AND category = %s",
            (TODAY, category),
        )
        assert (buckets > 3, entries) == (True, len(ids))
        ranks = {str(user_id): rank for user_id, rank in execute(ranked, (TODAY, category))}
        for user_id in ids[::75]:
            assert service.get_user_rank(user_id, category, TODAY).rank == ranks[str(user_id)]


def test_a_loaded_quest_moves_to_another_player(service: EnhancedDatabaseService, player: UUID) -> None:
    """A quest that is loaded with another player leaves the list of its former player."""
    other = service.create_user(username="other").id
    quest = service.create_quest(user_id=player, type="a", title="moving", target_value=Decimal(1))
    assert service.load_quests([quest]) == 0
    assert service.load_quests([msgspec.structs.replace(quest, user_id=other)]) == 1
    assert quest.id not in {each.id for each in service.get_user_quests(player)}
    assert [each.id for each in service.get_user_quests(other)] == [quest.id]


def test_a_closed_session_has_ranks(service: EnhancedDatabaseService, player: UUID, execute: Execute) -> None:
    """After `close_session` every leaderboard entry of the session has a rank."""
    assert service.close_session(TODAY) > 0
    missing = "SELECT count(*) FROM leaderboard_entries WHERE session_date = %s AND rank IS NULL"
    assert execute(missing, (TODAY,)) == [(0,)]
    assert service.get_user_rank(player, LEADERBOARD, TODAY).rank > 0


def _make_user(number: int) -> User:
    return User(UUID(int=number + 1), f"many-{number}", None, None, None, frozendict(), NOW, NOW)


def test_the_self_test_passes(service: EnhancedDatabaseService) -> None:
    """The self-test passes, and skips only refused calls and calls that Citus does not support."""
    lines: list[str] = []
    assert run_self_test(service, report=lines.append), [line for line in lines if "FAIL" in line]
    skipped = {line.split()[1] for line in lines if line.startswith("skip")}
    assert skipped <= REFUSED.keys() | {"acting_as", "as_user", "list_audit_changes"}, skipped


# -- refusals -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.usefixtures("player")
def test_a_report_that_joins_shards_is_refused(service: EnhancedDatabaseService, name: str) -> None:
    """A report that joins rows of several shards is refused; the error names the call and docs/citus.md."""
    with pytest.raises(NotSupported, match=rf"{name} is not possible .* docs/citus\.md"):
        REFUSED[name](service)


def test_the_document_lists_the_refused_calls(repository: Path) -> None:
    """docs/citus.md lists exactly the refused calls."""
    text = (repository / "docs" / "citus.md").read_text(encoding="utf-8")
    [row] = [line for line in text.splitlines() if line.startswith("| reports of all players")]
    assert set(re.findall(r"`([a-z_]+)`", row)) == REFUSED.keys()


def test_changes_inside_acting_as_are_refused(service: EnhancedDatabaseService, player: UUID) -> None:
    """A change inside `acting_as` is refused, because Citus does not record who changes a row."""
    with service.acting_as("alice"), pytest.raises(NotSupported, match="do not record who changes a row"):
        service.update_user_profile(player, name="by alice")
    assert service.get_user_by_id(player).name is None
    with service.audited(actor="alice", action="close_session", target="today"):
        service.update_user_profile(player, name="audited")


def test_a_view_of_a_player_is_refused(service: EnhancedDatabaseService, player: UUID) -> None:
    """`as_user` is refused, because the workers do not know the player of a transaction."""
    with pytest.raises(PlayersNotIsolated, match="Citus"):
        service.as_user(player)


def test_replicas_are_refused(citus_settings: Settings) -> None:
    """Settings for Citus with DATABASE_REPLICA_URLS are refused."""
    url = citus_settings.database_url.get_secret_value()
    with pytest.raises(SettingsError, match="DATABASE_REPLICA_URLS"):
        Settings(database_url=url, database_replica_urls=url, database_topology="citus")  # type: ignore[arg-type]  # coerced


def test_migrations_check_the_topology(citus_settings: Settings, empty_database_url: str) -> None:
    """Distributed tables are neither migrated as plain tables nor reverted; Citus needs its extension."""
    plain = citus_settings.model_copy(update={"database_topology": "plain"})
    for migrate in (Migrator(plain).up, Migrator(citus_settings).down):
        with pytest.raises(MigrationFailed, match="DATABASE_TOPOLOGY=citus"):
            migrate()
    without = Settings(database_url=empty_database_url, database_topology="citus")  # type: ignore[arg-type]  # coerced
    with pytest.raises(MigrationFailed, match="no extension citus"):
        Migrator(without).up()
