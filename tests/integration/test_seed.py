"""Seeding from imported prices: the rows are consistent and the same in every run."""

from datetime import UTC, date, datetime, time
from decimal import Decimal
from itertools import accumulate
from pathlib import Path

import pytest
from pydantic import SecretStr

from core import EnhancedDatabaseService, Settings, open_service
from core.errors import DatabaseUnavailable, InvalidInput, UserNotFound
from core.simulation.players import player_ids
from core.simulation.replay import SeedResult, plan_seed
from core.testing import PostgresServer
from tests.conftest import Execute, connected, created_database
from tests.market_days import SHIPPED, import_days
from tests.price_files import import_prices

FIRST_DAY = "2012-09-04"
PLAYERS = 40
SESSIONS = 30
NOW = datetime(2026, 1, 1, tzinfo=UTC)

# Every table that a seed writes, with a fixed order of rows.
SEEDED_TABLES = {
    "users": "SELECT * FROM users ORDER BY id",
    "portfolios": "SELECT * FROM portfolios ORDER BY id",
    "positions": "SELECT * FROM positions ORDER BY user_id, session_date, symbol",
    "trades": "SELECT * FROM trades ORDER BY id",
    "entries": "SELECT * FROM leaderboard_entries ORDER BY id",
    "quests": "SELECT * FROM quests ORDER BY id",
    "events": "SELECT * FROM market_events ORDER BY id",
}


def import_and_seed(
    service: EnhancedDatabaseService,
    folder: Path,
    *,
    players: int = PLAYERS,
    sessions: int = SESSIONS,
    number: int = 1,
) -> SeedResult:
    """Import half a year of prices and seed its last sessions."""
    import_days(service, folder, FIRST_DAY)
    return plan_seed(service, players=players, sessions=sessions, seed=number).run(now=NOW)


def read_seeded_rows(execute: Execute) -> dict[str, list[tuple[object, ...]]]:
    """Return all rows of the tables that a seed writes."""
    return {name: execute(statement) for name, statement in SEEDED_TABLES.items()}


def test_a_seed_writes_what_it_reports(
    service: EnhancedDatabaseService, execute: Execute, tmp_path: Path
) -> None:
    """The result of a seed has the number of rows of each table; its last day is that of the last prices."""
    result = import_and_seed(service, tmp_path)
    assert (result.players, result.sessions) == (PLAYERS, SESSIONS)
    assert PLAYERS * SESSIONS / 4 < result.portfolios < PLAYERS * SESSIONS * 3 / 4
    assert (str(result.first_day), str(result.last_day)) == ("2013-01-17", "2013-03-01")
    rows = read_seeded_rows(execute)
    counts = {name: len(found) for name, found in rows.items()}
    assert counts == {
        "users": PLAYERS,
        "portfolios": result.portfolios,
        "positions": result.positions,
        "trades": result.positions,
        "entries": result.leaderboard_entries,
        "quests": result.quests,
        "events": result.market_events,
    }
    assert result.changed == sum(counts.values()) - PLAYERS
    assert service.list_session_dates(limit=1) == (date(2013, 3, 1),)


# Portfolios that differ from PostgreSQL's own arithmetic over positions and ticks.
WRONG_PORTFOLIOS = """
    SELECT p.user_id, p.session_date, p.current_cash, p.total_value, h.paid, h.worth
    FROM portfolios p
    LEFT JOIN LATERAL (
        SELECT sum(round(h.quantity * h.average_price, 2)) AS paid,
               sum(round(h.quantity * t.price, 2)) AS worth,
               bool_and(h.average_price = t.open) AS is_open
        FROM positions h
        LEFT JOIN ticks t ON t.symbol = h.symbol AND t.timestamp >= h.session_date::timestamptz
            AND t.timestamp < (h.session_date + 1)::timestamptz
        WHERE h.user_id = p.user_id AND h.session_date = p.session_date
    ) h ON true
    WHERE NOT (
        p.current_cash = 10000 - coalesce(h.paid, 0) AND p.current_cash >= 0
        AND p.total_value = p.current_cash + coalesce(h.worth, 0) AND coalesce(h.is_open, true)
        AND p.day_change = p.total_value - p.starting_cash
        AND p.day_change_percent = round(p.day_change / p.starting_cash * 100, 2))"""
# Positions that differ from the sum of their trades.
WRONG_TRADES = """
    SELECT user_id, session_date, symbol, h.quantity, t.bought
    FROM positions h FULL JOIN (
        SELECT user_id, session_date, symbol,
               sum(CASE side WHEN 'BUY' THEN quantity ELSE -quantity END) AS bought,
               min(price) AS price
        FROM trades GROUP BY 1, 2, 3
    ) t USING (user_id, session_date, symbol)
    WHERE h.quantity IS DISTINCT FROM t.bought OR h.average_price IS DISTINCT FROM t.price"""


def test_portfolios_are_exact_to_the_cent(
    service: EnhancedDatabaseService, execute: Execute, tmp_path: Path
) -> None:
    """Cash, value and change of every portfolio follow from its positions and the day's ticks."""
    result = import_and_seed(service, tmp_path)
    assert execute(WRONG_PORTFOLIOS) == []
    assert execute(WRONG_TRADES) == []
    assert result.positions > result.portfolios
    # the check can fail: it finds one share too many
    execute("UPDATE positions SET quantity = quantity + 1 WHERE ctid = (SELECT min(ctid) FROM positions)")
    assert len(execute(WRONG_PORTFOLIOS)) == len(execute(WRONG_TRADES)) == 1


def test_players_join_late_and_miss_sessions(
    service: EnhancedDatabaseService, execute: Execute, tmp_path: Path
) -> None:
    """Some players join late or miss sessions; created_at and last_active are the first and last session."""
    import_and_seed(service, tmp_path)
    assert execute(
        "SELECT count(*) FROM users u WHERE created_at::date <> (SELECT min(session_date) FROM portfolios p"
        " WHERE p.user_id = u.id) OR last_active::date <> (SELECT max(session_date) FROM portfolios p"
        " WHERE p.user_id = u.id)"
    ) == [(0,)]
    (joined,) = execute("SELECT count(DISTINCT created_at::date), min(created_at)::date FROM users")
    assert joined[0] > SESSIONS / 3
    assert str(joined[1]) == "2013-01-17"
    gaps = execute("""
        SELECT count(*) FROM (
            SELECT rank - lag(rank) OVER (PARTITION BY user_id ORDER BY rank) AS step
            FROM (SELECT user_id, dense_rank() OVER (ORDER BY session_date) AS rank FROM portfolios) AS r
        ) AS steps WHERE step > 1""")
    assert gaps[0][0] > PLAYERS / 4


def test_leaderboards_follow_from_portfolios(
    service: EnhancedDatabaseService, execute: Execute, tmp_path: Path
) -> None:
    """Each score is that of the portfolio, and each stored rank equals the rank that PostgreSQL computes."""
    import_and_seed(service, tmp_path)
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
    assert execute(
        "SELECT count(*) FROM portfolios p WHERE 2 <> (SELECT count(*) FROM leaderboard_entries e"
        " WHERE e.user_id = p.user_id AND e.session_date = p.session_date"
        " AND e.category IN ('daily_returns', 'total_value'))"
    ) == [(0,)]
    leaderboard = service.get_leaderboard("total_value", date(2013, 3, 1), 1000)
    assert [entry.rank for entry in leaderboard] == sorted(entry.rank for entry in leaderboard)


def test_quest_scores_count_completed_quests(
    service: EnhancedDatabaseService, execute: Execute, tmp_path: Path
) -> None:
    """A player's last score is the number of completed quests, and each player has an active milestone."""
    import_and_seed(service, tmp_path)
    wrong = execute("""
        SELECT u.username, q.completed, e.score FROM users u
        LEFT JOIN (SELECT user_id, count(*) AS completed FROM quests WHERE status = 'COMPLETED'
                   GROUP BY user_id) q ON q.user_id = u.id
        LEFT JOIN LATERAL (SELECT score FROM leaderboard_entries WHERE user_id = u.id
            AND category = 'quests_completed' ORDER BY session_date DESC LIMIT 1) e ON true
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


def test_quests_are_completed_at_the_close(
    service: EnhancedDatabaseService, execute: Execute, tmp_path: Path
) -> None:
    """completed_at is the close of the session in which the player's portfolios reach the quest's target."""
    import_and_seed(service, tmp_path)
    portfolios = execute("""
        SELECT user_id, session_date, day_change, total_value > avg(total_value) OVER (
            PARTITION BY session_date) FROM portfolios ORDER BY session_date""")
    quests = execute(
        "SELECT user_id, type, target_value, status, created_at, expires_at, completed_at FROM quests"
    )
    seen = set()
    for user_id, kind, target, status, created_at, expires_at, completed_at in quests:
        of_user = [row[1:] for row in portfolios if row[0] == user_id]
        if kind != "MILESTONE":
            of_user = [row for row in of_user if created_at.date() <= row[0] < expires_at.date()]
        counts = {
            "BIG_GAIN": [change for _, change, _ in of_user],
            "BEAT_THE_AVERAGE": list(accumulate(int(is_ahead) for _, _, is_ahead in of_user)),
        }.get(kind, list(accumulate(int(change > 0) for _, change, _ in of_user)))
        days = [row[0] for row, count in zip(of_user, counts, strict=True) if count >= target]
        expected = datetime.combine(days[0], time(21), UTC) if days else None
        assert completed_at == expected
        assert (status == "COMPLETED") == bool(days)
        seen.add((kind, bool(days)))
    assert {("BIG_GAIN", True), ("BEAT_THE_AVERAGE", True), ("WINNING_SESSIONS", True)} <= seen


def test_every_large_move_is_an_event(
    service: EnhancedDatabaseService, execute: Execute, tmp_path: Path
) -> None:
    """The events are the price changes above 5% that PostgreSQL finds among the ticks."""
    import_days(service, tmp_path, FIRST_DAY)
    plan_seed(service, players=1).run(now=NOW)
    expected = execute("""
        SELECT symbol, timestamp, round((price / before - 1) * 100, 2) FROM (
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
    """A second seed changes no row and keeps a username that the player has changed."""
    import_and_seed(service, tmp_path)
    service.update_user_profile(player_ids(range(1))[0], username="alice")
    rows = read_seeded_rows(execute)
    result = plan_seed(service, players=PLAYERS, sessions=SESSIONS, seed=1).run(now=NOW)
    assert (result.changed, result.removed) == (0, 0)
    assert result.quests == len(rows["quests"])
    assert read_seeded_rows(execute) == rows


def test_a_repeated_seed_keeps_completed_quests(
    service: EnhancedDatabaseService, execute: Execute, tmp_path: Path
) -> None:
    """A milestone that was completed after the first seed is still completed after a second seed."""
    import_and_seed(service, tmp_path)
    for user_id in player_ids(range(PLAYERS)):
        (milestone,) = service.get_user_active_quests(user_id)
        service.update_quest_progress(milestone.id, milestone.target_value)
    rows = read_seeded_rows(execute)
    assert plan_seed(service, players=PLAYERS, sessions=SESSIONS, seed=1).run(now=NOW).changed == 0
    assert read_seeded_rows(execute) == rows


def test_an_interrupted_seed_is_completed(
    service: EnhancedDatabaseService,
    execute: Execute,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """After an interrupted seed, the next one writes the missing rows, and a third one changes nothing."""

    def fail(_: object) -> int:
        raise DatabaseUnavailable("the connection was cut")

    with monkeypatch.context() as patched:
        patched.setattr(service, "load_quests", fail)
        with pytest.raises(DatabaseUnavailable):
            import_and_seed(service, tmp_path)
    assert execute("SELECT count(*) FROM quests") == [(0,)]
    result = plan_seed(service, players=PLAYERS, sessions=SESSIONS, seed=1).run(now=NOW)
    assert result.removed == 0
    rows = read_seeded_rows(execute)
    assert len(rows["quests"]) == result.quests
    assert len(rows["portfolios"]) == result.portfolios
    assert plan_seed(service, players=PLAYERS, sessions=SESSIONS, seed=1).run(now=NOW).changed == 0


def test_a_seed_is_the_same_in_every_database(
    service: EnhancedDatabaseService,
    execute: Execute,
    settings: Settings,
    postgres_server: PostgresServer,
    template_database: str,
    tmp_path: Path,
) -> None:
    """Equal seeds give equal rows in two databases, ids and times included; another seed gives other rows."""
    import_and_seed(service, tmp_path)
    rows = read_seeded_rows(execute)
    with created_database(postgres_server, template=template_database) as url:
        other = settings.model_copy(
            update={"database_url": SecretStr(url), "enable_redis_cache": False},
        )
        with open_service(other) as second, connected(url) as run:
            import_and_seed(second, tmp_path)
            assert read_seeded_rows(run) == rows
            assert import_and_seed(second, tmp_path, number=2).removed == PLAYERS
            assert read_seeded_rows(run)["portfolios"] != rows["portfolios"]


def test_other_numbers_replace_the_players(
    service: EnhancedDatabaseService, execute: Execute, tmp_path: Path
) -> None:
    """A seed with other numbers of players and sessions gives the same rows as in a fresh database."""
    import_and_seed(service, tmp_path, players=10, sessions=12)
    expected = read_seeded_rows(execute)
    plan_seed(service, players=PLAYERS, sessions=SESSIONS, seed=3).run(now=NOW)
    assert execute("SELECT count(*) FROM users") == [(PLAYERS,)]
    result = plan_seed(service, players=10, sessions=12, seed=1).run(now=NOW)
    assert result.removed == PLAYERS
    rows = read_seeded_rows(execute)
    events = rows.pop("events")
    # events of other sessions stay: they follow from the prices, so they are correct
    assert all(event in events for event in expected.pop("events"))
    assert rows == expected


def test_real_players_are_not_changed(
    service: EnhancedDatabaseService, execute: Execute, tmp_path: Path
) -> None:
    """A real player with a simulated player's username keeps username, profile and portfolios."""
    person = service.create_user(username="amber_badger", email="amber@example.com")
    service.get_current_portfolio(person.id, date(2013, 3, 1))
    import_and_seed(service, tmp_path)
    assert service.get_user_by_username("amber_badger") == person
    assert len(service.get_portfolio_history(person.id)) == 1
    assert service.get_user_by_username("amber_badger_0").id == player_ids(range(1))[0]
    import_and_seed(service, tmp_path, players=5)
    assert service.get_user_by_id(person.id) == person
    with pytest.raises(UserNotFound):
        service.get_user_by_id(player_ids(range(6))[5])
    assert execute("SELECT count(*) FROM users") == [(6,)]


def test_live_days_are_not_replayed(service: EnhancedDatabaseService, tmp_path: Path) -> None:
    """A day with several ticks of a symbol is a live day and is not replayed."""
    import_days(service, tmp_path, FIRST_DAY)
    for second in range(3):
        service.insert_market_tick(
            "AAPL", Decimal(60), timestamp=datetime(2026, 1, 5, 12, 0, second, tzinfo=UTC)
        )
    assert plan_seed(service, players=1, sessions=5).run(now=NOW).last_day == date(2013, 3, 1)


def test_a_day_of_constant_prices_is_replayed(service: EnhancedDatabaseService, tmp_path: Path) -> None:
    """A day with constant prices has one tick, at the close, so it is an imported day and is replayed."""
    path = tmp_path / "flat.csv"
    path.write_text("Symbol,Date,Open,High,Low,Close,Volume\nIBM,2013-03-04,7,7,7,7,0\n", encoding="utf-8")
    import_prices(service, path)
    assert plan_seed(service, players=1).run(now=NOW).last_day == date(2013, 3, 4)


def test_more_sessions_than_days_replay_all_days(service: EnhancedDatabaseService, tmp_path: Path) -> None:
    """If more sessions are requested than days are imported, all ten days are replayed."""
    import_days(service, tmp_path, "2012-05-14", "2012-05-25")
    result = plan_seed(service, players=20, sessions=1_000).run(now=NOW)
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
    """Invalid numbers raise an error before any user is written."""
    import_days(service, tmp_path, "2013-02-25")
    with pytest.raises(InvalidInput, match="give a whole number from"):
        plan_seed(service, **numbers).run()
    assert execute("SELECT count(*) FROM users") == [(0,)]


def test_a_seed_without_prices_names_the_import(service: EnhancedDatabaseService) -> None:
    """Without prices, the error names the command that imports them."""
    with pytest.raises(InvalidInput, match="run `echo-markets import-prices FILE` first"):
        plan_seed(service, players=1).run()


@pytest.mark.slow
def test_a_whole_year_of_many_players_adds_up(service: EnhancedDatabaseService, execute: Execute) -> None:
    """200 players over 250 sessions have consistent portfolios, trades and quest scores."""
    import_prices(service, SHIPPED)
    result = plan_seed(service, players=200, sessions=250).run(now=NOW)
    assert 15_000 < result.portfolios < 40_000
    assert execute(WRONG_PORTFOLIOS) == execute(WRONG_TRADES) == []
    completed = execute(
        "SELECT user_id, count(*) FROM quests WHERE status = 'COMPLETED' GROUP BY 1 ORDER BY 1"
    )
    scores = execute(
        "SELECT user_id, max(score)::bigint FROM leaderboard_entries"
        " WHERE category = 'quests_completed' GROUP BY 1 ORDER BY 1"
    )
    assert completed == scores
