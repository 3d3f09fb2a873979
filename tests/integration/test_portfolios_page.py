"""The Portfolios page in every scenario of tests/scenarios.py; figures equal those from the rows."""

import json
import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from statistics import median
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from core import EnhancedDatabaseService
from core.errors import DatabaseUnavailable
from core.records import Portfolio
from core.simulation.live_quests import count_wins
from dashboard import runtime
from dashboard.categories import KNOWN_CATEGORIES
from dashboard.formats import format_day, format_money, format_percent, format_points, format_signed_money
from dashboard.navigation import SCRIPTS
from dashboard.pages.portfolios import data
from tests.conftest import Execute
from tests.game import build_portfolio
from tests.integration.pages import open_page, read_metrics, read_text
from tests.scenarios import SCENARIOS, read_table, write_scenario

PORTFOLIOS = SCRIPTS["portfolios"]
CASH = Decimal(10_000)
DAYS = {"7 days": 7, "30 days": 30, "90 days": 90, "1 year": 365, "All": 100_000}

Rows = list[dict[str, Any]]


@pytest.fixture
def pages(service: EnhancedDatabaseService, released_pages: None) -> EnhancedDatabaseService:
    """Return the service that the pages use; its database is migrated and has no rows."""
    runtime.set_service(service)
    return service


class Tables:
    """All rows of the tables, from which expected figures are computed without the service."""

    def __init__(self, execute: Execute, now: datetime) -> None:
        self.today = now.date()
        self._tables = {
            name: [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]
            for name in ("users", "portfolios", "leaderboard_entries", "ticks", "quests")
            for frame in [read_table(execute, name)]
        }
        self.names = [row["username"] for row in self._tables["users"]]

    def find_user(self, name: str) -> dict[str, Any]:
        """Return a user's row."""
        [row] = [row for row in self._tables["users"] if row["username"] == name]
        return row

    def list_played(self, name: str, window: str) -> Rows:
        """Return a player's sessions in the calendar window that ends today, oldest first."""
        user_id, first = self.find_user(name)["id"], self.today.toordinal() - DAYS[window] + 1
        rows = [row for row in self._tables["portfolios"] if row["user_id"] == user_id]
        return sorted(
            (row for row in rows if row["session_date"].toordinal() >= first),
            key=lambda row: row["session_date"],
        )

    def list_finished(self, name: str, window: str) -> Rows:
        """Return a player's sessions in the window without today's."""
        return [row for row in self.list_played(name, window) if row["session_date"] < self.today]

    def list_held(self, name: str, window: str) -> list[date]:
        """Return the days before today, in the window and since the user joined, with any session."""
        joined = self.find_user(name)["created_at"].astimezone(UTC).date()
        first = max(joined.toordinal(), self.today.toordinal() - DAYS[window] + 1)
        days = {row["session_date"] for row in self._tables["portfolios"]}
        return sorted(day for day in days if first <= day.toordinal() and day < self.today)

    def find_rank(self, name: str, category: str, day: date) -> tuple[int, int] | None:
        """Return a player's rank and the number of players; daily returns are ranked by total value."""
        category = "total_value" if category == "daily_returns" else category
        rows = [
            row
            for row in self._tables["leaderboard_entries"]
            if (row["category"], row["session_date"]) == (category, day)
        ]
        own = [row["score"] for row in rows if row["user_id"] == self.find_user(name)["id"]]
        return (1 + sum(row["score"] > own[0] for row in rows), len(rows)) if own else None

    def find_market(self, days: set[date]) -> Decimal:
        """Return the sum, over the days, of the mean return of all symbols, in percent."""
        total = Decimal(0)
        for day in days:
            prices: dict[str, Rows] = {}
            for tick in self._tables["ticks"]:
                if tick["timestamp"].astimezone(UTC).date() == day:
                    prices.setdefault(tick["symbol"], []).append(tick)
            ordered = [sorted(rows, key=lambda tick: tick["timestamp"]) for rows in prices.values()]
            returns = [
                100 * (rows[-1]["price"] / (rows[0]["open"] or rows[0]["price"]) - 1) for rows in ordered
            ]
            if returns:
                total += round(sum(returns, Decimal(0)) / len(returns), 4)
        return total


def find_deepest_drawdown(changes: list[Decimal]) -> Decimal:
    """Return the deepest drawdown in percent of an equity that begins with the starting cash."""
    value = peak = CASH
    deepest = Decimal(0)
    for change in changes:
        value += change
        peak = max(peak, value)
        deepest = min(deepest, 100 * (value / peak - 1))
    return deepest


def write_current_scenario(service: EnhancedDatabaseService, name: str) -> datetime:
    """Write a scenario as of now and return that time."""
    now = datetime.now(UTC)
    write_scenario(service, name, now)
    return now


def read_alternative_texts(page: AppTest) -> str:
    """Return the alternative texts of the charts."""
    return "\n".join(chart.proto.alt for chart in page.get("vega_lite_chart"))


def unescape(text: str) -> str:
    """Return a Markdown text without its escaping backslashes."""
    return re.sub(r"\\(.)", r"\1", text)


@pytest.mark.parametrize("window", ["7 days", "90 days"])
@pytest.mark.parametrize("name", [name for name in SCENARIOS if name != "nobody"])
def test_figures_equal_those_from_the_rows(
    pages: EnhancedDatabaseService, execute: Execute, name: str, window: str
) -> None:
    """For each player of each scenario, every figure equals one recomputed from the rows."""
    tables = Tables(execute, write_current_scenario(pages, name))
    for username in tables.names:
        page = open_page(PORTFOLIOS, player=username, window=window)
        assert not page.exception
        assert not page.warning
        played, finished = tables.list_played(username, window), tables.list_finished(username, window)
        if not tables.list_played(username, "All"):
            assert f"{username} has not played a session yet" in read_text(page)
            continue
        check_newest(page, tables, username)
        check_attendance(page, tables, username, window)
        check_record(page, finished)
        if played:
            check_gains(page, tables, played)
            check_curves(page, finished, username, played)


def check_newest(page: AppTest, tables: Tables, username: str) -> None:
    """Compare the cards of the player's newest session and the ranks in that session."""
    newest, figures = tables.list_played(username, "All")[-1], read_metrics(page)
    is_open = newest["session_date"] == tables.today
    totals = [metric.value for metric in page.metric if metric.label == "Total value"]
    assert totals[0] == format_money(newest["total_value"])
    label, other = ("Change so far", "Day change") if is_open else ("Day change", "Change so far")
    assert figures[label] == format_signed_money(newest["day_change"])
    assert other not in figures
    card = next(metric for metric in page.metric if metric.label == label)
    assert card.delta == format_percent(newest["day_change_percent"])
    if is_open:
        # an open session is grey (2) and has no arrow (2)
        assert (card.proto.color, card.proto.direction) == (2, 2)
    assert figures["Cash"] == format_money(newest["current_cash"])
    assert figures["Invested"] == format_money(newest["total_value"] - newest["current_cash"])
    for category, title in (("daily_returns", "Daily return"), ("quests_completed", "Quests completed")):
        rank = tables.find_rank(username, category, newest["session_date"])
        assert figures[title] == (f"{rank[0]} of {rank[1]}" if rank else "Not ranked")


def check_attendance(page: AppTest, tables: Tables, username: str, window: str) -> None:
    """Compare the numbers of finished sessions that the player played and that were held."""
    held, finished = tables.list_held(username, window), tables.list_finished(username, window)
    noun = "finished session" if len(held) == 1 else "finished sessions"
    assert f"Played {len(finished)} of {len(held)} {noun} since" in unescape(read_text(page))


def check_record(page: AppTest, finished: Rows) -> None:
    """Compare the figures of the player's finished sessions."""
    figures, changes = read_metrics(page), [row["day_change"] for row in finished]
    if not changes:
        assert "Sessions won" not in figures
        assert "No finished session in" in read_text(page)
        return
    assert figures["Sessions won"] == f"{sum(change > 0 for change in changes)} of {len(changes)}"
    assert figures["Average change"] == format_signed_money(sum(changes) / len(changes))
    assert figures["Best and worst"] == format_signed_money(max(changes))
    [card] = [metric for metric in page.metric if metric.label == "Best and worst"]
    assert card.delta == f"to {format_signed_money(min(changes))}"


def check_gains(page: AppTest, tables: Tables, played: Rows) -> None:
    """Compare the change of value, the market average, and the sum of the gains of all symbols."""
    figures, change = read_metrics(page), sum((row["day_change"] for row in played), Decimal(0))
    market = tables.find_market({row["session_date"] for row in played})
    assert figures["Change of value"] == format_signed_money(change)
    assert figures["Market average"] == format_percent(market)
    assert figures["Ahead of the market"] == format_points(change / 100 - market)
    assert figures["Not explained"] == "$0.00"
    [card] = [metric for metric in page.metric if metric.label == "Change of value"]
    sessions = f"{len(played)} session{'' if len(played) == 1 else 's'}"
    assert card.delta == f"{format_percent(change / 100)} in {sessions}"
    prefix = f"In all {sessions} played: " if len(played) > 1 else ""
    text = unescape(read_text(page))
    assert f"{prefix}{format_signed_money(change)} = " in text or f"{prefix}No symbol gained or lost." in text
    table = find_gains(page)
    if table is None:
        assert change == played[-1]["day_change"] == 0
        return
    assert "Not explained" not in list(table["symbol"])
    assert round(Decimal(table["gain"].sum()), 2) == change
    assert round(Decimal(table["points"].sum()), 4) == change / 100
    assert round(Decimal(table["session"].sum()), 2) == played[-1]["day_change"]


def find_gains(page: AppTest) -> Any:
    """Return the table of gains, or None if the player held no symbol."""
    return next((frame.value for frame in page.dataframe if "gain" in frame.value), None)


def check_curves(page: AppTest, finished: Rows, username: str, played: Rows) -> None:
    """Compare the last values of the curves, the deepest drawdown and the table of sessions."""
    total = sum((row["day_change"] for row in played), Decimal(0))
    text, deepest = read_text(page), find_deepest_drawdown([row["day_change"] for row in finished])
    assert f"{username} {format_signed_money(total)}" in read_alternative_texts(page)
    if deepest:
        assert f": {format_percent(deepest)} on" in text
    else:
        assert "The equity was never below its peak" in text
    changes = [row["day_change"] for row in finished]
    if len(changes) >= 5 and len(set(changes)) > 1:
        assert f"Dashed line: median ({format_signed_money(median(changes))})" in unescape(text)
    table = page.dataframe[-1].value
    assert list(table["session"]) == [row["session_date"] for row in reversed(played)]
    assert [f"{value:.2f}" for value in table["value"]] == [
        f"{row['total_value']:.2f}" for row in reversed(played)
    ]


def test_two_players_are_compared_over_common_sessions(
    pages: EnhancedDatabaseService, execute: Execute
) -> None:
    """Two players are compared over the finished sessions that both have played."""
    tables = Tables(execute, write_current_scenario(pages, "players come and go"))
    page = open_page(PORTFOLIOS, player="bob", rival="dave")
    rows = {name: tables.list_finished(name, "90 days") for name in ("bob", "dave")}
    days = {row["session_date"] for row in rows["bob"]} & {row["session_date"] for row in rows["dave"]}
    assert f"Over the {len(days)} sessions of the last 90 days that both players have finished" in read_text(
        page
    )
    shown = {
        label: [metric.value for metric in page.metric if metric.label == label]
        for label in ("Total gain", "Average change", "Best session", "Worst session", "Deepest drawdown")
    }
    for place, name in enumerate(("bob", "dave")):
        changes = [row["day_change"] for row in rows[name] if row["session_date"] in days]
        assert shown["Total gain"][place] == format_signed_money(sum(changes))
        assert shown["Average change"][place] == format_signed_money(sum(changes) / len(changes))
        assert shown["Best session"][place] == format_signed_money(max(changes))
        assert shown["Worst session"][place] == format_signed_money(min(changes))
        assert shown["Deepest drawdown"][place] == format_percent(find_deepest_drawdown(changes))
        won = [metric.value for metric in page.metric if metric.label == "Sessions won"][place]
        assert won == f"{sum(change > 0 for change in changes)} of {len(changes)}"


def test_players_without_a_common_session_are_not_compared(pages: EnhancedDatabaseService) -> None:
    """Charlie's last session was before erin joined, so the page compares no figures."""
    write_current_scenario(pages, "players come and go")
    page = open_page(PORTFOLIOS, player="charlie", rival="erin")
    assert "The two have no finished session of the last 90 days in common" in read_text(page)
    assert "Total gain" not in read_metrics(page)


def test_two_players_are_compared_in_the_open_session(
    pages: EnhancedDatabaseService, execute: Execute
) -> None:
    """In the window "Last session", the page compares the gains of two players in the open session."""
    tables = Tables(execute, write_current_scenario(pages, "players come and go"))
    played = {name: tables.list_played(name, "90 days") for name in tables.names}
    rows = {
        name: days[-1] for name, days in played.items() if days and days[-1]["session_date"] == tables.today
    }
    first, second = list(rows)[:2]
    page = open_page(PORTFOLIOS, player=first, rival=second, window="Last session")
    assert "In the open session, so far." in read_text(page)
    shown = [metric.value for metric in page.metric if metric.label == "Gain"]
    assert shown == [format_signed_money(rows[name]["day_change"]) for name in (first, second)]


def test_only_an_open_session_has_todays_leader(pages: EnhancedDatabaseService, execute: Execute) -> None:
    """The chart says "Today's leader" if the player's newest session is open, and never says "Best"."""
    now = write_current_scenario(pages, "players come and go")
    tables = Tables(execute, now)
    leader = min(
        tables.names, key=lambda name: (tables.find_rank(name, "daily_returns", now.date()) or (99,))[0]
    )
    other = next(name for name in ("alice", "bob") if name != leader)
    assert f"Today's leader: {leader}" in read_alternative_texts(open_page(PORTFOLIOS, player=other))
    finished = read_alternative_texts(open_page(PORTFOLIOS, player="dave"))
    assert "Today's leader" not in finished
    assert "Best: " not in finished


def test_equal_returns_are_ranked_by_value(pages: EnhancedDatabaseService, execute: Execute) -> None:
    """Players with equal daily returns are ranked by their total values."""
    now = write_current_scenario(pages, "players come and go")
    execute("UPDATE leaderboard_entries SET score = 1.00 WHERE category = 'daily_returns'")
    values = "10100.00 + 0.01 * (rank() OVER (PARTITION BY session_date ORDER BY user_id) - 4)"
    execute(
        "UPDATE leaderboard_entries AS entry SET score = ranked.value FROM "
        f"(SELECT id, {values} AS value FROM leaderboard_entries WHERE category = 'total_value') AS ranked "
        "WHERE entry.id = ranked.id"
    )
    tables = Tables(execute, now)
    for name in ("alice", "bob"):
        played = tables.list_played(name, "All")
        expected = [tables.find_rank(name, "daily_returns", row["session_date"]) for row in played]
        place, players = expected[-1] or (0, 0)
        page = open_page(PORTFOLIOS, player=name, window="All")
        assert read_metrics(page)["Daily return"] == f"{place} of {players}"
        user = pages.get_user_by_username(name)
        player = data.load_player(pages, user, "All")
        assert player is not None
        history = data.load_rank_history(pages, player, KNOWN_CATEGORIES[0])
        assert [row.rank for row in history] == [rank for rank, _ in filter(None, expected)]
        assert {row.score for row in history} == {Decimal("1.00")}


def test_a_missed_session_has_no_row(pages: EnhancedDatabaseService) -> None:
    """A session that the player missed is not counted and has no row in the table of sessions."""
    now = write_current_scenario(pages, "players come and go")
    page = open_page(PORTFOLIOS, player="heidi", window="90 days")
    assert "Played 3 of" in read_text(page)
    assert "3 sessions, " in read_alternative_texts(page)
    assert len(page.dataframe[1].value) == 3
    assert (now.date() - timedelta(days=40)) in list(page.dataframe[1].value["session"])


def test_an_empty_window_still_shows_the_newest_session(pages: EnhancedDatabaseService) -> None:
    """If the window has no finished session, the page says so and still shows the newest session."""
    now = write_current_scenario(pages, "players come and go")
    page = open_page(PORTFOLIOS, player="ken", window="7 days")
    text = unescape(read_text(page))
    newest = format_day(now.date() - timedelta(days=30))
    assert f"No finished session in the last 7 days; the newest session is that of {newest}" in text
    assert "Day change" in read_metrics(page)
    assert "Played 0 of" in text


@pytest.mark.parametrize(
    ("window", "sessions"), [("7 days", 7), ("30 days", 30), ("1 year", 365), ("All", 400)]
)
def test_a_window_counts_calendar_days(pages: EnhancedDatabaseService, window: str, sessions: int) -> None:
    """A window of 7 days has today's session and those of the 6 days before; longer windows work alike."""
    alice, today = pages.create_user(username="alice"), datetime.now(UTC).date()
    pages.load_portfolios(
        build_portfolio(alice.id, today - timedelta(days=age), Decimal(age)) for age in range(400)
    )
    page = open_page(PORTFOLIOS, player="alice", window=window)
    assert list(page.dataframe[1].value["change"]) == list(range(sessions))
    text = unescape(read_text(page))
    assert f"Played {sessions - 1} of {sessions - 1} finished sessions since" in text
    assert "and today's so far" in text


def test_unexplained_gains_have_a_row(pages: EnhancedDatabaseService) -> None:
    """The whole change of a portfolio without trades is shown as "Not explained"."""
    alice, today = pages.create_user(username="alice"), datetime.now(UTC).date()
    pages.load_portfolios([build_portfolio(alice.id, today - timedelta(days=1), Decimal("-12.34"))])
    page = open_page(PORTFOLIOS, player="alice")
    table = page.dataframe[0].value
    assert list(table["symbol"]) == ["Not explained"]
    assert list(table["gain"]) == [-12.34]
    assert read_metrics(page)["Not explained"] == "-$12.34"


def test_zero_has_no_sign(pages: EnhancedDatabaseService) -> None:
    """Neither text, cards nor columns with signed numbers show a zero with a plus or minus sign."""
    alice, today = pages.create_user(username="alice"), datetime.now(UTC).date()
    days = (today, today - timedelta(days=1))
    pages.load_portfolios(build_portfolio(alice.id, day, Decimal(0)) for day in days)
    page = open_page(PORTFOLIOS, player="alice")
    shown = "\n".join([read_text(page), *(f"{m.value} {m.delta}" for m in page.metric)])
    assert not re.search(r"[+-]\$?0\.00", shown)
    for frame in page.dataframe:
        for name, column in json.loads(frame.proto.columns).items():
            if column and "+" in str(column.get("type_config", {}).get("format")):
                assert (frame.value[name].dropna() != 0).all(), name


def test_no_internal_key_is_shown(pages: EnhancedDatabaseService) -> None:
    """The page shows the player's strategy in words and no internal key of the preferences."""
    alice, today = pages.create_user(username="alice"), datetime.now(UTC).date()
    preferences = {"replay": "100x250@1/e0ab93", "replay_finished": True, "strategy": "mean_reversion"}
    pages.update_user_profile(alice.id, preferences=preferences)
    pages.load_portfolios([build_portfolio(alice.id, today, Decimal(0))])
    text = unescape(read_text(open_page(PORTFOLIOS, player="alice")))
    assert "Strategy: Mean reversion: buys the symbols that fell most" in text
    assert not re.search("replay|100x250|mean_reversion", text)


def test_a_section_that_fails_keeps_its_last_values(
    pages: EnhancedDatabaseService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When service calls fail, each section keeps its last known values, and each failing section says so."""
    write_current_scenario(pages, "players come and go")
    page = open_page(PORTFOLIOS, player="alice")
    figures, tables, charts = read_metrics(page), len(page.dataframe), len(page.get("vega_lite_chart"))

    def fail(*_: object, **__: object) -> None:
        raise DatabaseUnavailable("gone")

    for name in ("get_player_gains", "get_user_rank", "get_user_active_quests"):
        monkeypatch.setattr(pages, name, fail)
    page.run()
    assert not page.exception
    captions = [caption.value for caption in page.caption if caption.value.startswith("Last known values")]
    assert len(captions) == 3
    for name in ("get_portfolio_history", "list_player_scores", "get_leaderboard", "get_user_by_username"):
        monkeypatch.setattr(pages, name, fail)
    page.run()
    assert not page.exception
    assert read_metrics(page) == figures
    assert (len(page.dataframe), len(page.get("vega_lite_chart"))) == (tables, charts)


def test_sessions_won_equal_those_of_quests(pages: EnhancedDatabaseService) -> None:
    """The page counts as many won sessions as the simulator counts for the milestone quest."""
    alice, today = pages.create_user(username="alice"), datetime.now(UTC).date()
    history: list[Portfolio] = [
        build_portfolio(alice.id, today - timedelta(days=age), Decimal(change))
        for age, change in enumerate(["50", "10", "0", "-3", "0.01", "7"])
    ]
    pages.load_portfolios(history)
    assert count_wins(pages, alice.id, today) == 3
    assert read_metrics(open_page(PORTFOLIOS, player="alice", window="All"))["Sessions won"] == "3 of 5"


@pytest.mark.parametrize("name", ["players come and go", "no open session", "ties", "one player"])
def test_the_last_session_explains_its_change(
    pages: EnhancedDatabaseService, execute: Execute, name: str
) -> None:
    """In the window "Last session", the gains of the symbols add up to the change of that session."""
    tables = Tables(execute, write_current_scenario(pages, name))
    for player in tables.names:
        played = tables.list_played(player, "All")
        if not played:
            continue
        newest = played[-1]
        page = open_page(PORTFOLIOS, player=player, window="Last session")
        assert not page.exception
        figures, text = read_metrics(page), unescape(read_text(page))
        day = newest["session_date"]
        heading = "Today's session, so far" if day == tables.today else f"Session of {format_day(day)}"
        assert heading in [part.value for part in page.header]
        assert figures["Change of value"] == format_signed_money(newest["day_change"])
        assert figures["Market average"] == format_percent(tables.find_market({day}))
        gains = find_gains(page)
        total = Decimal(0) if gains is None else round(Decimal(str(gains["gain"].sum())), 2)
        assert total == newest["day_change"]
        assert f"{format_signed_money(newest['day_change'])} = " in text or "No symbol gained" in text
        assert "Equity" not in [part.value for part in page.header]


def test_a_button_selects_a_player(pages: EnhancedDatabaseService) -> None:
    """Without a selected player the page shows the time of its data and a button that selects a player."""
    write_current_scenario(pages, "one player")
    page = open_page(PORTFOLIOS)
    assert "As of " in read_text(page)
    page.button(key="choose-player-alice").click().run()
    assert page.text_input(key="player").value == "alice"
    assert "alice" in read_text(page).lower()
    assert page.metric
