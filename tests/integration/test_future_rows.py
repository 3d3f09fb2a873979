"""Rows dated after tomorrow: writes refuse them, and lists and pages leave out rows of older releases."""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from core import EnhancedDatabaseService, Settings
from core.errors import InvalidInput
from core.records import DAILY_RETURNS, LeaderboardUpdate, PortfolioUpdate, Tick, User
from dashboard import data, runtime
from dashboard.formats import format_day
from dashboard.navigation import SCRIPTS
from tests.conftest import Execute
from tests.game import SESSIONS, play_game
from tests.integration.pages import OVERVIEW, open_page, read_text

pytestmark = pytest.mark.usefixtures("released_pages")

LEADERBOARDS = SCRIPTS["leaderboards"]
ONE = Decimal(1)
FAR = date(9999, 12, 31)
FAR_TIME = datetime(9999, 12, 31, tzinfo=UTC)


@pytest.fixture
def with_future_rows(service: EnhancedDatabaseService, execute: Execute) -> EnhancedDatabaseService:
    """Return a service on a game with rows of the year 9999 and ten later sessions with portfolios only."""
    play_game(service)
    execute("INSERT INTO portfolios (user_id, session_date) SELECT id, %s FROM users", (FAR,))
    execute(
        "INSERT INTO leaderboard_entries (user_id, session_date, category, score)"
        " SELECT id, %s, 'total_value', 5 FROM users WHERE username = 'alice'",
        (FAR,),
    )
    execute("INSERT INTO ticks (symbol, timestamp, price) VALUES ('AAPL', %s, 7)", (FAR_TIME,))
    execute("INSERT INTO market_events (type, title, created_at) VALUES ('T', 'Far', %s)", (FAR_TIME,))
    bob = service.get_user_by_username("bob")
    for days in range(10):
        service.get_current_portfolio(bob.id, SESSIONS[-1] + timedelta(days=1 + days))
    return service


def test_lists_skip_rows_of_the_far_future(with_future_rows: EnhancedDatabaseService) -> None:
    """Lists of sessions, leaderboard dates, portfolios, prices and market events skip the year 9999."""
    newest = SESSIONS[-1]
    assert with_future_rows.list_session_dates(limit=1) == (newest + timedelta(days=10),)
    assert with_future_rows.list_session_dates(before=date.max)[0] == newest + timedelta(days=10)
    assert with_future_rows.list_leaderboard_dates(limit=1) == (newest,)
    assert with_future_rows.list_leaderboard_dates("total_value", limit=1, before=date.max) == (newest,)
    assert with_future_rows.list_leaderboard_dates("luck") == ()
    assert with_future_rows.get_session_summaries(limit=1)[0].session_date == newest
    assert with_future_rows.get_period_leaderboard("total_value", FAR, sessions=1).days == (newest,)
    alice = with_future_rows.get_user_by_username("alice")
    assert with_future_rows.get_portfolio_history(alice.id, limit=1)[0].session_date == newest
    assert (
        with_future_rows.get_latest_market_data() == with_future_rows.get_latest_market_data(["AAPL"]) == ()
    )
    assert with_future_rows.get_sparklines() == ()
    assert with_future_rows.get_recent_market_events() == with_future_rows.list_market_events() == ()


def test_future_rows_are_returned_for_their_exact_date(with_future_rows: EnhancedDatabaseService) -> None:
    """A read that names the year 9999 as its date or end returns the row stored there."""
    alice = with_future_rows.get_user_by_username("alice")
    portfolio = with_future_rows.find_portfolio(alice.id, FAR)
    assert portfolio is not None
    assert portfolio.session_date == FAR
    assert [entry.username for entry in with_future_rows.get_leaderboard("total_value", FAR)] == ["alice"]
    [event] = with_future_rows.list_market_events(until=datetime.max.replace(tzinfo=UTC))
    assert event.title == "Far"


def test_tomorrow_is_not_the_newest_session(service: EnhancedDatabaseService) -> None:
    """Lists begin with today's session; they include tomorrow's session only if `before` is a later date."""
    write_tomorrow(service, noon := datetime(2026, 3, 2, 12, tzinfo=UTC))
    today, tomorrow = noon.date(), noon.date() + timedelta(days=1)
    alice = service.get_user_by_username("alice")
    lists: dict[str, Callable[..., tuple[date, ...]]] = {
        "sessions": service.list_session_dates,
        "leaderboards": service.list_leaderboard_dates,
        "one leaderboard": partial(service.list_leaderboard_dates, DAILY_RETURNS),
        "history": lambda **options: tuple(
            row.session_date for row in service.get_portfolio_history(alice.id, **options)
        ),
    }
    for name, list_days in lists.items():
        assert list_days() == (today, today - timedelta(days=1)), name
        assert list_days(before=date.max)[0] == tomorrow, name
    summaries = service.get_session_summaries()
    assert [row.session_date for row in summaries] == [today, today - timedelta(days=1)]
    assert service.get_period_leaderboard(DAILY_RETURNS, sessions=1).days == (today,)
    gains = service.get_player_gains(alice.id, today, today)
    assert (gains.sessions, gains.change) == (1, 100)


def write_tomorrow(service: EnhancedDatabaseService, now: datetime) -> None:
    """Store portfolios and daily returns of alice and bob for yesterday, today and tomorrow."""
    service._clock = lambda: now
    for name in ("alice", "bob"):
        user = service.create_user(username=name)
        for day, change in ((-1, 50), (0, 100), (1, 900)):
            session = now.date() + timedelta(days=day)
            service.get_current_portfolio(user.id, session)
            service.update_portfolio_value(user.id, session, Decimal(10_000 + change), Decimal(change))
            service.update_leaderboard_entry(user.id, DAILY_RETURNS, Decimal(change) / 100, session)


@pytest.mark.parametrize("page", list(SCRIPTS))
def test_pages_leave_out_rows_of_tomorrow(service: EnhancedDatabaseService, page: str) -> None:
    """No page shows tomorrow's date or values, and pages with sessions mark today's session with "so far"."""
    now = datetime.now(UTC)
    write_tomorrow(service, now)
    runtime.set_service(service)
    runtime.get_cache().clear()
    opened = open_page(SCRIPTS[page], **({"player": "alice"} if page == "portfolios" else {}))
    assert not opened.exception
    shown = read_text(opened) + " ".join(f"{card.label} {card.value} {card.delta}" for card in opened.metric)
    shown += " ".join(table.value.to_string() for table in opened.dataframe)
    tomorrow = now.date() + timedelta(days=1)
    assert format_day(tomorrow) not in shown
    assert tomorrow.isoformat() not in shown
    assert not re.search(r"10,900|\+?9[.]00%|\+\$900", shown)
    if page in {"overview", "leaderboards", "portfolios"}:
        assert f"{format_day(now.date())}" in shown
        assert "so far" in shown


@pytest.mark.parametrize("page", [OVERVIEW, LEADERBOARDS])
def test_pages_open_on_the_newest_session_with_a_leaderboard(
    with_future_rows: EnhancedDatabaseService, page: str
) -> None:
    """Pages open on the last session with leaderboard entries, not on a later one or on the year 9999."""
    runtime.set_service(with_future_rows)
    runtime.get_cache().clear()
    assert data.find_newest_leaderboard_day(with_future_rows) == SESSIONS[-1]
    opened = open_page(page)
    assert not opened.exception
    text = read_text(opened)
    assert "9999" not in text
    assert "Session of Fri 1 Mar 2013" in text


@pytest.mark.parametrize("with_rows", [False, True])
def test_the_example_of_the_readme_runs_on_any_database(
    request: pytest.FixtureRequest,
    service: EnhancedDatabaseService,
    settings: Settings,
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    with_rows: bool,  # noqa: FBT001  # a parameter of the test
) -> None:
    """The README's example runs on an empty database and on one whose newest session has no leaderboard."""
    if with_rows:
        request.getfixturevalue("with_future_rows")
    monkeypatch.setenv("DATABASE_URL", settings.database_url.get_secret_value())
    monkeypatch.setenv("ENABLE_REDIS_CACHE", "false")
    [example] = re.findall(
        r"```python\n(from decimal import.*?)```", (repository / "README.md").read_text(), re.DOTALL
    )
    exec(compile(example, "README.md", "exec"), {})  # the repository's own code
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1].startswith("price is Decimal('-1')")
    assert len(printed) == (4 if with_rows else 1)


# Each call receives a day or a time after tomorrow.
WRITES: dict[str, Callable[[Any, User, date, datetime], object]] = {
    "open a portfolio": lambda s, u, day, _: s.get_current_portfolio(u.id, day),
    "value a portfolio": lambda s, u, day, _: s.update_portfolio_value(u.id, day, 1, 0),
    "value portfolios": lambda s, u, day, _: s.batch_update_portfolios(
        [PortfolioUpdate(u.id, day, ONE, ONE)]
    ),
    "score": lambda s, u, day, _: s.update_leaderboard_entry(u.id, "c", 1, day),
    "scores": lambda s, u, day, _: s.batch_update_leaderboard("c", [LeaderboardUpdate(u.id, ONE)], day),
    "close": lambda s, _, day, __: s.close_session(day),
    "tick": lambda s, _, __, time: s.insert_market_tick("AAPL", 1, timestamp=time),
    "ticks": lambda s, _, __, time: s.insert_market_ticks([Tick("AAPL", time, Decimal(1))]),
}


@pytest.mark.parametrize("name", WRITES)
def test_writes_refuse_times_after_tomorrow(
    service: EnhancedDatabaseService, alice: User, execute: Execute, name: str
) -> None:
    """A write for a date after tomorrow raises InvalidInput with the value and stores no row."""
    noon = datetime(2026, 3, 2, 12, tzinfo=UTC)
    service._clock = lambda: noon
    for day in (date(2026, 3, 4), FAR):
        time = datetime.combine(day, datetime.min.time(), UTC)
        with pytest.raises(InvalidInput, match=rf"(session_date|timestamp) is {day}.*after tomorrow"):
            WRITES[name](service, alice, day, time)
    for table in ("portfolios", "leaderboard_entries", "ticks"):
        assert execute(f"SELECT count(*) FROM {table}") == [(0,)]


@pytest.mark.parametrize("day", [date.min, date(1970, 1, 1), date(2026, 3, 2), date(2026, 3, 3)])
def test_writes_accept_sessions_up_to_tomorrow(
    service: EnhancedDatabaseService, alice: User, day: date
) -> None:
    """Writes accept sessions of any age up to tomorrow, because replays write sessions of old prices."""
    service._clock = lambda: datetime(2026, 3, 2, 23, 59, 59, tzinfo=UTC)
    service.get_current_portfolio(alice.id, day)
    assert service.update_portfolio_value(alice.id, day, Decimal(5), Decimal(0)).total_value == 5
    assert service.update_leaderboard_entry(alice.id, "c", Decimal(5), day).rank == 1
    assert service.close_session(day) == 1
    time = datetime.combine(day, datetime.max.time(), UTC)
    assert service.insert_market_tick("AAPL", Decimal(1), timestamp=time).timestamp == time
    assert service.list_session_dates(before=date.max) == (day,)
