"""Overview and Leaderboards pages: figures equal those of pandas in every scenario of tests/scenarios.py."""

import csv
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Decimal
from io import StringIO
from typing import Any, NamedTuple

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from core import EnhancedDatabaseService
from core.errors import DatabaseUnavailable
from core.records import STARTING_CASH, LeaderboardUpdate
from dashboard import runtime
from dashboard.categories import KNOWN_CATEGORIES
from dashboard.downloads import write_csv
from dashboard.exact_ranks import ScoreSource
from dashboard.formats import format_count, format_money, format_percent, format_quantity
from dashboard.pages.leaderboards import data, download
from dashboard.pages.leaderboards.data import Selection
from tests.conftest import Execute
from tests.integration.pages import OVERVIEW, open_page, read_metrics, read_text
from tests.scenarios import SCENARIOS, read_table, write_scenario

pytestmark = pytest.mark.usefixtures("released_pages")

LEADERBOARDS = "pages/leaderboards/page.py"
WITH_SESSIONS = [name for name, scenario in SCENARIOS.items() if scenario.ages]
CENT = Decimal("0.01")


class Rows(NamedTuple):
    """All rows of the tables that the pages read, as data frames."""

    users: pd.DataFrame
    portfolios: pd.DataFrame
    trades: pd.DataFrame
    quests: pd.DataFrame
    events: pd.DataFrame
    entries: pd.DataFrame


@pytest.fixture
def today() -> date:
    """Return today's UTC date, which is the day of the open session."""
    return datetime.now(UTC).date()


def write_current_scenario(service: EnhancedDatabaseService, execute: Execute, name: str) -> Rows:
    """Write a scenario, set completion times in about half of the completed quests, and return all rows."""
    write_scenario(service, name, datetime.now(UTC))
    execute(
        "UPDATE quests SET completed_at = NULL WHERE status = 'COMPLETED';"
        " UPDATE quests SET completed_at = created_at + interval '30 hours'"
        " WHERE status = 'COMPLETED' AND ('x' || substr(md5(id::text), 1, 2))::bit(8)::int % 2 = 0"
    )
    runtime.set_service(service)
    tables = ("users", "portfolios", "trades", "quests", "market_events", "leaderboard_entries")
    return Rows(*(read_table(execute, table) for table in tables))


def count_rows_of_day(frame: pd.DataFrame, column: str, day: date) -> int:
    """Return how many rows have a time on a UTC day."""
    return sum(1 for moment in frame[column] if not pd.isna(moment) and moment.astimezone(UTC).date() == day)


def list_scores(rows: Rows, category: str, day: date) -> list[Decimal]:
    """Return the scores of a leaderboard, best first."""
    entries = rows.entries[(rows.entries["category"] == category) & (rows.entries["session_date"] == day)]
    return sorted(entries["score"], reverse=True)


def find_median(values: list[Decimal]) -> Decimal:
    """Return the median of sorted values."""
    half = len(values) // 2
    return values[half] if len(values) % 2 else (values[half - 1] + values[half]) / 2


def compute_figures(rows: Rows, day: date) -> dict[str, Any]:
    """Return the expected figures of one session."""
    of_day = rows.portfolios[rows.portfolios["session_date"] == day]
    returns = list_scores(rows, "daily_returns", day)
    end = datetime.combine(day + timedelta(days=1), time(0), UTC)
    return {
        "session": day,
        "played": len(of_day),
        "traded": rows.trades[rows.trades["session_date"] == day]["user_id"].nunique(),
        "players": len(returns),
        "median": float(find_median(returns).quantize(CENT, ROUND_HALF_UP)),
        "best": float(returns[0]),
        "quests": count_rows_of_day(rows.quests, "completed_at", day),
        "events": count_rows_of_day(rows.events, "created_at", day),
        "signed_up": sum(1 for moment in rows.users["created_at"] if moment < end),
    }


def list_days(rows: Rows) -> list[date]:
    """Return the days that have a leaderboard, newest first."""
    return sorted(set(rows.entries["session_date"]), reverse=True)


@pytest.mark.parametrize("name", WITH_SESSIONS)
def test_the_table_of_sessions_equals_the_rows(
    service: EnhancedDatabaseService, execute: Execute, name: str, today: date
) -> None:
    """The table has the last fourteen sessions with figures computed from the rows, newest first."""
    rows = write_current_scenario(service, execute, name)
    page = open_page(OVERVIEW)
    assert not page.exception
    days = list_days(rows)[:14]
    shown = page.dataframe[-1].value
    expected = [compute_figures(rows, day) for day in days]
    for column in ("played", "traded", "players", "median", "best", "quests", "events", "signed_up"):
        assert list(shown[column]) == [figures[column] for figures in expected], column
    assert list(shown["session"]) == days
    assert list(shown["state"]) == ["so far" if day == today else "finished" for day in days]


@pytest.mark.parametrize("name", WITH_SESSIONS)
def test_the_cards_show_the_newest_session(
    service: EnhancedDatabaseService, execute: Execute, name: str, today: date
) -> None:
    """The cards have the figures of the newest session; those of an open session say "so far"."""
    rows = write_current_scenario(service, execute, name)
    page = open_page(OVERVIEW)
    newest, figures = list_days(rows)[0], compute_figures(rows, list_days(rows)[0])
    midnight = datetime.combine(today, time(0), UTC)
    seen = zip(rows.users["id"], rows.users["last_active"], strict=True)
    active = {user_id for user_id, moment in seen if moment and moment >= midnight}
    played = set(rows.portfolios[rows.portfolios["session_date"] == today]["user_id"])
    assert read_metrics(page) == {
        "Seen today": format_count(len(active | played)),
        "Played": format_count(figures["played"]),
        "Traded": format_count(figures["traded"]),
        "Players": format_count(figures["signed_up"]),
        "Median return": format_percent(figures["median"]),
        "Best return": format_percent(figures["best"]),
        "Quests completed": format_count(figures["quests"]),
        "Events of the day": format_count(figures["events"]),
    }
    assert page.metric[0].delta == f"of {format_quantity(len(rows.users), 'player')}"
    deltas = [metric.delta for metric in page.metric][1:]
    assert all(delta.startswith("so far") for delta in deltas) is (newest == today)
    if newest == today:
        assert {metric.proto.color for metric in page.metric} == {page.metric[0].proto.color}
    undated = sum(rows.quests["status"] == "COMPLETED") - rows.quests["completed_at"].notna().sum()
    is_named = f"{undated} completed quests have no known time of completion" in read_text(page)
    assert is_named is bool(undated)


def test_new_players_count_as_seen_and_as_players(service: EnhancedDatabaseService, execute: Execute) -> None:
    """Players who joined after the newest session count in "Seen today" and in the number of players."""
    write_current_scenario(service, execute, "one player")
    execute("DELETE FROM leaderboard_entries WHERE session_date = %s", (datetime.now(UTC).date(),))
    execute("UPDATE users SET last_active = now()")
    for name in ("yara", "zoe"):
        user = service.create_user(username=name)
        execute("UPDATE users SET last_active = now() WHERE id = %s", (user.id,))
    service.invalidate_reports()
    seen = open_page(OVERVIEW).metric[0]
    assert (seen.label, seen.value, seen.delta) == ("Seen today", "3", "of 3 players")


@pytest.mark.parametrize("name", ["nobody", "nobody played"])
def test_a_game_without_sessions_has_no_cards(
    service: EnhancedDatabaseService, execute: Execute, name: str
) -> None:
    """Without sessions the page says "No sessions yet" and has no cards."""
    write_current_scenario(service, execute, name)
    page = open_page(OVERVIEW)
    assert "No sessions yet" in read_text(page)
    assert not page.metric


def list_records(frame: pd.DataFrame) -> list[Any]:
    """Return the rows of a frame as named tuples."""
    return list(frame.itertuples())


def rank_by_value(rows: Rows, day: date) -> list[tuple[int, str, Decimal]]:
    """Return (rank, username, return) of each player of a session, ranked by value to the cent."""
    names = dict(zip(rows.users["id"], rows.users["username"], strict=True))
    of_day = rows.portfolios[rows.portfolios["session_date"] == day]
    values = sorted(of_day["total_value"], reverse=True)
    ranked = (
        (values.index(row.total_value) + 1, names[row.user_id], row.day_change_percent)
        for row in list_records(of_day)
    )
    return sorted(ranked, key=lambda row: (row[0], row[1]))


def read_leaderboard(page: AppTest, table: int = 0) -> list[tuple[int, str, str]]:
    """Return (rank, player, score) of each row of a table, by default the first table."""
    frame = page.dataframe[table].value
    return sorted(zip(frame["rank"], frame["player"], frame["score"], strict=True), key=lambda row: row[:2])


@pytest.mark.parametrize("name", WITH_SESSIONS)
def test_a_leaderboard_is_ranked_by_value(
    service: EnhancedDatabaseService, execute: Execute, name: str, today: date
) -> None:
    """Ranks, scores, changes of rank and the CSV file follow the values; only equal values share a rank."""
    rows = write_current_scenario(service, execute, name)
    days = list_days(rows)
    expected = rank_by_value(rows, days[0])
    page = open_page(LEADERBOARDS)
    assert not page.exception
    assert read_leaderboard(page) == [
        (rank, player, format_percent(score)) for rank, player, score in expected
    ]
    returns = list_scores(rows, "daily_returns", days[0])
    figures = read_metrics(page)
    assert figures["Players with a score"] == str(len(returns))
    assert figures["Best score"] == format_percent(returns[0])
    assert figures["Lowest score"] == format_percent(returns[-1])
    medals = {1: "gold", 2: "silver", 3: "bronze"}
    frame = page.dataframe[0].value
    assert [list(medal) for medal in frame["medal"]] == [
        [medals[rank]] if rank in medals else [] for rank in frame["rank"]
    ]
    before = {player: rank for rank, player, _ in rank_by_value(rows, days[1])} if len(days) > 1 else {}
    for rank, player, moved in zip(frame["rank"], frame["player"], frame["moved"], strict=True):
        moves = before.get(player, 0) - rank
        arrow = "=" if not moves else f"{'↑' if moves > 0 else '↓'} {abs(moves)}"
        assert moved == (arrow if player in before else "no rank before")
    selection = Selection(KNOWN_CATEGORIES[0], days[0], 1, None, 25, "rank", "")
    file = download.read(service, selection)
    text = "".join(write_csv(file.columns, file.rows))
    lines = list(csv.reader(StringIO(text)))[1:]
    assert sorted((int(line[0]), line[1], Decimal(line[2])) for line in lines) == expected


def test_the_best_score_is_that_of_the_leader(service: EnhancedDatabaseService, today: date) -> None:
    """The best score is the return of the player with the highest value, even if another return is higher."""
    runtime.set_service(service)
    for name, value, percent in (("alice", 10_500, "6.00"), ("bob", 10_550, "5.50")):
        player = service.create_user(username=name).id
        service.update_leaderboard_entry(player, "total_value", Decimal(value), today)
        service.update_leaderboard_entry(player, "daily_returns", Decimal(percent), today)
    source = ScoreSource(today, "daily_returns", "total_value")
    summary = source.find_summary(service, least_width=Decimal("0.01"))
    assert summary is not None
    assert (summary.leader, summary.best, summary.leaders) == ("bob", Decimal("5.50"), 1)


@pytest.mark.parametrize("name", WITH_SESSIONS)
def test_a_period_is_the_mean_of_its_sessions(
    service: EnhancedDatabaseService, execute: Execute, name: str
) -> None:
    """The score of a period is the mean over its sessions; a session that the player missed counts as 0."""
    rows = write_current_scenario(service, execute, name)
    days = list_days(rows)[:7]
    if len(days) < 2:
        return
    names = dict(zip(rows.users["id"], rows.users["username"], strict=True))
    shown = rows.portfolios[rows.portfolios["session_date"].isin(days)]
    changes: dict[str, list[Decimal]] = {}
    for row in list_records(shown):
        changes.setdefault(names[row.user_id], []).append(row.day_change)
    totals = sorted((sum(values, Decimal(0)) for values in changes.values()), reverse=True)
    page = open_page(LEADERBOARDS, period="7 sessions")
    assert not page.exception
    frame = page.dataframe[0].value
    assert dict(zip(frame["player"], frame["sessions"], strict=True)) == {
        player: len(values) for player, values in changes.items()
    }
    for player, rank, score in zip(frame["player"], frame["rank"], frame["score"], strict=True):
        total = sum(changes[player], Decimal(0))
        assert rank == totals.index(total) + 1
        mean = (total / len(days)).quantize(CENT) / 100
        assert score == format_percent(mean)
    assert "A session without a score counts as 0" in read_text(page)
    page = open_page(LEADERBOARDS, category="total_value", period="7 sessions")
    frame = page.dataframe[0].value
    for player, rank, score in zip(frame["player"], frame["rank"], frame["score"], strict=True):
        total = sum(changes[player], Decimal(0))
        assert rank == totals.index(total) + 1
        assert score == format_money(STARTING_CASH + total / len(days))
    assert "counts as the starting cash of" in read_text(page)


def test_a_running_total_has_no_period(service: EnhancedDatabaseService, execute: Execute) -> None:
    """The completed quests are a running total, so the page shows one session instead of a mean."""
    rows = write_current_scenario(service, execute, WITH_SESSIONS[0])
    day = list_days(rows)[0]
    service.update_leaderboard_entry(rows.users["id"][0], "quests_completed", Decimal(1900), day)
    page = open_page(LEADERBOARDS, category="quests_completed", day=day.isoformat(), period="30 sessions")
    assert not page.exception
    assert page.dataframe[0].value["score"][0] == "1,900"
    assert "sessions" not in page.dataframe[0].value
    assert "running total, so it has no mean" in read_text(page)


def test_equal_returns_are_ranked_by_value(service: EnhancedDatabaseService) -> None:
    """Players with equal rounded returns are ranked by value; players with equal values share a rank."""
    day = date(2026, 3, 2)
    values = {"alice": "10100.01", "bob": "10100.04", "charlie": "10100.04", "dave": "10099.98"}
    ids = {name: service.create_user(username=name).id for name in values}
    amounts = {ids[name]: Decimal(value) for name, value in values.items()}
    returns = {user_id: round(value / 100 - 100, 2) for user_id, value in amounts.items()}
    for key, scores in (("daily_returns", returns), ("total_value", amounts)):
        updates = [LeaderboardUpdate(user_id, score) for user_id, score in scores.items()]
        service.batch_update_leaderboard(key, updates, day)
    runtime.set_service(service)
    page = open_page(LEADERBOARDS)
    expected = [(1, "bob", "+1.00%"), (1, "charlie", "+1.00%"), (3, "alice", "+1.00%"), (4, "dave", "+1.00%")]
    assert read_leaderboard(page) == expected
    assert list(page.dataframe[0].value["value"])[2:] == ["$10,100.01", "$10,099.98"]
    assert "bob and 1 more" in [metric.delta for metric in page.metric]
    leaders = [line for line in read_text(open_page(OVERVIEW)).splitlines() if "+1.00%" in line]
    assert [line.split(".")[0] for line in leaders] == ["1", "1", "3", "4"]
    # dave's return no longer follows from his value, so the page ranks by return
    service.update_leaderboard_entry(ids["dave"], "daily_returns", Decimal(9), day)
    runtime.get_cache().clear()
    found = data.load_page(service, Selection(KNOWN_CATEGORIES[0], day, 1, None, 25, "rank", ""), 1)
    assert found is not None
    assert [(entry.username, entry.rank) for entry in found.rows.entries][:2] == [("dave", 1), ("alice", 2)]


def test_refresh_reads_cached_reports_again(service: EnhancedDatabaseService, execute: Execute) -> None:
    """The refresh button reads cached reports again, but a second click within seconds does not."""
    rows = write_current_scenario(service, execute, "one player")
    page = open_page(OVERVIEW)
    before = int(read_metrics(page)["Quests completed"])
    columns = "(user_id, type, title, target_value, status, created_at, completed_at)"
    values = "(%s, 'T', 'T', 1, 'COMPLETED', '2013-01-01', now())"
    execute(f"INSERT INTO quests {columns} VALUES {values}", (rows.users["id"][0],))
    assert int(read_metrics(page.run())["Quests completed"]) == before
    page.button(key="refresh").click().run()
    assert int(read_metrics(page)["Quests completed"]) == before + 1
    execute(f"INSERT INTO quests {columns} VALUES {values}", (rows.users["id"][0],))
    page.button(key="refresh").click().run()
    assert int(read_metrics(page)["Quests completed"]) == before + 1


def test_refresh_keeps_values_while_the_database_fails(
    service: EnhancedDatabaseService, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the database fails, the refresh button keeps the last known values and invalidates nothing."""
    write_current_scenario(service, execute, "one player")
    page = open_page(OVERVIEW)
    figures = read_metrics(page)
    dropped: list[object] = []
    monkeypatch.setattr(service._cache, "invalidate", dropped.append)

    def fail(*_: object, **__: object) -> None:
        raise DatabaseUnavailable("gone")

    monkeypatch.setattr(service._database, "read", fail)
    page.button(key="refresh").click().run()
    assert not page.exception
    assert read_metrics(page) == figures
    assert not dropped
