"""The figures of the Portfolios page, recomputed from the rows in scenarios that differ."""

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
    """The pages on a migrated database without a row."""
    runtime.set_service(service)
    return service


class Truth:
    """Whole tables, from which figures are recomputed without the service."""

    def __init__(self, execute: Execute, now: datetime) -> None:
        self.today = now.date()
        self._tables = {
            name: [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]
            for name in ("users", "portfolios", "leaderboard_entries", "ticks", "quests")
            for frame in [read_table(execute, name)]
        }
        self.names = [row["username"] for row in self._tables["users"]]

    def find_user(self, name: str) -> dict[str, Any]:
        """Return a player's row."""
        [row] = [row for row in self._tables["users"] if row["username"] == name]
        return row

    def list_played(self, name: str, window: str) -> Rows:
        """Return a player's sessions of the calendar window that ends today, oldest first."""
        user_id, first = self.find_user(name)["id"], self.today.toordinal() - DAYS[window] + 1
        rows = [row for row in self._tables["portfolios"] if row["user_id"] == user_id]
        return sorted(
            (row for row in rows if row["session_date"].toordinal() >= first),
            key=lambda row: row["session_date"],
        )

    def list_finished(self, name: str, window: str) -> Rows:
        """Return those of the sessions that are finished."""
        return [row for row in self.list_played(name, window) if row["session_date"] < self.today]

    def list_held(self, name: str, window: str) -> list[date]:
        """Return the finished sessions of the game in the window since the player joined."""
        joined = self.find_user(name)["created_at"].astimezone(UTC).date()
        first = max(joined.toordinal(), self.today.toordinal() - DAYS[window] + 1)
        days = {row["session_date"] for row in self._tables["portfolios"]}
        return sorted(day for day in days if first <= day.toordinal() and day < self.today)

    def find_rank(self, name: str, category: str, day: date) -> tuple[int, int] | None:
        """Return a player's rank on a leaderboard and how many players it has; returns rank by value."""
        category = "total_value" if category == "daily_returns" else category
        rows = [
            row
            for row in self._tables["leaderboard_entries"]
            if (row["category"], row["session_date"]) == (category, day)
        ]
        own = [row["score"] for row in rows if row["user_id"] == self.find_user(name)["id"]]
        return (1 + sum(row["score"] > own[0] for row in rows), len(rows)) if own else None

    def find_market(self, days: set[date]) -> Decimal:
        """Return the sum of the market's mean returns on these days, in percent."""
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


def find_deepest(changes: list[Decimal]) -> Decimal:
    """Return the deepest drawdown of an equity that begins with the starting cash."""
    value = peak = CASH
    deepest = Decimal(0)
    for change in changes:
        value += change
        peak = max(peak, value)
        deepest = min(deepest, 100 * (value / peak - 1))
    return deepest


def write_now(service: EnhancedDatabaseService, name: str) -> datetime:
    """Write a scenario of this moment."""
    now = datetime.now(UTC)
    write_scenario(service, name, now)
    return now


def read_alternatives(page: AppTest) -> str:
    """Return what the charts say to those who cannot see them."""
    return "\n".join(chart.proto.alt for chart in page.get("vega_lite_chart"))


def unescape(text: str) -> str:
    """Return Markdown as it is read."""
    return re.sub(r"\\(.)", r"\1", text)


@pytest.mark.parametrize("window", ["7 days", "90 days"])
@pytest.mark.parametrize("name", [name for name in SCENARIOS if name != "nobody"])
def test_every_figure_is_that_of_the_rows(
    pages: EnhancedDatabaseService, execute: Execute, name: str, window: str
) -> None:
    """Of each player: who come and go, tie, are alone, have just joined, or have never played."""
    truth = Truth(execute, write_now(pages, name))
    for username in truth.names:
        page = open_page(PORTFOLIOS, player=username, window=window)
        assert not page.exception
        assert not page.warning
        played, finished = truth.list_played(username, window), truth.list_finished(username, window)
        if not truth.list_played(username, "All"):
            assert f"{username} has not played a session yet" in read_text(page)
            continue
        check_newest(page, truth, username)
        check_attendance(page, truth, username, window)
        check_record(page, finished)
        if played:
            check_gains(page, truth, played)
            check_curves(page, finished, username, played)


def check_newest(page: AppTest, truth: Truth, username: str) -> None:
    """Compare the cards of the newest session and the ranks in it."""
    newest, figures = truth.list_played(username, "All")[-1], read_metrics(page)
    is_open = newest["session_date"] == truth.today
    totals = [metric.value for metric in page.metric if metric.label == "Total value"]
    assert totals[0] == format_money(newest["total_value"])
    label, other = ("Change so far", "Day change") if is_open else ("Day change", "Change so far")
    assert figures[label] == format_signed_money(newest["day_change"])
    assert other not in figures
    card = next(metric for metric in page.metric if metric.label == label)
    assert card.delta == format_percent(newest["day_change_percent"])
    if is_open:
        # an open session is neither green nor red, and has no arrow
        assert (card.proto.color, card.proto.direction) == (2, 2)
    assert figures["Cash"] == format_money(newest["current_cash"])
    assert figures["Invested"] == format_money(newest["total_value"] - newest["current_cash"])
    for category, title in (("daily_returns", "Daily return"), ("quests_completed", "Quests completed")):
        rank = truth.find_rank(username, category, newest["session_date"])
        assert figures[title] == (f"{rank[0]} of {rank[1]}" if rank else "Not ranked")


def check_attendance(page: AppTest, truth: Truth, username: str, window: str) -> None:
    """Compare how many sessions were played of those held."""
    held, finished = truth.list_held(username, window), truth.list_finished(username, window)
    noun = "finished session" if len(held) == 1 else "finished sessions"
    assert f"Played {len(finished)} of {len(held)} {noun} since" in unescape(read_text(page))


def check_record(page: AppTest, finished: Rows) -> None:
    """Compare the figures of finished sessions."""
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


def check_gains(page: AppTest, truth: Truth, played: Rows) -> None:
    """Compare the change of value, the market, and the sum of the gains of all symbols."""
    figures, change = read_metrics(page), sum((row["day_change"] for row in played), Decimal(0))
    market = truth.find_market({row["session_date"] for row in played})
    assert figures["Change of value"] == format_signed_money(change)
    assert figures["Market average"] == format_percent(market)
    assert figures["Ahead of the market"] == format_points(change / 100 - market)
    assert figures["Not explained"] == "$0.00"
    [card] = [metric for metric in page.metric if metric.label == "Change of value"]
    sessions = f"{len(played)} session{'' if len(played) == 1 else 's'}"
    assert card.delta == f"{format_percent(change / 100)} in {sessions}"
    said = f"In all {sessions} played: " if len(played) > 1 else ""
    text = unescape(read_text(page))
    assert f"{said}{format_signed_money(change)} = " in text or f"{said}No symbol gained or lost." in text
    table = find_gains(page)
    if table is None:
        assert change == played[-1]["day_change"] == 0
        return
    assert "Not explained" not in list(table["symbol"])
    assert round(Decimal(table["gain"].sum()), 2) == change
    assert round(Decimal(table["points"].sum()), 4) == change / 100
    assert round(Decimal(table["session"].sum()), 2) == played[-1]["day_change"]


def find_gains(page: AppTest) -> Any:
    """Return the table of gains; None where no symbol was held."""
    return next((frame.value for frame in page.dataframe if "gain" in frame.value), None)


def check_curves(page: AppTest, finished: Rows, username: str, played: Rows) -> None:
    """Compare the ends of the curves, the deepest drawdown and the table of sessions."""
    total = sum((row["day_change"] for row in played), Decimal(0))
    text, deepest = read_text(page), find_deepest([row["day_change"] for row in finished])
    assert f"{username} {format_signed_money(total)}" in read_alternatives(page)
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


def test_two_players_are_compared_over_the_sessions_of_both(
    pages: EnhancedDatabaseService, execute: Execute
) -> None:
    """Finished ones only; bob plays every other day, and dave stopped a week ago."""
    truth = Truth(execute, write_now(pages, "players come and go"))
    page = open_page(PORTFOLIOS, player="bob", rival="dave")
    rows = {name: truth.list_finished(name, "90 days") for name in ("bob", "dave")}
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
        assert shown["Deepest drawdown"][place] == format_percent(find_deepest(changes))
        won = [metric.value for metric in page.metric if metric.label == "Sessions won"][place]
        assert won == f"{sum(change > 0 for change in changes)} of {len(changes)}"


def test_players_without_a_common_session_are_not_compared(pages: EnhancedDatabaseService) -> None:
    """Charlie stopped before erin joined."""
    write_now(pages, "players come and go")
    page = open_page(PORTFOLIOS, player="charlie", rival="erin")
    assert "The two have no finished session of the last 90 days in common" in read_text(page)
    assert "Total gain" not in read_metrics(page)


def test_two_players_of_today_are_compared(pages: EnhancedDatabaseService, execute: Execute) -> None:
    """In the last session nothing is finished while it is open: what both have so far."""
    truth = Truth(execute, write_now(pages, "players come and go"))
    played = {name: truth.list_played(name, "90 days") for name in truth.names}
    rows = {
        name: days[-1] for name, days in played.items() if days and days[-1]["session_date"] == truth.today
    }
    first, second = list(rows)[:2]
    page = open_page(PORTFOLIOS, player=first, rival=second, window="Last session")
    assert "In the open session, so far." in read_text(page)
    shown = [metric.value for metric in page.metric if metric.label == "Gain"]
    assert shown == [format_signed_money(rows[name]["day_change"]) for name in (first, second)]


def test_the_leader_is_called_what_it_is(pages: EnhancedDatabaseService, execute: Execute) -> None:
    """Today's leader while the session is open, and with its date afterwards; never the best."""
    now = write_now(pages, "players come and go")
    truth = Truth(execute, now)
    leader = min(
        truth.names, key=lambda name: (truth.find_rank(name, "daily_returns", now.date()) or (99,))[0]
    )
    other = next(name for name in ("alice", "bob") if name != leader)
    assert f"Today's leader: {leader}" in read_alternatives(open_page(PORTFOLIOS, player=other))
    finished = read_alternatives(open_page(PORTFOLIOS, player="dave"))
    assert "Today's leader" not in finished
    assert "Best: " not in finished


def test_ranks_by_return_are_those_of_the_leaderboards_page(
    pages: EnhancedDatabaseService, execute: Execute
) -> None:
    """Returns that are equal after rounding, values that are not: the ranks are those of the values."""
    now = write_now(pages, "players come and go")
    execute("UPDATE leaderboard_entries SET score = 1.00 WHERE category = 'daily_returns'")
    values = "10100.00 + 0.01 * (rank() OVER (PARTITION BY session_date ORDER BY user_id) - 4)"
    execute(
        "UPDATE leaderboard_entries AS entry SET score = ranked.value FROM "
        f"(SELECT id, {values} AS value FROM leaderboard_entries WHERE category = 'total_value') AS ranked "
        "WHERE entry.id = ranked.id"
    )
    truth = Truth(execute, now)
    for name in ("alice", "bob"):
        played = truth.list_played(name, "All")
        expected = [truth.find_rank(name, "daily_returns", row["session_date"]) for row in played]
        place, players = expected[-1] or (0, 0)
        page = open_page(PORTFOLIOS, player=name, window="All")
        assert read_metrics(page)["Daily return"] == f"{place} of {players}"
        user = pages.get_user_by_username(name)
        player = data.load_player(pages, user, "All")
        assert player is not None
        history = data.load_rank_history(pages, player, KNOWN_CATEGORIES[0])
        assert [row.rank for row in history] == [rank for rank, _ in filter(None, expected)]
        assert {row.score for row in history} == {Decimal("1.00")}


def test_a_missed_session_is_a_gap(pages: EnhancedDatabaseService) -> None:
    """Not a session of 0 %: it has no bar, no value, and a mark of its own."""
    now = write_now(pages, "players come and go")
    page = open_page(PORTFOLIOS, player="heidi", window="90 days")
    assert "Played 3 of" in read_text(page)
    assert "3 sessions, " in read_alternatives(page)
    assert len(page.dataframe[1].value) == 3
    assert (now.date() - timedelta(days=40)) in list(page.dataframe[1].value["session"])


def test_a_quiet_player_is_offered_a_longer_window(pages: EnhancedDatabaseService) -> None:
    """The newest session stays; what there is none of is said."""
    now = write_now(pages, "players come and go")
    page = open_page(PORTFOLIOS, player="ken", window="7 days")
    text = unescape(read_text(page))
    newest = format_day(now.date() - timedelta(days=30))
    assert f"No finished session in the last 7 days; the newest session is that of {newest}" in text
    assert "Day change" in read_metrics(page)
    assert "Played 0 of" in text


@pytest.mark.parametrize(
    ("window", "sessions"), [("7 days", 7), ("30 days", 30), ("1 year", 365), ("All", 400)]
)
def test_a_window_is_of_calendar_days(pages: EnhancedDatabaseService, window: str, sessions: int) -> None:
    """Today and the days before it, with 400 sessions one a day."""
    alice, today = pages.create_user(username="alice"), datetime.now(UTC).date()
    pages.load_portfolios(
        build_portfolio(alice.id, today - timedelta(days=age), Decimal(age)) for age in range(400)
    )
    page = open_page(PORTFOLIOS, player="alice", window=window)
    assert list(page.dataframe[1].value["change"]) == list(range(sessions))
    text = unescape(read_text(page))
    assert f"Played {sessions - 1} of {sessions - 1} finished sessions since" in text
    assert "and today's so far" in text


def test_gains_beyond_the_trades_have_a_line_of_their_own(pages: EnhancedDatabaseService) -> None:
    """A portfolio that was written without trades is not explained, and says so."""
    alice, today = pages.create_user(username="alice"), datetime.now(UTC).date()
    pages.load_portfolios([build_portfolio(alice.id, today - timedelta(days=1), Decimal("-12.34"))])
    page = open_page(PORTFOLIOS, player="alice")
    table = page.dataframe[0].value
    assert list(table["symbol"]) == ["Not explained"]
    assert list(table["gain"]) == [-12.34]
    assert read_metrics(page)["Not explained"] == "-$12.34"


def test_nothing_that_rounds_to_zero_has_a_sign(pages: EnhancedDatabaseService) -> None:
    """Neither on a card nor in a table, whose numbers Streamlit formats."""
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
    """A strategy has words; what programs remember of a player is left out."""
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
    """The page keeps all it had, with its age, and each section fails alone."""
    write_now(pages, "players come and go")
    page = open_page(PORTFOLIOS, player="alice")
    figures, tables, charts = read_metrics(page), len(page.dataframe), len(page.get("vega_lite_chart"))

    def fail(*_: object, **__: object) -> None:
        raise DatabaseUnavailable("gone")

    for name in ("get_player_gains", "get_user_rank", "get_user_active_quests"):
        monkeypatch.setattr(pages, name, fail)
    page.run()
    assert not page.exception
    notes = [caption.value for caption in page.caption if caption.value.startswith("Last known values")]
    assert len(notes) == 3
    for name in ("get_portfolio_history", "list_player_scores", "get_leaderboard", "get_user_by_username"):
        monkeypatch.setattr(pages, name, fail)
    page.run()
    assert not page.exception
    assert read_metrics(page) == figures
    assert (len(page.dataframe), len(page.get("vega_lite_chart"))) == (tables, charts)


def test_sessions_won_are_those_that_quests_count(pages: EnhancedDatabaseService) -> None:
    """The milestone of won sessions, as the live market counts it, agrees with the page."""
    alice, today = pages.create_user(username="alice"), datetime.now(UTC).date()
    history: list[Portfolio] = [
        build_portfolio(alice.id, today - timedelta(days=age), Decimal(change))
        for age, change in enumerate(["50", "10", "0", "-3", "0.01", "7"])
    ]
    pages.load_portfolios(history)
    assert count_wins(pages, alice.id, today) == 3
    assert read_metrics(open_page(PORTFOLIOS, player="alice", window="All"))["Sessions won"] == "3 of 5"


@pytest.mark.parametrize("name", ["players come and go", "no open session", "ties", "one player"])
def test_the_last_session_says_why_a_player_won_or_lost(
    pages: EnhancedDatabaseService, execute: Execute, name: str
) -> None:
    """Today's so far, else the last one played: what the symbols gained adds up to the day's change."""
    truth = Truth(execute, write_now(pages, name))
    for player in truth.names:
        played = truth.list_played(player, "All")
        if not played:
            continue
        newest = played[-1]
        page = open_page(PORTFOLIOS, player=player, window="Last session")
        assert not page.exception
        figures, text = read_metrics(page), unescape(read_text(page))
        day = newest["session_date"]
        heading = "Today's session, so far" if day == truth.today else f"Session of {format_day(day)}"
        assert heading in [part.value for part in page.header]
        assert figures["Change of value"] == format_signed_money(newest["day_change"])
        assert figures["Market average"] == format_percent(truth.find_market({day}))
        gains = find_gains(page)
        total = Decimal(0) if gains is None else round(Decimal(str(gains["gain"].sum())), 2)
        assert total == newest["day_change"]
        assert f"{format_signed_money(newest['day_change'])} = " in text or "No symbol gained" in text
        assert "Equity" not in [part.value for part in page.header]


def test_without_a_player_the_page_says_how_old_it_is(pages: EnhancedDatabaseService) -> None:
    """And a button chooses a player, although it is in a part of its own."""
    write_now(pages, "one player")
    page = open_page(PORTFOLIOS)
    assert "As of " in read_text(page)
    page.button(key="choose-player-alice").click().run()
    assert page.text_input(key="player").value == "alice"
    assert "alice" in read_text(page).lower()
    assert page.metric
