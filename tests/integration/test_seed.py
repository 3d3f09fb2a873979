"""Replaying imported days: what is in the database adds up, and is the same every time."""

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import SecretStr

from core import EnhancedDatabaseService, Settings, open_service
from core.errors import DatabaseUnavailable, InvalidInput, UserNotFound
from core.local.servers import PostgresServer
from core.simulation.history import load_history
from core.simulation.identifiers import hash_texts
from core.simulation.prices import import_prices
from core.simulation.replay import SeedResult, play_day, seed
from core.simulation.roster import player_ids
from core.simulation.strategies import draw_traits
from tests.conftest import Execute, connected, created_database
from tests.market_days import SHIPPED, import_days

FIRST_DAY = "2012-09-04"
PLAYERS = 40
SESSIONS = 30
NOW = datetime(2026, 1, 1, tzinfo=UTC)

# Everything that a seed writes, in an order of its own.
CONTENT = {
    "users": "SELECT * FROM users ORDER BY id",
    "portfolios": "SELECT * FROM portfolios ORDER BY id",
    "entries": "SELECT * FROM leaderboard_entries ORDER BY id",
    "quests": "SELECT * FROM quests ORDER BY id",
    "events": "SELECT * FROM market_events ORDER BY id",
}


def play(
    service: EnhancedDatabaseService,
    folder: Path,
    *,
    players: int = PLAYERS,
    sessions: int = SESSIONS,
    number: int = 1,
) -> SeedResult:
    """Import half a year and replay the end of it."""
    import_days(service, folder, FIRST_DAY)
    return seed(service, players=players, sessions=sessions, seed=number, now=NOW)


def content(execute: Execute) -> dict[str, list[tuple[object, ...]]]:
    """Return everything that a seed writes."""
    return {name: execute(statement) for name, statement in CONTENT.items()}


def test_a_seed_writes_what_it_says(
    service: EnhancedDatabaseService, execute: Execute, tmp_path: Path
) -> None:
    """One portfolio per player and session; the sessions are the last trading days."""
    result = play(service, tmp_path)
    assert (result.players, result.sessions, result.portfolios) == (PLAYERS, SESSIONS, PLAYERS * SESSIONS)
    assert (str(result.first_day), str(result.last_day)) == ("2013-01-17", "2013-03-01")
    rows = content(execute)
    counts = {name: len(found) for name, found in rows.items()}
    assert counts == {
        "users": PLAYERS,
        "portfolios": result.portfolios,
        "entries": result.leaderboard_entries,
        "quests": result.quests,
        "events": result.market_events,
    }
    assert result.changed == sum(counts.values()) - PLAYERS
    assert service.list_session_dates(limit=1) == (date(2013, 3, 1),)


def test_values_are_cash_plus_holdings_to_the_cent(
    service: EnhancedDatabaseService, execute: Execute, tmp_path: Path
) -> None:
    """Shares are recomputed; cash, value and change are recomputed from the ticks by PostgreSQL."""
    play(service, tmp_path)
    history, ids = load_history(service), player_ids(range(PLAYERS))
    traits, symbols = draw_traits(1, ids), hash_texts(history.symbols)
    for row in range(len(history.days) - SESSIONS, len(history.days), 7):
        shares = play_day(history, row, traits, symbols).shares
        execute("CREATE TEMPORARY TABLE held (user_id uuid, symbol text, shares bigint)")
        for place, user_id in enumerate(ids):
            for column, symbol in enumerate(history.symbols):
                count = int(shares[place, column])
                execute("INSERT INTO held VALUES (%s, %s, %s)", (str(user_id), symbol, count))
        wrong = execute(
            """
            SELECT p.user_id, p.current_cash, p.total_value, p.day_change, h.paid, h.worth
            FROM portfolios p
            JOIN (SELECT h.user_id, sum(round(h.shares * coalesce(t.open, 0), 2)) AS paid,
                         sum(round(h.shares * coalesce(t.price, 0), 2)) AS worth
                  FROM held h LEFT JOIN ticks t ON t.symbol = h.symbol AND t.timestamp::date = %(day)s
                  GROUP BY h.user_id) h ON h.user_id = p.user_id
            WHERE p.session_date = %(day)s AND NOT (
                p.current_cash = 10000 - h.paid AND p.current_cash >= 0
                AND p.total_value = p.current_cash + h.worth
                AND p.day_change = p.total_value - p.starting_cash
                AND p.day_change_percent = round(p.day_change / p.starting_cash * 100, 2))""",
            {"day": history.days[row]},
        )
        assert wrong == []
        assert shares.sum() > 0
        execute("DROP TABLE held")


def test_boards_follow_from_portfolios(
    service: EnhancedDatabaseService, execute: Execute, tmp_path: Path
) -> None:
    """Each score is its portfolio's, and each stored rank is what PostgreSQL ranks."""
    play(service, tmp_path)
    assert service.list_leaderboard_categories(date(2013, 3, 1)) == (
        "daily_returns",
        "quests_completed",
        "total_value",
    )
    wrong = execute("""
        SELECT e.* FROM leaderboard_entries e JOIN portfolios p USING (user_id, session_date)
        WHERE (e.category = 'daily_returns' AND e.score <> p.day_change_percent)
           OR (e.category = 'total_value' AND e.score <> p.total_value)
           OR (e.category = 'quests_completed' AND e.score < 1)""")
    assert wrong == []
    wrong = execute("""
        SELECT * FROM (SELECT rank, rank() OVER (PARTITION BY session_date, category ORDER BY score DESC)
                       AS expected FROM leaderboard_entries) AS ranked WHERE rank <> expected""")
    assert wrong == []
    (ties,) = execute("SELECT count(*) FROM leaderboard_entries WHERE category = 'total_value' AND rank = 1")
    assert ties[0] >= SESSIONS
    board = service.get_leaderboard("total_value", date(2013, 3, 1), 1000)
    assert [entry.rank for entry in board] == sorted(entry.rank for entry in board)


def test_quest_scores_count_completed_quests(
    service: EnhancedDatabaseService, execute: Execute, tmp_path: Path
) -> None:
    """The last score of a player is the number of completed rows; everyone has an active quest."""
    play(service, tmp_path)
    wrong = execute("""
        SELECT u.username, q.completed, e.score FROM users u
        LEFT JOIN (SELECT user_id, count(*) AS completed FROM quests WHERE status = 'COMPLETED'
                   GROUP BY user_id) q ON q.user_id = u.id
        LEFT JOIN leaderboard_entries e ON e.user_id = u.id AND e.category = 'quests_completed'
             AND e.session_date = '2013-03-01'
        WHERE coalesce(q.completed, 0) <> coalesce(e.score, 0)""")
    assert wrong == []
    wins = execute("""
        SELECT u.id FROM users u JOIN quests q ON q.user_id = u.id
        WHERE q.type = 'MILESTONE' AND q.status = 'ACTIVE' AND q.expires_at IS NULL
          AND q.current_progress = (SELECT count(*) FROM portfolios p
                                    WHERE p.user_id = u.id AND p.day_change > 0)""")
    assert len(wins) == PLAYERS
    (statuses,) = execute("SELECT array_agg(DISTINCT status ORDER BY status) FROM quests")
    assert statuses == (["ACTIVE", "COMPLETED", "EXPIRED"],)
    player = service.get_user_by_username("amber_badger")
    assert [quest.type for quest in service.get_user_active_quests(player.id)] == ["MILESTONE"]
    assert player.preferences["strategy"] in {"buy_and_hold", "momentum", "mean_reversion", "cash"}


def test_every_large_move_is_an_event(
    service: EnhancedDatabaseService, execute: Execute, tmp_path: Path
) -> None:
    """As PostgreSQL finds them among the ticks, within the replayed sessions."""
    import_days(service, tmp_path, FIRST_DAY)
    seed(service, players=1, now=NOW)
    expected = execute("""
        SELECT symbol, timestamp, round(abs(price / before - 1) * 100, 2) FROM (
            SELECT *, lag(price) OVER (PARTITION BY symbol ORDER BY timestamp) AS before FROM ticks) AS t
        WHERE abs(price / before - 1) > 0.05 ORDER BY 1, 2""")
    found = execute(
        "SELECT affected_symbols[1], created_at, impact_magnitude FROM market_events ORDER BY 1, 2"
    )
    assert found == expected
    assert len(found) > 5


def test_a_repeated_seed_changes_nothing(
    service: EnhancedDatabaseService, execute: Execute, tmp_path: Path
) -> None:
    """Not one row, nor one column; nor does a name that a player has chosen since."""
    play(service, tmp_path)
    service.update_user_profile(player_ids(range(1))[0], username="alice")
    rows = content(execute)
    result = seed(service, players=PLAYERS, sessions=SESSIONS, seed=1, now=NOW)
    assert (result.changed, result.removed) == (0, 0)
    assert result.quests == len(rows["quests"])
    assert content(execute) == rows


def test_a_repeated_seed_leaves_what_was_played_since(
    service: EnhancedDatabaseService, execute: Execute, tmp_path: Path
) -> None:
    """A milestone that a live session has completed stays completed."""
    play(service, tmp_path)
    for user_id in player_ids(range(PLAYERS)):
        (milestone,) = service.get_user_active_quests(user_id)
        service.update_quest_progress(milestone.id, milestone.target_value)
    rows = content(execute)
    assert seed(service, players=PLAYERS, sessions=SESSIONS, seed=1, now=NOW).changed == 0
    assert content(execute) == rows


def test_an_interrupted_seed_is_completed(
    service: EnhancedDatabaseService,
    execute: Execute,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Run again, it writes what is missing, and the result is that of one run."""

    def die(_: object) -> int:
        raise DatabaseUnavailable("the connection was cut")

    with monkeypatch.context() as patched:
        patched.setattr(service, "load_quests", die)
        with pytest.raises(DatabaseUnavailable):
            play(service, tmp_path)
    assert execute("SELECT count(*) FROM quests") == [(0,)]
    result = seed(service, players=PLAYERS, sessions=SESSIONS, seed=1, now=NOW)
    assert result.removed == 0
    rows = content(execute)
    assert len(rows["quests"]) == result.quests
    assert len(rows["portfolios"]) == result.portfolios
    assert seed(service, players=PLAYERS, sessions=SESSIONS, seed=1, now=NOW).changed == 0


def test_a_seed_is_the_same_in_every_database(
    service: EnhancedDatabaseService,
    execute: Execute,
    settings: Settings,
    postgres_server: PostgresServer,
    template_database: str,
    tmp_path: Path,
) -> None:
    """Ids, names and times included; only another seed number plays another game."""
    play(service, tmp_path)
    rows = content(execute)
    with created_database(postgres_server, template=template_database) as url:
        other = settings.model_copy(
            update={"database_url": SecretStr(url), "enable_redis_cache": False},
        )
        with open_service(other) as second, connected(url) as run:
            play(second, tmp_path)
            assert content(run) == rows
            assert play(second, tmp_path, number=2).removed == PLAYERS
            assert content(run)["portfolios"] != rows["portfolios"]


def test_other_numbers_replace_the_players(
    service: EnhancedDatabaseService, execute: Execute, tmp_path: Path
) -> None:
    """The result is that of a fresh database, whatever was seeded before."""
    play(service, tmp_path, players=10, sessions=12)
    expected = content(execute)
    seed(service, players=PLAYERS, sessions=SESSIONS, seed=3, now=NOW)
    assert execute("SELECT count(*) FROM users") == [(PLAYERS,)]
    result = seed(service, players=10, sessions=12, seed=1, now=NOW)
    assert result.removed == PLAYERS
    rows = content(execute)
    events = rows.pop("events")
    # those of other sessions stay: they follow from the prices, and are true all the same
    assert all(event in events for event in expected.pop("events"))
    assert rows == expected


def test_other_users_are_not_touched(
    service: EnhancedDatabaseService, execute: Execute, tmp_path: Path
) -> None:
    """A person who is called like a player keeps name, profile and portfolios."""
    person = service.create_user(username="amber_badger", email="amber@example.com")
    service.get_current_portfolio(person.id, date(2013, 3, 1))
    play(service, tmp_path)
    assert service.get_user_by_username("amber_badger") == person
    assert len(service.get_portfolio_history(person.id)) == 1
    assert service.get_user_by_username("amber_badger_0").id == player_ids(range(1))[0]
    play(service, tmp_path, players=5)
    assert service.get_user_by_id(person.id) == person
    with pytest.raises(UserNotFound):
        service.get_user_by_id(player_ids(range(6))[5])
    assert execute("SELECT count(*) FROM users") == [(6,)]


def test_live_days_are_not_replayed(service: EnhancedDatabaseService, tmp_path: Path) -> None:
    """A day with many ticks is no trading day."""
    import_days(service, tmp_path, FIRST_DAY)
    for second in range(3):
        service.insert_market_tick(
            "AAPL", Decimal(60), timestamp=datetime(2026, 1, 5, 12, 0, second, tzinfo=UTC)
        )
    assert seed(service, players=1, sessions=5, now=NOW).last_day == date(2013, 3, 1)


def test_a_day_on_which_nothing_moved_is_replayed(service: EnhancedDatabaseService, tmp_path: Path) -> None:
    """Its one tick is at the close, as that of any imported day."""
    path = tmp_path / "flat.csv"
    path.write_text("Symbol,Date,Open,High,Low,Close,Volume\nIBM,2013-03-04,7,7,7,7,0\n", encoding="utf-8")
    import_prices(service, path)
    assert seed(service, players=1, now=NOW).last_day == date(2013, 3, 4)


def test_more_sessions_than_days_are_all_days(service: EnhancedDatabaseService, tmp_path: Path) -> None:
    """A new symbol joins on its first day."""
    import_days(service, tmp_path, "2012-05-14", "2012-05-25")
    result = seed(service, players=20, sessions=1_000, now=NOW)
    assert (result.sessions, result.first_day) == (10, date(2012, 5, 14))


@pytest.mark.parametrize(
    "numbers",
    [
        {"players": 0},
        {"players": 100_001},
        {"players": True},
        {"players": 1, "sessions": 0},
        {"players": 1, "seed": -1},
    ],
)
def test_numbers_out_of_range_are_refused(
    service: EnhancedDatabaseService, execute: Execute, tmp_path: Path, numbers: dict[str, int]
) -> None:
    """Before anything is written."""
    import_days(service, tmp_path, "2013-02-25")
    with pytest.raises(InvalidInput, match="give a whole number from"):
        seed(service, **numbers)  # type: ignore[arg-type]  # no key is another parameter's
    assert execute("SELECT count(*) FROM users") == [(0,)]


def test_without_prices_the_next_step_is_named(service: EnhancedDatabaseService) -> None:
    """A newcomer may begin with the wrong command."""
    with pytest.raises(InvalidInput, match="run `echo-markets import-prices FILE` first"):
        seed(service, players=1)


@pytest.mark.slow
def test_a_whole_year_of_many_players_adds_up(service: EnhancedDatabaseService, execute: Execute) -> None:
    """200 players over the last 250 sessions of the shipped history."""
    import_prices(service, SHIPPED)
    result = seed(service, players=200, sessions=250, now=NOW)
    assert result.portfolios == 50_000
    assert execute("SELECT count(*) FROM portfolios WHERE day_change <> total_value - 10000") == [(0,)]
    completed = execute("SELECT count(*) FROM quests WHERE status = 'COMPLETED'")
    scores = execute(
        "SELECT sum(score)::bigint FROM leaderboard_entries"
        " WHERE category = 'quests_completed' AND session_date = '2013-03-01'"
    )
    assert completed == scores
