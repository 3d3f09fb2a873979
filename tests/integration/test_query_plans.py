"""Every hot query uses its index, on tables with 20,000 rows or more."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from core.migration import Migrator
from core.queries import (
    audit,
    events,
    leaderboard_reports,
    leaderboards,
    portfolios,
    quests,
    sessions,
    ticks,
    users,
)
from core.service.argument_checks import find_end_of_tomorrow
from core.settings import Settings
from core.testing import PostgresServer
from tests.conftest import Execute, connected, created_database
from tests.integration.plans import count_reads

FILL = """
    INSERT INTO users (id, username, name, email, email_index, last_active)
        SELECT ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, 'player' || n, 'Name ' || n,
               'v1.k.' || n, 'k.' || n, now() - n * interval '1 minute'
        FROM generate_series(1, 20000) n;
    INSERT INTO portfolios (user_id, session_date)
        SELECT id, '2026-03-02'::date - day FROM users, generate_series(0, 4) day;
    INSERT INTO positions (user_id, session_date, symbol, quantity, average_price)
        SELECT user_id, session_date, symbol, 1, 1
        FROM portfolios, unnest(ARRAY['S1', 'S2']) symbol WHERE session_date > '2026-03-01';
    INSERT INTO trades (user_id, session_date, symbol, side, quantity, price)
        SELECT user_id, session_date, symbol, 'BUY', quantity, average_price FROM positions;
    INSERT INTO leaderboard_entries (user_id, session_date, category, score)
        SELECT id, '2026-03-02'::date - day, category, (random() * 1000)::numeric(15, 2)
        FROM users, generate_series(0, 1) day, unnest(ARRAY['daily_returns', 'total_value']) category;
    SELECT leaderboard_fold(session_date, category, 50)
        FROM (SELECT DISTINCT session_date, category FROM leaderboard_entries) AS boards;
    INSERT INTO leaderboard_counters
        SELECT '2026-01-01'::date + n % 50, 'daily_returns', n, now(), gen_random_uuid(), 0
        FROM generate_series(1, 20000) n;
    INSERT INTO quests (user_id, type, title, target_value, status, expires_at)
        SELECT id, 'T', 'T', 1, CASE WHEN n = 0 THEN 'ACTIVE' ELSE 'COMPLETED' END,
               now() + n * interval '1 hour' FROM users, generate_series(0, 3) n;
    INSERT INTO ticks (symbol, timestamp, price)
        SELECT 'S' || s, '2026-01-01'::timestamptz + n * interval '1 minute', 1
        FROM generate_series(1, 20) s, generate_series(1, 5000) n;
    -- every partition, the default one included, has rows to scan
    INSERT INTO ticks (symbol, timestamp, price)
        SELECT 'S' || s, date_trunc('month', now()) + month * interval '1 month' + n * interval '1 minute', 1
        FROM generate_series(1, 20) s, generate_series(1, 500) n, generate_series(0, 4) month;
    INSERT INTO market_events (type, title, created_at)
        SELECT 'T', 'T', now() - n * interval '1 minute' FROM generate_series(1, 20000) n;
    INSERT INTO audit_events (actor, action, target, created_at)
        SELECT 'a', 'clear_cache', 't', now() - n * interval '1 minute' FROM generate_series(1, 20000) n;
    INSERT INTO audit_events (actor, action, target, row_key, created_at)
        SELECT 'a', 'update', 'users', id, now() - n * interval '1 minute'
        FROM users, generate_series(1, 20) n;
    INSERT INTO audit_events (actor, action, target, row_key, created_at)
        SELECT 'a', CASE n % 2 WHEN 0 THEN 'update' ELSE 'sign_in' END, 't',
               CASE n % 2 WHEN 0 THEN gen_random_uuid() END,
               date_trunc('month', now()) + month * interval '1 month' + n * interval '1 minute'
        FROM generate_series(1, 5000) n, generate_series(0, 4) month;
    ANALYZE"""

USER = "00000000-0000-7000-8000-000000000077"
DAY = "2026-03-02"
NOW = datetime(2026, 3, 2, tzinfo=UTC)
LATELY = datetime.now(UTC) - timedelta(days=1)
BEYOND = find_end_of_tomorrow(datetime.now(UTC))
MONTH = {"month": ticks.month_of(datetime.now(UTC)), "end": BEYOND}
# one portfolio can be found in two indexes: this regular expression matches both
PORTFOLIO_KEY = "portfolios(_user)?_session"
LEADERBOARD_KEY = {"day": DAY, "category": "daily_returns", "user_id": USER}

HOT: dict[str, tuple[str, Any, set[str]]] = {
    "user by id": (users.FIND_BY_ID, (USER,), {"users_pkey"}),
    "user by username": (users.FIND_BY_USERNAME, ("player77",), {"users_username"}),
    "users by e-mail": (users.FIND_BY_EMAIL, (["k.77"], 100), {"users_email_index"}),
    "users by id": (users.FIND_MANY, ([USER],), {"users_pkey"}),
    "search": (
        users.SEARCH,
        {"pattern": "player77%", "limit": 20},
        {"users_username_prefix", "users_name_prefix"},
    ),
    "users after one": (users.LIST, {"after": USER, "limit": 2000}, {"users_pkey"}),
    "most active": (users.MOST_ACTIVE, (100,), {"users_last_active"}),
    "portfolio": (portfolios.FIND, (USER, DAY), {PORTFOLIO_KEY}),
    "portfolios of a session": (
        portfolios.IN_SESSION,
        {"day": DAY, "after": USER, "limit": 2000},
        {"portfolios_session"},
    ),
    "history": (portfolios.HISTORY, (USER, DAY, 100), {"portfolios_user_session"}),
    "session dates": (
        sessions.DATES,
        {"before": DAY, "limit": 365},
        {"portfolios_session", "leaderboard_entries_board"},
    ),
    "update": (
        portfolios.UPDATE,
        {"user_id": USER, "session_date": DAY, "total_value": 1, "day_change": 0, "current_cash": None},
        {PORTFOLIO_KEY},
    ),
    "batch update": (
        portfolios.UPDATE_MANY,
        {"users": [USER], "days": [DAY], "totals": [1], "changes": [0], "cash": [None], "count": 1},
        {PORTFOLIO_KEY},
    ),
    "latest of some": (
        ticks.LATEST,
        {"symbols": ["S1", "S2"], "beyond": BEYOND},
        {r"ticks_\w+_symbol_timestamp_idx"},
    ),
    "latest of some in a month": (
        ticks.LATEST_IN_MONTH,
        {"symbols": ["S1", "S2"], **MONTH},
        {r"ticks_\w+_symbol_timestamp_idx"},
    ),
    "latest of all in a month": (ticks.LATEST_OF_ALL_IN_MONTH, MONTH, {r"ticks_\w+_symbol_timestamp_idx"}),
    "ticks of a range": (
        ticks.RANGE,
        {"symbol": "S1", "start": "-infinity", "end": BEYOND, "after": NOW, "limit": 2000},
        {r"ticks_\w+_symbol_timestamp_idx"},
    ),
    "candles": (
        ticks.CANDLES,
        {"symbol": "S1", "start": NOW - timedelta(days=60), "end": NOW, "bucket": timedelta(hours=1)},
        {r"ticks_\w+_symbol_timestamp_idx"},
    ),
    "board": (leaderboards.TOP, {**LEADERBOARD_KEY, "limit": 50}, {"leaderboard_entries_board"}),
    "board page": (
        leaderboards.PAGE,
        {**LEADERBOARD_KEY, "limit": 50, "offset": 500},
        {"leaderboard_entries_board", "leaderboard_entries_pkey", "leaderboard_counters_bucket"},
    ),
    "around": (
        leaderboards.AROUND,
        {**LEADERBOARD_KEY, "radius": 5},
        {"leaderboard_entries_board", "leaderboard_counters_bucket"},
    ),
    "categories": (leaderboards.LIST_CATEGORIES, {"day": DAY}, {"leaderboard_entries_board"}),
    "board size": (leaderboard_reports.COUNT, LEADERBOARD_KEY, {"leaderboard_counters_bucket"}),
    "worst of a board": (leaderboard_reports.WORST, LEADERBOARD_KEY, {"leaderboard_entries_board"}),
    "leaders of a board": (
        leaderboard_reports.LEADERS,
        {**LEADERBOARD_KEY, "score": 900},
        {"leaderboard_entries_board", "leaderboard_counters_bucket"},
    ),
    "distribution": (
        leaderboard_reports.BINS,
        {**LEADERBOARD_KEY, "edges": [0, 500, 1001]},
        {"leaderboard_entries_board", "leaderboard_counters_bucket"},
    ),
    "matches on a board": (
        leaderboard_reports.COUNT_MATCHES,
        {**LEADERBOARD_KEY, "pattern": "player77%"},
        {"users_username_prefix", "leaderboard_entries_user_board"},
    ),
    "days of a board": (
        leaderboard_reports.DATES,
        {**LEADERBOARD_KEY, "before": DAY, "limit": 12},
        {"leaderboard_counters_bucket"},
    ),
    "scores of players": (
        leaderboard_reports.SCORES,
        {**LEADERBOARD_KEY, "user_ids": [USER], "days": [DAY]},
        {"leaderboard_entries_user_board"},
    ),
    "ranks of players": (
        leaderboard_reports.RANKS,
        {**LEADERBOARD_KEY, "user_ids": [USER], "days": [DAY]},
        {"leaderboard_entries_user_board", "leaderboard_counters_bucket"},
    ),
    "entries after one": (
        leaderboard_reports.AFTER,
        {**LEADERBOARD_KEY, "limit": 500, "score": 500, "created_at": NOW, "id": USER},
        {"leaderboard_entries_board", "users_pkey"},
    ),
    "ranked entries after one": (
        leaderboard_reports.PAGE_AFTER,
        {**LEADERBOARD_KEY, "limit": 500, "score": 500, "created_at": NOW, "id": USER},
        {"leaderboard_entries_board", "leaderboard_counters_bucket", "users_pkey"},
    ),
    "returns of the market": (
        ticks.RETURNS,
        {"start": "2026-01-01", "end": "2026-01-31"},
        {r"ticks_\w+_symbol_timestamp_idx"},
    ),
    **{
        f"board by {order}, {'some' if 'pattern' in statement else 'all'}": (
            statement,
            {**LEADERBOARD_KEY, "limit": 25, "offset": 50, "pattern": "player77%"},
            {"leaderboard_counters_bucket", "leaderboard_entries_pkey"},
        )
        for statements in (leaderboard_reports.LIST, leaderboard_reports.LIST_MATCHES)
        for order, statement in statements.items()
    },
    "quests after one": (quests.LIST, {"after": USER, "limit": 2000}, {"quests_pkey"}),
    "quests of a player": (
        quests.OF_USER,
        {"user_id": USER, "after": NOW, "after_id": USER, "limit": 100},
        {"quests_user_created"},
    ),
    "actions of people after one": (
        audit.ACTIONS,
        {"after": LATELY, "after_id": USER, "limit": 100},
        {r"audit_events_\w+_created_at_id_idx", r"audit_events_\w+_start_id_idx"},
    ),
    "changes by people after one": (
        audit.CHANGES,
        {"after": LATELY, "after_id": USER, "limit": 100},
        {r"audit_events_\w+_pkey"},
    ),
    "changes of a row": (
        audit.CHANGES_OF_ROW,
        {"after": LATELY, "after_id": USER, "limit": 100, "row_key": USER},
        {r"audit_events_\w+_row_key_created_at_id_idx"},
    ),
    "positions": (portfolios.POSITIONS, ([USER], DAY), {"positions_pkey"}),
    "trades": (portfolios.TRADES, ([USER], DAY), {"trades_portfolio"}),
    "gains of a player": (
        portfolios.GAINS,
        {"user": USER, "start": "2026-02-26", "end": DAY},
        {PORTFOLIO_KEY, "trades_portfolio", "positions_pkey", r"ticks_\w+_symbol_timestamp_idx"},
    ),
    "completed quests": (quests.COUNT_COMPLETED, ([USER], [USER]), {"quests_user_created"}),
    "active quests": (quests.ACTIVE, {"user_id": USER, "now": NOW}, {"quests_active"}),
    "active quests of many": (
        quests.ACTIVE_OF_MANY,
        {"user_ids": [USER], "now": NOW},
        {"quests_active"},
    ),
    "expiry": (quests.EXPIRE, (NOW,), {"quests_expiring"}),
    "recent events": (events.RECENT, (BEYOND, 20), {"market_events_recent"}),
    "event by id": (events.FIND, (USER,), {"market_events_pkey"}),
    "quest by id": (quests.FIND, (USER,), {"quests_pkey"}),
    "sessions of a player": (portfolios.SESSIONS_OF_USER, (USER,), {PORTFOLIO_KEY}),
    "trades around an event": (
        events.WINDOWS,
        {"time": NOW, "width": timedelta(days=1)},
        {"trades_executed"},
    ),
}


# Statements that call a function, and the tables that the function reads: EXPLAIN does not show its plan.
FUNCTIONS: dict[str, tuple[str, Any, set[str]]] = {
    "rank": (leaderboards.RANK, LEADERBOARD_KEY, {"leaderboard_entries", "leaderboard_counters", "users"}),
    "search": (users.SEARCH_PLANNED, ("player77", 20), {"users"}),
    "score": (
        leaderboards.SET_SCORE,
        {**LEADERBOARD_KEY, "id": USER, "score": 5, "metadata": "{}"},
        {"leaderboard_entries", "leaderboard_counters", "users"},
    ),
}


@pytest.fixture(scope="module")
def filled(postgres_server: PostgresServer, template_database: str) -> Iterator[Execute]:
    """Yield SQL access to a database whose tables have 20,000 rows or more."""
    with (
        created_database(postgres_server, template=template_database) as url,
        connected(url) as execute,
    ):
        Migrator(Settings(database_url=url)).up()  # type: ignore[arg-type]  # coerced
        execute(FILL)
        yield execute


def explain(execute: Execute, statement: str, parameters: Any) -> str:
    """Return the plan of a statement as text. The statement is not executed."""
    return "\n".join(row[0] for row in execute(f"EXPLAIN {statement}", parameters or None))


@pytest.mark.parametrize("name", HOT)
def test_a_hot_query_uses_its_index(filled: Execute, name: str) -> None:
    """The plan names each expected index and has no sequential scan."""
    statement, parameters, indexes = HOT[name]
    plan = explain(filled, statement, parameters)
    for index in indexes:
        assert re.search(rf"\b{index}\b", plan), plan
    # the small table of symbols may be read by a sequential scan
    assert "Seq Scan" not in plan.replace("Seq Scan on symbols", ""), plan


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_uses_indexes(filled: Execute, name: str) -> None:
    """A function reads fewer than 2,000 index entries of each table and scans no table sequentially."""
    statement, parameters, tables = FUNCTIONS[name]
    for table in tables:
        reads = count_reads(filled, statement, parameters, table)
        assert reads.table_scans == 0, table
        assert 0 < reads.entries < 2_000, table


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_plan_for_empty_tables_uses_indexes(
    postgres_server: PostgresServer, template_database: str, name: str
) -> None:
    """A cached plan that was made while the tables were empty uses indexes on the filled tables."""
    statement, parameters, tables = FUNCTIONS[name]
    with (
        created_database(postgres_server, template=template_database) as url,
        connected(url) as execute,
        connected(url) as other,
    ):
        for _ in range(10):
            execute(statement, parameters)
        other("SET session_replication_role = replica")
        for part in FILL.split(";")[:5]:
            other(part)
        for table in tables - {"leaderboard_counters"}:
            reads = count_reads(execute, statement, parameters, table)
            assert reads.table_scans == 0, table
            assert 0 < reads.entries < 2_000, table


def test_a_missing_index_is_noticed(filled: Execute) -> None:
    """The check of a plan can fail: without the index, the plan does not name it."""
    filled("DROP INDEX quests_active")
    try:
        plan = explain(filled, quests.ACTIVE, {"user_id": USER, "now": NOW})
        assert "quests_active" not in plan
    finally:
        filled("CREATE INDEX quests_active ON quests (user_id, created_at) WHERE status = 'ACTIVE'")


def test_a_batch_update_uses_the_index(filled: Execute) -> None:
    """An update of 1,000 portfolios scans the index, without a hash join and without a sequential scan."""
    [ids] = filled("SELECT array_agg(id) FROM (SELECT id FROM users LIMIT 1000) u")[0:1]
    count = len(ids[0])
    parameters = {
        "users": ids[0],
        "days": [DAY] * count,
        "totals": [1] * count,
        "changes": [0] * count,
        "cash": [None] * count,
        "count": count,
    }
    filled(portfolios.PROBE_INDEX.replace("SET LOCAL", "SET"))
    plan = explain(filled, portfolios.UPDATE_MANY, parameters)
    filled("RESET ALL")
    assert "Index Scan using portfolios_user_session" in plan, plan
    assert "Hash Join" not in plan, plan
    assert "Seq Scan" not in plan, plan
