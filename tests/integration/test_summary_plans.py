"""The number of rows that statements of the report pages read, with 5,000 players and 100,000 ticks."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from core.queries import events, players, quest_reports, quests, sessions, ticks, users
from core.queries.rows import REPORT_MEMORY
from core.testing import PostgresServer
from tests.conftest import Execute, connected, created_database
from tests.integration.plans import count_rows_read, list_scans, vacuum

PLAYERS, SESSIONS = 5_000, 3
NO_FILTER: dict[str, Any] = dict.fromkeys(
    ("type", "sentiment", "symbol", "since", "until", "after", "after_id"), None
)
FILL = f"""
    INSERT INTO users (username, last_active)
        SELECT 'player' || n, now() - n * interval '1 minute' FROM generate_series(1, {PLAYERS}) n;
    INSERT INTO leaderboard_entries (user_id, session_date, category, score)
        SELECT id, '2026-03-02'::date - day, category, (random() * 1000)::numeric(15, 2)
        FROM users, generate_series(1, {SESSIONS}) day,
             unnest(ARRAY['daily_returns', 'quests_completed', 'total_value']) category;
    INSERT INTO quests (user_id, type, title, target_value, status, expires_at)
        SELECT id, 'T', 'T', 1, CASE WHEN n = 0 THEN 'ACTIVE' ELSE 'COMPLETED' END,
               now() + n * interval '1 hour' FROM users, generate_series(0, 3) n;
    INSERT INTO ticks (symbol, timestamp, price)
        SELECT 'S' || s, now() - n * interval '10 seconds', 1
        FROM generate_series(1, 5) s, generate_series(1, 20000) n;
    INSERT INTO market_events (type, title, created_at)
        SELECT CASE WHEN n = 1 THEN 'RARE' ELSE 'T' END, 'T', now() - n * interval '1 minute'
        FROM generate_series(1, 20000) n"""


@pytest.fixture(scope="module")
def filled(postgres_server: PostgresServer, template_database: str) -> Iterator[Execute]:
    """Yield SQL access to a database with 5,000 players, 20,000 quests and events, and 100,000 ticks."""
    with created_database(postgres_server, template=template_database) as url, connected(url) as execute:
        execute(FILL)
        vacuum(execute)
        yield execute


def test_a_sparkline_reads_one_tick_a_point(filled: Execute) -> None:
    """Sparklines of 24 points for five symbols read 120 of 100,000 ticks."""
    parameters = {
        "points": 24,
        "step": timedelta(hours=1),
        "beyond": ticks.month_after(datetime.now(UTC)),
    }
    assert count_rows_read(filled, ticks.SPARKLINES_OF_ALL, parameters, "ticks") == 5 * 24


def test_a_rare_type_reads_few_events(filled: Execute) -> None:
    """A filter by a rare type reads at most 2 events, and the list of types at most 5."""
    parameters = {**NO_FILTER, "type": "RARE", "limit": 50}
    assert count_rows_read(filled, events.FILTERED, parameters, "market_events") <= 2
    assert count_rows_read(filled, events.TYPES, None, "market_events") <= 5


def test_a_page_of_events_reads_only_its_rows(filled: Execute) -> None:
    """A page of 50 events in the middle of the table reads at most 51 events."""
    [(time, event)] = filled(
        "SELECT created_at, id FROM market_events ORDER BY created_at OFFSET 9999 LIMIT 1"
    )
    parameters = {**NO_FILTER, "limit": 50, "after": time, "after_id": event}
    assert count_rows_read(filled, events.FILTERED, parameters, "market_events") <= 51


def test_a_session_summary_reads_half_a_leaderboard(filled: Execute) -> None:
    """The summary of a session reads half of one leaderboard, for the median."""
    days = [day for (day,) in filled(sessions.DATES_WITH_ENTRIES, {"limit": 1, "before": "9999-01-01"})]
    parameters = {"days": days, "returns": "daily_returns"}
    read = count_rows_read(filled, sessions.SUMMARIES, parameters, "leaderboard_entries")
    assert read <= PLAYERS * 0.5 + 10


def test_session_dates_read_one_entry_a_session(filled: Execute) -> None:
    """The list of session dates reads one leaderboard entry of each session."""
    read = count_rows_read(
        filled, sessions.DATES_WITH_ENTRIES, {"limit": 14, "before": "9999-01-01"}, "leaderboard_entries"
    )
    assert read <= SESSIONS + 1


def test_active_players_are_counted_in_an_index(filled: Execute) -> None:
    """Active players are counted by an index-only scan of the table users."""
    since = datetime.now(UTC) - timedelta(hours=1)
    assert list_scans(filled, users.ACTIVE_SINCE, (since,)) == {("Index Only Scan", "users")}


def test_quests_of_a_player_read_only_their_rows(filled: Execute) -> None:
    """The quests of a player read four rows of 20,000."""
    [(user,)] = filled("SELECT id FROM users LIMIT 1")
    parameters = {"user_id": user, "after": None, "after_id": None, "limit": 100}
    assert count_rows_read(filled, quests.OF_USER, parameters, "quests") == 4


def test_expiring_quests_are_found_by_their_end(filled: Execute) -> None:
    """The query reads no quest that has ended, and none that ends after the requested time."""
    now = datetime.now(UTC)
    parameters = {
        "now": now - timedelta(hours=1),
        "until": now - timedelta(minutes=59),
        "limit": 20,
        "type": None,
    }
    assert count_rows_read(filled, quests.EXPIRING, parameters, "quests") == 0


def test_statistics_read_one_tick_a_day(filled: Execute) -> None:
    """Statistics read at most five ticks a symbol: one for each of four days, and one of 24 hours before."""
    parameters = {**ticks.STATISTICS_WALK, "beyond": ticks.month_after(datetime.now(UTC))}
    assert count_rows_read(filled, ticks.STATISTICS, parameters, "ticks") <= 5 * (4 + 1)


def test_a_price_at_a_time_reads_one_tick(filled: Execute) -> None:
    """Prices at 30 times read 30 ticks, however many earlier ticks there are."""
    hours = range(1, 31)
    parameters = {
        "symbols": ["S1", "S2"] * 15,
        "times": [datetime.now(UTC) - timedelta(hours=hour) for hour in hours],
        "beyond": ticks.month_after(datetime.now(UTC)),
    }
    assert count_rows_read(filled, ticks.PRICES_AT, parameters, "ticks") == len(hours)


def test_times_to_complete_read_only_the_window(filled: Execute) -> None:
    """Times to complete read only the quests that were completed in the window."""
    filled(
        "UPDATE quests SET completed_at = now() + n * interval '1 minute'"
        " FROM (SELECT id, row_number() OVER () AS n FROM quests WHERE status = 'COMPLETED') AS done"
        " WHERE quests.id = done.id"
    )
    filled("ANALYZE quests")
    [(since, until)] = filled("SELECT now() + interval '101 minutes', now() + interval '150 minutes'")
    parameters = {"since": since, "until": until, "type": None, "limit": 20}
    assert count_rows_read(filled, quest_reports.TIMES, parameters, "quests") <= 50


def test_returns_read_the_portfolios_of_the_compared_players(filled: Execute) -> None:
    """A comparison of 50 players reads their portfolios and no others."""
    filled(
        "INSERT INTO portfolios (user_id, session_date)"
        " SELECT id, '2026-03-02'::date + day FROM users, generate_series(0, 19) day"
    )
    vacuum(filled)
    parameters = {"since": datetime(2026, 1, 1, tzinfo=UTC).date(), "days": 7, "players": 50}
    parameters["until"] = datetime(2026, 6, 1, tzinfo=UTC).date()
    assert count_rows_read(filled, quest_reports.RETURNS, parameters, "portfolios") <= 50 * 20


def build_silent_parameters() -> dict[str, Any]:
    """Return the parameters of the first page of players who were last seen before yesterday."""
    today = datetime.now(UTC).date()
    return {
        **dict.fromkeys(("joined", "prefix", "last_active", "username", "id")),
        "today": today,
        "until": today - timedelta(days=1),
        "now": datetime.now(UTC),
        "category": "daily_returns",
        "sessions": 0,
        "limit": 50,
        "is_after": False,
    }


@pytest.mark.parametrize("order", players.ORDERS)
def test_a_page_of_silent_players_reads_few_rows(filled: Execute, order: str) -> None:
    """A page of 50 silent players reads 51 users; in order of username also users seen in the last 2 days."""
    seen = 2 * 24 * 60 if order == "username" else 0
    assert count_rows_read(filled, players.SILENT[order], build_silent_parameters(), "users") <= 51 + seen


@pytest.mark.parametrize("order", ["last_active", "-last_active"])
def test_a_page_reads_users_who_were_never_seen(filled: Execute, order: str) -> None:
    """With 1,000 users who were never seen, a page reads these users and 51 others, not all 5,000."""
    unknown = 1_000
    filled("BEGIN")
    try:
        filled(
            "UPDATE users SET last_active = NULL"
            " WHERE id IN (SELECT id FROM users ORDER BY last_active DESC LIMIT %s)",
            (unknown,),
        )
        filled("ANALYZE users")
        assert (
            count_rows_read(filled, players.SILENT[order], build_silent_parameters(), "users") <= 51 + unknown
        )
    finally:
        filled("ROLLBACK")
        vacuum(filled)


FIRST_DAY = datetime(2026, 3, 2, tzinfo=UTC).date()
PLAYED_DAYS = 20


@pytest.fixture(scope="module")
def played(postgres_server: PostgresServer, template_database: str) -> Iterator[Execute]:
    """Yield SQL access to a database in which every player played and traded on twenty days."""
    with created_database(postgres_server, template=template_database) as url, connected(url) as execute:
        execute(FILL)
        execute(
            "INSERT INTO portfolios (user_id, session_date)"
            " SELECT id, %s::date + day FROM users, generate_series(0, %s) day",
            (FIRST_DAY, PLAYED_DAYS - 1),
        )
        execute(
            "INSERT INTO trades (user_id, session_date, symbol, side, quantity, price)"
            " SELECT user_id, session_date, 'S1', 'BUY', 1, 1 FROM portfolios"
        )
        vacuum(execute)
        yield execute


def test_the_player_report_reads_each_row_once(played: Execute) -> None:
    """The report on all players reads each portfolio and each user once."""
    today = FIRST_DAY + timedelta(days=PLAYED_DAYS - 1)
    statement = players.build_report_statement(players.MAX_WEEKS, today.weekday())
    parameters = {"today": today, "held": (1 << PLAYED_DAYS) - 1}
    played("BEGIN")
    try:
        played(REPORT_MEMORY + players.PLAN)
        assert count_rows_read(played, statement, parameters, "portfolios") == PLAYERS * PLAYED_DAYS
        assert count_rows_read(played, statement, parameters, "users") == PLAYERS
    finally:
        played("ROLLBACK")


def test_the_player_report_reads_few_earlier_sessions(played: Execute) -> None:
    """The report reads no session before its weeks, except one of each player who may be new."""
    today = FIRST_DAY + timedelta(days=players.DAYS_REPORTED + PLAYED_DAYS // 2 - 1)
    statement = players.build_report_statement(players.MAX_WEEKS, today.weekday())
    parameters = {"today": today, "held": 1}
    assert count_rows_read(played, statement, parameters, "portfolios") == PLAYERS * PLAYED_DAYS // 2
    played("BEGIN")
    try:
        played("UPDATE users SET created_at = %s", (FIRST_DAY,))
        played(
            "DELETE FROM portfolios WHERE session_date BETWEEN %s AND %s",
            (today - timedelta(days=players.DAYS_REPORTED - 1), today),
        )
        played(
            "INSERT INTO portfolios (user_id, session_date)"
            " SELECT id, %s FROM users ORDER BY username LIMIT 7",
            (today,),
        )
        assert count_rows_read(played, statement, parameters, "portfolios") == 7 + 7
    finally:
        played("ROLLBACK")


def test_today_reads_only_its_portfolios_and_trades(played: Execute) -> None:
    """The figures of today read each portfolio and trade of today once, and each user once."""
    today = FIRST_DAY + timedelta(days=PLAYED_DAYS - 1)
    parameters = {"days": [today], "first": today, "last": today}
    assert count_rows_read(played, players.DAYS, parameters, "portfolios") == PLAYERS
    assert count_rows_read(played, players.DAYS, parameters, "trades") == PLAYERS
    assert count_rows_read(played, players.DAYS, parameters, "users") == PLAYERS
    assert ("Index Only Scan", "trades") in list_scans(played, players.DAYS, parameters)


def test_days_read_each_row_once(played: Execute) -> None:
    """The figures of ten days read each portfolio, trade and user at most once."""
    last = FIRST_DAY + timedelta(days=PLAYED_DAYS // 2 - 1)
    days = [FIRST_DAY + timedelta(days=day) for day in range(PLAYED_DAYS // 2)]
    parameters = {"days": days, "first": FIRST_DAY, "last": last}
    assert count_rows_read(played, players.DAYS, parameters, "portfolios") <= PLAYERS * PLAYED_DAYS
    assert count_rows_read(played, players.DAYS, parameters, "trades") <= PLAYERS * PLAYED_DAYS
    assert count_rows_read(played, players.DAYS, parameters, "users") == PLAYERS


@pytest.mark.parametrize("prefix", ["", "player"])
def test_silent_players_are_counted_up_to_a_limit(played: Execute, prefix: str) -> None:
    """With a limit of 50, counting reads at most 50 users and 50 portfolios."""
    filters = players.SilentFilters(30, 0, None, prefix)
    statement = players.COUNT_MATCHES if prefix else players.COUNT
    parameters = players._build_parameters(filters, datetime.now(UTC) + timedelta(days=40))
    limited = statement.replace(f"LIMIT {players.MATCHES_COUNTED}", "LIMIT 50")
    assert limited != statement
    assert count_rows_read(played, limited, parameters, "users") <= 50
    assert count_rows_read(played, limited, parameters, "portfolios") <= 50
    assert count_rows_read(played, statement, parameters, "users") <= PLAYERS
