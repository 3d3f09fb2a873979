"""Tests of `play_missed_sessions`: it plays each missed session, always with the same rows."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from pydantic import SecretStr

from core import EnhancedDatabaseService, Settings, open_service
from core.errors import DatabaseUnavailable
from core.simulation.catch_up import MAX_DAYS, STEPS, play_missed_sessions
from core.simulation.replay import plan_seed
from core.testing import PostgresServer
from tests.conftest import Execute, connected, created_database
from tests.integration.test_seed import WRONG_PORTFOLIOS, WRONG_TRADES
from tests.market_days import import_days
from tests.tick_recount import assert_ticks_add_up, recount_ticks

PLAYERS = 30
LAST_SESSION = date(2013, 3, 1)
TODAY = LAST_SESSION + timedelta(days=6)
MISSED = [LAST_SESSION + timedelta(days=n) for n in range(1, 6)]
SYMBOLS = 5

CONTENT = {
    "users": "SELECT id, username, last_active, preferences, created_at FROM users ORDER BY id",
    "ticks": "SELECT * FROM ticks ORDER BY symbol, timestamp",
    "portfolios": "SELECT * FROM portfolios ORDER BY id",
    "positions": "SELECT * FROM positions ORDER BY user_id, session_date, symbol",
    "trades": "SELECT * FROM trades ORDER BY id",
    "entries": "SELECT * FROM leaderboard_entries ORDER BY id",
    "quests": "SELECT * FROM quests ORDER BY id",
    "events": "SELECT * FROM market_events ORDER BY id",
}
# A finished session is worth its positions at the last price of the day, so compare with that price.
WRONG_LIVE_PORTFOLIOS = WRONG_PORTFOLIOS.replace(
    "AND t.timestamp < (h.session_date + 1)::timestamptz",
    "AND t.timestamp = (SELECT max(timestamp) FROM ticks l WHERE l.symbol = h.symbol"
    " AND l.timestamp < (h.session_date + 1)::timestamptz)",
).replace("bool_and(h.average_price = t.open)", "true")


@pytest.fixture
def game(service: EnhancedDatabaseService, tmp_path: Path) -> EnhancedDatabaseService:
    """Return a service with a game whose last five sessions are missing."""
    play_history(service, tmp_path)
    return service


def play_history(service: EnhancedDatabaseService, folder: Path) -> None:
    """Import half a year of prices and play twenty sessions of thirty players."""
    import_days(service, folder, "2012-09-04")
    now = datetime.combine(TODAY, datetime.min.time(), UTC)
    service._clock = lambda: now
    plan_seed(service, players=PLAYERS, sessions=20).run(now=now)


def read_tables(execute: Execute) -> dict[str, list[tuple[object, ...]]]:
    """Return the rows of each table that a missed session writes."""
    return {name: execute(statement) for name, statement in CONTENT.items()}


def test_each_missed_day_is_played(game: EnhancedDatabaseService, execute: Execute) -> None:
    """Each day after the last session and before today gets prices, portfolios and right ranks."""
    assert play_missed_sessions(game, TODAY) == MISSED
    assert sorted(game.list_session_dates(limit=5)) == MISSED
    prices = execute(
        "SELECT timestamp::date, count(*) FROM ticks WHERE timestamp::date > %s GROUP BY 1 ORDER BY 1",
        (LAST_SESSION,),
    )
    assert prices == [(day, STEPS * SYMBOLS) for day in MISSED]
    ranks = execute(
        "SELECT * FROM (SELECT rank, rank() OVER (PARTITION BY session_date, category ORDER BY score DESC)"
        " AS expected FROM leaderboard_entries) AS ranked WHERE rank IS DISTINCT FROM expected"
    )
    assert ranks == []


def test_ticks_of_missed_sessions_are_consistent(game: EnhancedDatabaseService, execute: Execute) -> None:
    """The 24-hour change and the volatility of new ticks follow from all stored prices, old and new ones."""
    play_missed_sessions(game, TODAY)
    ticks = recount_ticks(execute)
    played = ticks[ticks["timestamp"].dt.date > LAST_SESSION]
    assert len(played) == len(MISSED) * STEPS * SYMBOLS
    assert_ticks_add_up(played)
    assert played.groupby([played["symbol"], played["timestamp"].dt.date])["volatility"].nunique().min() > 1


def test_values_of_missed_sessions_are_consistent(game: EnhancedDatabaseService, execute: Execute) -> None:
    """Portfolio values follow from positions and prices, and quest scores from the completed quests.

    A daily quest lasts one day, and ends as completed or expired.
    """
    play_missed_sessions(game, TODAY)
    assert execute(f"{WRONG_LIVE_PORTFOLIOS} AND p.session_date > %s", (LAST_SESSION,)) == []
    assert execute(WRONG_TRADES) == []
    wrong = execute("""
        SELECT e.user_id, e.score, q.completed FROM (
            SELECT user_id, max(session_date) AS session_date FROM portfolios GROUP BY 1) AS last
        LEFT JOIN leaderboard_entries e ON e.user_id = last.user_id AND e.session_date = last.session_date
             AND e.category = 'quests_completed'
        LEFT JOIN (SELECT user_id, count(*) AS completed FROM quests WHERE status = 'COMPLETED' GROUP BY 1) q
             ON q.user_id = last.user_id
        WHERE coalesce(e.score, 0) <> coalesce(q.completed, 0)""")
    assert wrong == []
    (statuses,) = execute(
        "SELECT array_agg(DISTINCT status ORDER BY status) FROM quests WHERE type LIKE 'DAILY%%'"
    )
    assert statuses == (["COMPLETED", "EXPIRED"],)
    late = execute(
        "SELECT count(*) FROM quests WHERE expires_at - created_at <> interval '1 day'"
        " AND type LIKE 'DAILY%%'"
    )
    assert late == [(0,)]


def test_missed_quests_are_completed_when_their_target_was_reached(
    game: EnhancedDatabaseService, execute: Execute
) -> None:
    """A daily quest is completed at the first price step at which the player reaches the target.

    The target is a gain on the starting cash, or a lead over the mean of all players.
    """
    play_missed_sessions(game, TODAY)
    values = execute(
        """
        SELECT p.user_id, p.session_date, t.timestamp,
            p.current_cash + coalesce(sum(round(h.quantity * t.price, 2)), 0)
        FROM portfolios p CROSS JOIN ticks t
        LEFT JOIN positions h ON h.user_id = p.user_id AND h.session_date = p.session_date
            AND h.symbol = t.symbol
        WHERE p.session_date > %s AND t.timestamp::date = p.session_date
        GROUP BY p.user_id, p.session_date, p.current_cash, t.timestamp ORDER BY t.timestamp""",
        (LAST_SESSION,),
    )
    value_of = {(user_id, moment): value for user_id, _, moment, value in values}
    members: dict[datetime, list[UUID]] = {}
    for user_id, _, moment, _ in values:
        members.setdefault(moment, []).append(user_id)
    quests = execute(
        "SELECT user_id, type, target_value, status, created_at, completed_at FROM quests"
        " WHERE type LIKE 'DAILY%%'"
    )
    checked = 0
    for user_id, kind, target, status, created_at, completed_at in quests:
        reached = []
        for moment in (moment for moment in members if moment.date() == created_at.date()):
            cents = [int(value_of[member, moment] * 100) for member in members[moment]]
            base = 1_000_000 if kind == "DAILY_GAIN" else sum(cents) // len(cents)
            if int(value_of[user_id, moment] * 100) - base >= target * 100:
                reached.append(moment)
        assert completed_at == min(reached, default=None)
        assert (status == "COMPLETED") == bool(reached)
        checked += bool(reached)
    assert checked > 3


def test_an_interrupted_run_gives_the_same_rows(
    game: EnhancedDatabaseService,
    execute: Execute,
    settings: Settings,
    postgres_server: PostgresServer,
    template_database: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """After an interruption at each table, the next run gives the same rows as one uninterrupted run."""

    def die(_: object) -> int:
        raise DatabaseUnavailable("the connection was cut")

    for call in ("load_portfolios", "load_quests", "load_leaderboard_entries"):
        with monkeypatch.context() as patched:
            patched.setattr(game, call, die)
            with pytest.raises(DatabaseUnavailable):
                play_missed_sessions(game, MISSED[1])
    assert play_missed_sessions(game, TODAY) == MISSED
    rows = read_tables(execute)
    assert play_missed_sessions(game, TODAY) == []
    assert read_tables(execute) == rows
    with created_database(postgres_server, template=template_database) as url:
        other = settings.model_copy(update={"database_url": SecretStr(url), "enable_redis_cache": False})
        with open_service(other) as second, connected(url) as run:
            play_history(second, tmp_path)
            assert play_missed_sessions(second, TODAY) == MISSED
            again = read_tables(run)
    for name, expected in rows.items():
        assert again[name] == expected, name


def test_a_long_gap_is_not_played(game: EnhancedDatabaseService, execute: Execute) -> None:
    """If the last session is more than `MOST_DAYS` ago, nothing is played: such a history is old data."""
    before = read_tables(execute)
    assert play_missed_sessions(game, LAST_SESSION + timedelta(days=MAX_DAYS + 2)) == []
    assert read_tables(execute) == before


def test_without_a_session_nothing_is_played(service: EnhancedDatabaseService, tmp_path: Path) -> None:
    """Without any session nothing is played, even if there are prices."""
    assert play_missed_sessions(service, TODAY) == []
    import_days(service, tmp_path, "2013-02-20")
    assert play_missed_sessions(service, TODAY) == []
