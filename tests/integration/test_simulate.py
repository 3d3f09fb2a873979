"""The live market: its rows are consistent, also after restarts, outages and midnight."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from core import EnhancedDatabaseService, Settings
from core.errors import DatabaseUnavailable
from core.records import Quest, User
from core.simulation import simulator
from core.simulation.amounts import to_prices
from core.simulation.history import DailyPrices
from core.simulation.live_market import open_market
from core.simulation.replay import plan_seed
from core.simulation.simulator import Simulator
from core.testing import PostgresServer, ValkeyServer
from tests.conftest import Execute, administered
from tests.market_days import import_days
from tests.patience import stretch, wait_until
from tests.tick_recount import assert_ticks_add_up, recount_ticks

NOON = datetime(2026, 3, 3, 12, tzinfo=UTC)
TODAY = NOON.date()
LAST_SESSION = date(2013, 3, 1)
PLAYERS = 30
SHORT_INTERVAL_SECONDS = 2.0
LONG_INTERVAL_SECONDS = 6 * 3600.0  # a step of a quarter of a day moves every price visibly


class Clock:
    """A clock that only moves when it is set."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        """Return the time that was set."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Move the clock forward."""
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock(service: EnhancedDatabaseService) -> Clock:
    """Return the clock of the service and of the simulators."""
    clock = Clock()
    service._clock = clock
    return clock


@pytest.fixture
def game(service: EnhancedDatabaseService, clock: Clock, tmp_path: Path) -> EnhancedDatabaseService:
    """Return a service with half a year of prices and twenty seeded sessions of thirty players."""
    import_days(service, tmp_path, "2012-09-04")
    plan_seed(service, players=PLAYERS, sessions=20).run(now=clock())
    return service


def open_simulator(
    service: EnhancedDatabaseService,
    clock: Clock,
    *,
    interval_seconds: float = SHORT_INTERVAL_SECONDS,
    number: int = 1,
    audit_keep_months: int | None = None,
) -> Simulator:
    """Return a new simulator, as a new process creates it."""
    return Simulator(
        service,
        interval_seconds=interval_seconds,
        stop=threading.Event(),
        audit_keep_months=audit_keep_months,
        clock=clock,
        generator=np.random.Generator(np.random.PCG64(number)),
    )


def run_steps(simulator: Simulator, clock: Clock, steps: int) -> None:
    """Run steps one second apart."""
    for _ in range(steps):
        simulator.step()
        clock.advance(1)


def assert_portfolios_add_up(execute: Execute, day: date, players: int = PLAYERS) -> int:
    """Assert that a day's values, cash, positions and scores are consistent; return the number of players."""
    wrong = execute(
        """
        SELECT p.user_id, p.current_cash, p.total_value, h.paid, h.worth FROM portfolios p
        LEFT JOIN leaderboard_entries r ON r.user_id = p.user_id AND r.session_date = p.session_date
            AND r.category = 'daily_returns'
        LEFT JOIN leaderboard_entries v ON v.user_id = p.user_id AND v.session_date = p.session_date
            AND v.category = 'total_value'
        LEFT JOIN LATERAL (
            SELECT sum(round(quantity * average_price, 2)) AS paid, sum(round(quantity * price, 2)) AS worth
            FROM positions h CROSS JOIN LATERAL (
                SELECT price FROM ticks t WHERE t.symbol = h.symbol
                AND t.timestamp < (%(day)s::date + 1)::timestamptz ORDER BY t.timestamp DESC LIMIT 1) t
            WHERE h.user_id = p.user_id AND h.session_date = p.session_date
        ) h ON true
        WHERE p.session_date = %(day)s AND (p.day_change = p.total_value - p.starting_cash
            AND p.day_change_percent = r.score AND p.total_value = v.score
            AND p.current_cash = 10000 - coalesce(h.paid, 0) AND p.current_cash >= 0
            AND p.total_value = p.current_cash + coalesce(h.worth, 0)) IS NOT TRUE""",
        {"day": day},
    )
    assert wrong == []
    (count,) = execute("SELECT count(*) FROM portfolios WHERE session_date = %s", (day,))
    assert players / 3 < count[0] <= players
    return int(count[0])


def assert_quests_add_up(execute: Execute, day: date) -> None:
    """Assert that each score on the leaderboard is the number of the player's completed quests."""
    wrong = execute(
        """
        SELECT p.user_id, q.completed, e.score FROM portfolios p
        LEFT JOIN (SELECT user_id, count(*) AS completed FROM quests WHERE status = 'COMPLETED'
                   GROUP BY user_id) q ON q.user_id = p.user_id
        LEFT JOIN leaderboard_entries e ON e.user_id = p.user_id AND e.category = 'quests_completed'
             AND e.session_date = p.session_date
        WHERE p.session_date = %s AND coalesce(q.completed, 0) <> coalesce(e.score, 0)""",
        (day,),
    )
    assert wrong == []


def test_a_step_writes_prices_portfolios_and_leaderboards(
    game: EnhancedDatabaseService, clock: Clock, execute: Execute
) -> None:
    """Prices continue from the last close; today's portfolios, scores and quests are consistent."""
    before = {tick.symbol: tick for tick in game.get_latest_market_data()}
    run_steps(open_simulator(game, clock), clock, 3)
    ticks = game.get_latest_market_data()
    assert {tick.symbol for tick in ticks} == set(before)
    for tick in ticks:
        close = before[tick.symbol].price
        assert tick.timestamp == NOON + timedelta(seconds=2)
        assert abs(tick.price / close - 1) < Decimal("0.01")
        assert tick.bid is not None
        assert tick.ask is not None
        assert tick.bid < tick.price < tick.ask
        assert tick.volatility is not None
    assert_portfolios_add_up(execute, TODAY)
    assert_quests_add_up(execute, TODAY)
    assert execute("SELECT count(*) FROM ticks WHERE timestamp >= %s", (NOON,)) == [(15,)]


def test_live_ticks_have_change_and_volatility(
    game: EnhancedDatabaseService, clock: Clock, execute: Execute
) -> None:
    """Change and volatility of ticks equal a recount over midnights, a pause, a restart and a new symbol."""
    game.insert_market_tick("NEW", Decimal(50), timestamp=NOON - timedelta(hours=1))
    sim = open_simulator(game, clock, interval_seconds=3600)
    for pause_hours in (5, 5, 5, 8, 1, 1, 30, 2, 9):
        run_steps(sim, clock, 1)
        clock.advance(3600 * pause_hours - 1)
        sim = open_simulator(game, clock, interval_seconds=3600) if pause_hours == 8 else sim
    ticks = recount_ticks(execute)
    live_ticks = ticks[ticks["timestamp"] >= NOON.isoformat()]
    assert_ticks_add_up(live_ticks)
    assert live_ticks["change_24h"].isna().sum() == 4
    assert live_ticks[live_ticks["symbol"] == "NEW"]["volatility"].isna().all()
    known = live_ticks[live_ticks["symbol"] != "NEW"]
    assert (known["volatility"] > 0).all()
    first_day = known[known["timestamp"].dt.date == TODAY]
    assert first_day.groupby("symbol")["volatility"].nunique().min() == 3
    statistics = {found.symbol: found for found in game.get_price_statistics()}
    for tick in game.get_latest_market_data():
        found = statistics[tick.symbol]
        assert (found.price, found.timestamp, found.change_24h) == (
            tick.price, tick.timestamp, tick.change_24h,
        )  # fmt: skip  # keep the values on one line
        assert found.change_percent_24h == tick.change_percent_24h
        assert found.volatility == pytest.approx(tick.volatility, abs=Decimal("0.0001"))


def test_each_step_marks_one_player_as_active(
    game: EnhancedDatabaseService, clock: Clock, execute: Execute
) -> None:
    """Each step sets last_active of one more player."""
    sim = open_simulator(game, clock, interval_seconds=LONG_INTERVAL_SECONDS)
    for steps in (1, 2, 3):
        run_steps(sim, clock, 1)
        assert execute("SELECT count(*) FROM users WHERE last_active >= %s", (NOON,)) == [(steps,)]


def test_prices_have_the_volatility_of_the_history(game: EnhancedDatabaseService, clock: Clock) -> None:
    """Over a thousand days the volatility is within 10% of that of the imported days."""
    sim = open_simulator(game, clock, interval_seconds=86_400)
    session = sim._open(TODAY)
    market, generator = session.market, np.random.Generator(np.random.PCG64(5))
    expected = [sim._daily.calibrate(symbol).volatility for symbol in market.symbols]
    logs = [np.log(market._exact)]
    for _ in range(4_000):
        market.move(86_400 / 4, generator)
        logs.append(np.log(market._exact))
    found = np.diff(np.array(logs)[::4], axis=0).std(axis=0, ddof=1)
    assert found == pytest.approx(expected, rel=0.1)


def test_a_restart_keeps_the_positions(game: EnhancedDatabaseService, clock: Clock, execute: Execute) -> None:
    """After a restart shares, cash and opening prices are equal, and the values follow the new prices."""
    run_steps(open_simulator(game, clock, interval_seconds=LONG_INTERVAL_SECONDS), clock, 2)
    cash = execute(
        "SELECT user_id, current_cash FROM portfolios WHERE session_date = %s ORDER BY 1", (TODAY,)
    )
    values = execute("SELECT sum(total_value) FROM portfolios WHERE session_date = %s", (TODAY,))
    opens = {tick.symbol: tick.price - (tick.change_24h or 0) for tick in game.get_latest_market_data()}
    run_steps(open_simulator(game, clock, interval_seconds=LONG_INTERVAL_SECONDS, number=2), clock, 2)
    again = execute(
        "SELECT user_id, current_cash FROM portfolios WHERE session_date = %s ORDER BY 1", (TODAY,)
    )
    assert again == cash
    assert execute("SELECT sum(total_value) FROM portfolios WHERE session_date = %s", (TODAY,)) != values
    assert {t.symbol: t.price - (t.change_24h or 0) for t in game.get_latest_market_data()} == opens
    assert_portfolios_add_up(execute, TODAY)
    assert_quests_add_up(execute, TODAY)


def test_midnight_closes_a_session_and_opens_the_next(
    game: EnhancedDatabaseService, clock: Clock, execute: Execute
) -> None:
    """At midnight the final ranks are stored, and the new session opens at the last prices."""
    sim = open_simulator(game, clock, interval_seconds=LONG_INTERVAL_SECONDS)
    run_steps(sim, clock, 2)
    last = {tick.symbol: tick.price for tick in game.get_latest_market_data()}
    clock.now = datetime(2026, 3, 4, 0, 0, 1, tzinfo=UTC)
    run_steps(sim, clock, 1)
    tomorrow = clock.now.date()
    market = open_market(game, tomorrow, DailyPrices())
    assert to_prices(market.opens, market.price_units) == [last[symbol] for symbol in market.symbols]
    assert game.list_session_dates(limit=3) == (tomorrow, TODAY, LAST_SESSION)
    wrong = execute(
        """
        SELECT * FROM (SELECT rank, rank() OVER (PARTITION BY category ORDER BY score DESC) AS expected
                       FROM leaderboard_entries WHERE session_date = %s) AS ranked
        WHERE rank IS DISTINCT FROM expected""",
        (TODAY,),
    )
    assert wrong == []
    assert_portfolios_add_up(execute, tomorrow)
    assert_quests_add_up(execute, tomorrow)


def test_many_players_have_a_daily_quest(
    game: EnhancedDatabaseService, clock: Clock, execute: Execute
) -> None:
    """Over a third of the players have one daily quest and one milestone, also after a restart."""
    for _ in range(2):
        run_steps(open_simulator(game, clock), clock, 2)
    players = [
        user_id for (user_id,) in execute("SELECT user_id FROM portfolios WHERE session_date = %s", (TODAY,))
    ]
    daily = 0
    for user_id in players:
        quests = game.get_user_active_quests(user_id)
        ends = [quest.expires_at for quest in quests if quest.type != "MILESTONE"]
        assert ends in ([], [datetime(2026, 3, 4, tzinfo=UTC)])
        assert len(quests) == 1 + len(ends)
        daily += len(ends)
    assert len(players) / 3 < daily < len(players)


def test_daily_quests_are_completed_once(
    game: EnhancedDatabaseService, clock: Clock, execute: Execute
) -> None:
    """A daily quest is completed and counted once, also after restarts and further gains."""
    for number in range(1, 5):
        run_steps(
            open_simulator(game, clock, interval_seconds=LONG_INTERVAL_SECONDS, number=number), clock, 3
        )
        assert_quests_add_up(execute, TODAY)
    (row,) = execute(
        "SELECT count(*), count(DISTINCT user_id) FROM quests"
        " WHERE type LIKE 'DAILY%%' AND status = 'COMPLETED'"
    )
    assert row[0] == row[1] > 0
    is_wrong = "(status = 'COMPLETED') <> (completed_at IS NOT NULL)"
    assert execute(f"SELECT count(*) FROM quests WHERE {is_wrong}") == [(0,)]
    (daily,) = execute("SELECT count(*), count(DISTINCT user_id) FROM quests WHERE type LIKE 'DAILY%%'")
    assert daily[0] == daily[1] > row[0]


def test_a_kill_between_score_and_quest_counts_once(
    game: EnhancedDatabaseService,
    clock: Clock,
    execute: Execute,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If the process ends between score and quest, the next start completes the quest and counts it once."""

    def fail(*_: object) -> Quest:
        raise DatabaseUnavailable("the connection was cut")

    sim = open_simulator(game, clock, interval_seconds=LONG_INTERVAL_SECONDS, number=2)
    run_steps(sim, clock, 1)
    with monkeypatch.context() as patched:
        patched.setattr(game, "update_quest_progress", fail)
        with pytest.raises(DatabaseUnavailable):
            run_steps(sim, clock, 20)
    counted = execute(
        "SELECT count(*) FROM leaderboard_entries WHERE category = 'quests_completed' AND session_date = %s"
        " AND metadata -> 'completed' <> '{}'",
        (TODAY,),
    )
    assert counted[0][0] > 0
    run_steps(open_simulator(game, clock), clock, 1)
    assert_quests_add_up(execute, TODAY)


def test_milestones_count_live_sessions(
    game: EnhancedDatabaseService, clock: Clock, execute: Execute
) -> None:
    """A won session counts for the milestone at midnight; after a completed milestone the next is active."""
    execute(
        "UPDATE quests SET target_value = 1 + (SELECT count(*) FROM portfolios p WHERE p.day_change > 0"
        " AND p.user_id = quests.user_id) WHERE type = 'MILESTONE' AND status = 'ACTIVE'"
    )
    sim = open_simulator(game, clock, interval_seconds=LONG_INTERVAL_SECONDS, number=3)
    run_steps(sim, clock, 3)
    winners = execute("SELECT user_id FROM portfolios WHERE session_date = %s AND day_change > 0", (TODAY,))
    assert winners
    clock.advance(86_400)
    run_steps(sim, clock, 1)
    assert_quests_add_up(execute, clock.now.date())
    completed = execute(
        "SELECT user_id FROM quests WHERE type = 'MILESTONE' AND status = 'COMPLETED'"
        " AND target_value NOT IN (10, 25)"
    )
    assert set(completed) <= set(winners)
    for (user_id,) in winners:
        active = [q for q in game.get_user_active_quests(user_id) if q.type == "MILESTONE"]
        assert len(active) == 1
        wins = execute(
            "SELECT count(*) FROM portfolios WHERE user_id = %s AND day_change > 0", (str(user_id),)
        )
        assert active[0].current_progress <= wins[0][0]


def test_a_large_move_is_announced_once(
    game: EnhancedDatabaseService, clock: Clock, execute: Execute
) -> None:
    """Each symbol, direction and session has at most one event for a large move, also across restarts."""
    for number in range(1, 4):
        run_steps(
            open_simulator(game, clock, interval_seconds=LONG_INTERVAL_SECONDS, number=number), clock, 8
        )
    rows = execute(
        "SELECT affected_symbols[1], sentiment, count(*) FROM market_events"
        " WHERE created_at >= %s GROUP BY 1, 2",
        (NOON,),
    )
    assert rows
    assert {count for _, _, count in rows} == {1}


def test_a_large_move_is_announced_once_among_many_events(
    game: EnhancedDatabaseService, clock: Clock, execute: Execute
) -> None:
    """A restart finds the day's announced moves among 200 newer events and does not announce them again."""
    for number in range(1, 4):
        run_steps(
            open_simulator(game, clock, interval_seconds=LONG_INTERVAL_SECONDS, number=number), clock, 8
        )
    announced = "SELECT count(*) FROM market_events WHERE type = 'PRICE_MOVE' AND created_at >= %s"
    [(before,)] = execute(announced, (NOON,))
    for number in range(200):
        game.create_market_event(type="NEWS", title=f"News {number}")
    market = open_market(game, TODAY, DailyPrices())
    market.announce(game)
    assert before > 0
    assert execute(announced, (NOON,)) == [(before,)]


def test_only_players_with_a_strategy_trade(
    service: EnhancedDatabaseService, clock: Clock, alice: User, tmp_path: Path
) -> None:
    """A user without a strategy in the preferences does not trade."""
    import_days(service, tmp_path, "2012-09-04")
    bob = service.create_user(username="bob", preferences={"strategy": "buy_and_hold"})
    run_steps(open_simulator(service, clock), clock, 2)
    assert service.get_portfolio_history(alice.id) == ()
    assert [p.session_date for p in service.get_portfolio_history(bob.id)] == [TODAY]
    assert [entry.username for entry in service.get_leaderboard("total_value", TODAY)] == ["bob"]


def test_players_may_be_replaced_during_a_session(
    game: EnhancedDatabaseService, clock: Clock, execute: Execute
) -> None:
    """After another seed replaces the players in the middle of a session, the new players trade."""
    sim = open_simulator(game, clock, interval_seconds=LONG_INTERVAL_SECONDS)
    run_steps(sim, clock, 2)
    plan_seed(game, players=PLAYERS + 5, sessions=20, seed=2).run(now=clock())
    run_steps(sim, clock, 2)
    assert_portfolios_add_up(execute, TODAY, PLAYERS + 5)
    assert_quests_add_up(execute, TODAY)


def test_new_players_trade_after_the_next_upkeep(
    game: EnhancedDatabaseService, clock: Clock, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A player who is created while the market runs trades after the next upkeep, without a restart."""
    monkeypatch.setattr(simulator, "UPKEEP_SECONDS", 0)
    sim = open_simulator(game, clock)
    run_steps(sim, clock, 1)
    before = assert_portfolios_add_up(execute, TODAY)
    game.create_user(username="zoe", preferences={"strategy": "momentum"})
    run_steps(sim, clock, 2)
    assert assert_portfolios_add_up(execute, TODAY) == before + 1


def test_the_audit_log_is_sealed_and_old_months_dropped(
    game: EnhancedDatabaseService, clock: Clock, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each upkeep seals the audit log, and a new session drops months that are older than the limit."""
    monkeypatch.setattr(simulator, "UPKEEP_SECONDS", 0)
    execute("SELECT audit_create_month(date_trunc('month', now() - interval '100 days', 'UTC'))")
    execute("INSERT INTO audit_retention (keep_months) VALUES (1)")
    months = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'audit_events'::regclass"
    [(before,)] = execute(months)
    sim = open_simulator(game, clock, audit_keep_months=1)
    game.record_audit_event(actor="alice", action="sign_in", target="dashboard")
    run_steps(sim, clock, 1)
    result = game.verify_audit_log()
    assert (result.events, result.unsealed) == (1, 0)
    assert game.list_audit_changes() == ()
    assert execute(months) == [(before - 1,)]


def test_a_new_strategy_counts_from_the_next_session(
    game: EnhancedDatabaseService, clock: Clock, execute: Execute
) -> None:
    """A changed strategy changes no position until midnight, also after a restart."""
    run_steps(open_simulator(game, clock, interval_seconds=LONG_INTERVAL_SECONDS), clock, 1)
    held = execute("SELECT * FROM positions WHERE session_date = %s ORDER BY 1, 3", (TODAY,))
    for user in game.search_users("", limit=PLAYERS):
        game.update_user_profile(user.id, preferences={**user.preferences, "strategy": "cash"})
    run_steps(open_simulator(game, clock, interval_seconds=LONG_INTERVAL_SECONDS), clock, 2)
    assert execute("SELECT * FROM positions WHERE session_date = %s ORDER BY 1, 3", (TODAY,)) == held
    assert_portfolios_add_up(execute, TODAY)
    clock.now = datetime(2026, 3, 4, 0, 0, 1, tzinfo=UTC)
    run_steps(open_simulator(game, clock, interval_seconds=LONG_INTERVAL_SECONDS), clock, 1)
    assert execute("SELECT count(*) FROM positions WHERE session_date > %s", (TODAY,)) == [(0,)]


def test_the_same_players_take_part_after_a_restart(
    game: EnhancedDatabaseService, clock: Clock, execute: Execute
) -> None:
    """After a restart the same players take part; from day to day some stay away and some come back."""
    present = "SELECT user_id FROM portfolios WHERE session_date = %s ORDER BY 1"
    run_steps(open_simulator(game, clock), clock, 1)
    today = execute(present, (TODAY,))
    run_steps(open_simulator(game, clock), clock, 1)
    assert execute(present, (TODAY,)) == today
    missing, back = set[object](), set[object]()
    for _ in range(4):
        clock.advance(86_400)
        run_steps(open_simulator(game, clock), clock, 1)
        tomorrow = execute(present, (clock.now.date(),))
        missing |= set(today) - set(tomorrow)
        back |= set(tomorrow) - set(today)
        today = tomorrow
    assert missing
    assert back


def test_a_market_without_players_runs(
    service: EnhancedDatabaseService, clock: Clock, execute: Execute, tmp_path: Path
) -> None:
    """Without players the simulator writes ticks, also for a symbol that has only one price."""
    import_days(service, tmp_path, "2013-02-20")
    service.insert_market_tick("NEW", Decimal(12), timestamp=NOON - timedelta(minutes=1))
    run_steps(open_simulator(service, clock), clock, 2)
    assert execute("SELECT count(*) FROM ticks WHERE timestamp >= %s", (NOON,)) == [(12,)]


@pytest.fixture
def short_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses between retries."""
    monkeypatch.setattr(simulator, "FIRST_RETRY_SECONDS", 0.02)
    monkeypatch.setattr(simulator, "MAX_RETRY_SECONDS", 0.1)


class ThreadedSimulator(Simulator):
    """A simulator that runs in a thread and counts its steps."""

    def __init__(self, service: EnhancedDatabaseService, clock: Clock) -> None:
        self.stop = threading.Event()
        self.stepped = threading.Condition()
        self.steps = 0
        super().__init__(service, interval_seconds=0.02, stop=self.stop, clock=clock)
        self.thread = threading.Thread(target=self.run)

    def step(self) -> None:
        """Run a step and count it."""
        super().step()
        with self.stepped:
            self.steps += 1
            self.stepped.notify_all()

    def wait_for_steps(self, more: int) -> None:
        """Wait until `more` further steps have run."""
        with self.stepped:
            target = self.steps + more
            assert self.stepped.wait_for(lambda: self.steps >= target, timeout=20)


@pytest.fixture
def threaded(game: EnhancedDatabaseService, clock: Clock, short_retries: None) -> Iterator[ThreadedSimulator]:
    """Yield a simulator that runs in a thread, and stop it after the test."""
    threaded = ThreadedSimulator(game, clock)
    threaded.thread.start()
    yield threaded
    threaded.stop.set()
    threaded.thread.join(10)


def test_the_simulator_stops_within_a_second(threaded: ThreadedSimulator) -> None:
    """After its stop event is set, the simulator ends within a second."""
    threaded.wait_for_steps(1)
    started_at = time.monotonic()
    threaded.stop.set()
    threaded.thread.join(10)
    assert not threaded.thread.is_alive()
    assert time.monotonic() - started_at < stretch(1)


def test_an_outage_is_logged_once_and_survived(
    threaded: ThreadedSimulator,
    settings: Settings,
    postgres_server: PostgresServer,
    execute: Execute,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """While the database refuses all connections, one line is logged; afterwards the market continues."""
    caplog.set_level(logging.INFO, logger=simulator.__name__)
    threaded.wait_for_steps(2)
    name = settings.database_url.get_secret_value().rpartition("/")[2]
    with administered(postgres_server) as administer:
        administer(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        administer(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            f" WHERE datname = '{name}' AND application_name LIKE 'echo-markets%'"
        )
        wait_until(
            lambda: any("pauses" in record.message for record in caplog.records), "the market pauses", 20.0
        )
        threaded.stop.wait(0.3)  # long enough for several failed retries
        administer(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    threaded.wait_for_steps(2)
    messages = [record.message for record in caplog.records]
    assert sum("the live market pauses" in message for message in messages) == 1
    assert sum("the live market continues" in message for message in messages) == 1
    assert not any(record.exc_info for record in caplog.records)
    threaded.stop.set()
    threaded.thread.join(5)
    assert_portfolios_add_up(execute, TODAY)
    assert_quests_add_up(execute, TODAY)


def test_the_simulator_waits_for_prices(
    service: EnhancedDatabaseService,
    clock: Clock,
    short_retries: None,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    """Without prices the simulator logs the import command and waits; after the import it starts."""
    threaded = ThreadedSimulator(service, clock)
    threaded.thread.start()
    try:
        wait_until(lambda: bool(caplog.records), "the simulator has logged the import command", 20.0)
        assert "run `echo-markets import-prices FILE` first" in caplog.records[0].message
        import_days(service, tmp_path, "2013-02-20")
        threaded.wait_for_steps(1)
    finally:
        threaded.stop.set()
        threaded.thread.join(10)


@pytest.mark.slow
def test_the_command_ends_on_a_signal(
    game: EnhancedDatabaseService,
    settings: Settings,
    valkey_server: ValkeyServer,
    execute: Execute,
    repository: Path,
) -> None:
    """SIGTERM ends the command within 3 s, with exit status 0 and without an open connection."""
    environment = {
        **os.environ,
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "REDIS_URL": valkey_server.url,
        "REDIS_PASSWORD": valkey_server.password,
        "SIMULATOR_INTERVAL": "100",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "core.cli", "simulate"],
        env=environment,
        cwd=repository,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        begun_sessions = "SELECT count(*) > 0 FROM portfolios WHERE session_date > '2013-03-01'"
        wait_until(lambda: execute(begun_sessions) == [(True,)], "the live market has begun", 30.0)
        started_at = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=15)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert time.monotonic() - started_at < stretch(3)
    assert "Traceback" not in errors
    assert "the live market has stopped" in errors
    left = execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'echo-markets-simulator'")
    assert left == [(0,)]
