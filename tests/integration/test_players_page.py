"""The Players page in every scenario of tests/scenarios.py, run by Streamlit's AppTest."""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from streamlit.testing.v1 import AppTest

from core import EnhancedDatabaseService, Settings
from core.errors import QueryTimeout
from dashboard import runtime
from dashboard.navigation import SCRIPTS
from tests.conftest import Execute
from tests.dashboard_process import run_dashboard
from tests.integration.pages import open_page, read_metrics, read_text
from tests.integration.test_players import Recount
from tests.scenarios import SCENARIOS, write_scenario

pytestmark = pytest.mark.usefixtures("released_pages")

PAGE = SCRIPTS["players"]
DAY = timedelta(days=1)


def prepare_pages(service: EnhancedDatabaseService, name: str) -> datetime:
    """Write a scenario as of now, let the pages use the service, and return that time."""
    now = datetime.now(UTC)
    service._clock = lambda: now
    write_scenario(service, name, now)
    runtime.set_service(service)
    return now


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_page_opens_in_every_scenario(service: EnhancedDatabaseService, name: str) -> None:
    """The page shows no exception and no warning; without users it says "No players yet"."""
    prepare_pages(service, name)
    page = open_page(PAGE)
    assert not page.exception
    assert not page.warning
    assert ("No players yet" in read_text(page)) == (name == "nobody")


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name != "nobody"])
def test_figures_equal_a_recount(service: EnhancedDatabaseService, execute: Execute, name: str) -> None:
    """The figures equal a recount of all rows; rows dated tomorrow are not counted."""
    now = prepare_pages(service, name)
    tomorrow = now + DAY
    execute("UPDATE users SET last_active = %s WHERE username = 'erin'", (tomorrow,))
    execute(
        "INSERT INTO portfolios (user_id, session_date) SELECT id, %s FROM users WHERE username = 'alice'",
        (tomorrow.date(),),
    )
    recount = Recount(execute, now.date())
    page = open_page(PAGE, window="30 days")
    figures = read_metrics(page)
    ages = [(now.date() - day).days for user in recount.users if (day := recount.last_seen(user))]
    today = recount.window(now.date(), now.date())
    traded = {row["user_id"] for row in recount.rows["trades"] if row["session_date"] == now.date()}
    assert [(metric.label, metric.value) for metric in page.metric[:4]] == [
        ("Seen", str(ages.count(0))),
        ("Played", str(today.played)),
        ("Traded", str(len(traded))),
        ("New", str(today.joined)),
    ]
    assert f"Returning today, so far: {today.returned}." in read_text(page)
    assert figures["Seen in 7 days"] == str(sum(age < 7 for age in ages))
    assert figures["Seen in 30 days"] == str(sum(age < 30 for age in ages))
    assert figures["Lost"] == str(sum(age >= 30 for age in ages))
    assert figures["Players"] == str(len(recount.users))
    assert figures["Newly lost"] == str(sum(31 <= age <= 60 for age in ages))
    [newly] = [metric for metric in page.metric if metric.label == "Newly lost"]
    assert newly.delta == f"before: {sum(61 <= age <= 90 for age in ages)} · today: {ages.count(30)}"
    window = recount.window(now.date() - 30 * DAY, now.date() - DAY)
    assert figures["Played"] == str(window.played)
    assert figures["New"] == str(window.joined)
    assert figures["Returning"] == str(window.returned)


@pytest.mark.parametrize(
    ("name", "lost_today"), [(name, days) for name in SCENARIOS for days in (0, 1) if name != "nobody"]
)
def test_the_page_counts_the_lost_players(
    service: EnhancedDatabaseService, execute: Execute, name: str, lost_today: int
) -> None:
    """The page counts players lost in total, today, in the last 7 finished days, and in the 7 days before."""
    now = prepare_pages(service, name)
    if lost_today:
        execute("UPDATE users SET last_active = %s WHERE username = 'alice'", (now - 30 * DAY,))
        execute("DELETE FROM portfolios WHERE user_id = (SELECT id FROM users WHERE username = 'alice')")
    recount = Recount(execute, now.date())
    ages = [(now.date() - day).days for user in recount.users if (day := recount.last_seen(user))]
    lost = sum(age >= 30 for age in ages)
    text = read_text(open_page(PAGE))
    if not lost:
        assert "**No player is lost**" in text
        return
    assert (
        f"**{lost} of {len(ages)} player{'' if len(ages) == 1 else 's'} ever seen "
        f"{'is' if lost == 1 else 'are'} lost**: not seen for 30 days. "
        f"Newly lost: {sum(31 <= age <= 37 for age in ages)} in the last 7 finished days, "
        f"{sum(38 <= age <= 44 for age in ages)} in the 7 days before, {ages.count(30)} today so far." in text
    )
    assert not lost_today or ages.count(30) >= 1


@pytest.mark.parametrize("name", ["players come and go", "one player"])
def test_players_who_joined_before_the_cohorts_are_counted(
    service: EnhancedDatabaseService, execute: Execute, name: str
) -> None:
    """The page counts players who joined before the 13 cohort weeks; the list can show one of those weeks."""
    now = prepare_pages(service, name)
    monday = now.date() - timedelta(days=now.weekday())
    players = len(Recount(execute, now.date()).users)
    assert "Joined before these weeks" not in read_text(open_page(PAGE))
    week = monday - timedelta(weeks=13)
    execute("UPDATE users SET created_at = %s WHERE username IN ('alice', 'charlie')", (week + DAY,))
    service.invalidate_reports()
    earlier = min(players, 2)
    page = open_page(PAGE, joined=week.isoformat())
    expected = f"Joined before these weeks, so in no row: {earlier} of {players} players."
    assert ("Nobody has joined in the last 13 weeks" if players == 1 else expected) in read_text(page)
    assert [player["player"] for player in list_silent(page)] == (
        ["portfolios?player=charlie"] if players > 1 else []
    )


def list_silent(page: AppTest) -> list[dict[Any, Any]]:
    """Return the rows of the list of silent players; an empty list if the page has no such list."""
    tables = [table.value for table in page.dataframe if "seen" in table.value]
    return [row for table in tables for row in table.to_dict("records")]


def test_one_player_is_written_in_the_singular(service: EnhancedDatabaseService, execute: Execute) -> None:
    """After the number 1 nouns are in the singular. The username 'a_b*c' is unchanged in its link."""
    prepare_pages(service, "one player")
    execute("UPDATE users SET username = 'a_b*c', last_active = last_active - interval '40 days'")
    execute("DELETE FROM portfolios WHERE session_date > current_date - 2")
    page = open_page(PAGE, silent="1")
    text = read_text(page)
    assert [player["player"] for player in list_silent(page)] == ["portfolios?player=a_b%2Ac"]
    assert "1 to 1 of 1 player not seen for at least 1 day." in text
    assert not re.search(r"\b1 (players|days|sessions|weeks)\b", text)


def test_today_is_shown_when_the_report_times_out(
    service: EnhancedDatabaseService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the report times out, today's figures and the list of silent players are shown nevertheless."""
    prepare_pages(service, "players come and go")

    def fail(_: EnhancedDatabaseService) -> None:
        raise QueryTimeout("get_player_report took too long")

    monkeypatch.setattr(type(service), "get_player_report", fail)
    page = open_page(PAGE, silent="7")
    assert [metric.label for metric in page.metric] == ["Seen", "Played", "Traded", "New"]
    assert "charlie" in page.dataframe[-1].value["player"].iloc[-1]
    assert page.warning


def test_the_url_filters_the_list(service: EnhancedDatabaseService) -> None:
    """The URL filters the list by days, sessions and name; a message names a value without a match."""
    prepare_pages(service, "players come and go")
    page = open_page(PAGE, silent="7", played="5", name="C")
    assert list(page.dataframe[-1].value["player"]) == ["portfolios?player=charlie"]
    assert "1 to 1 of 1 player not seen for at least 7 days" in read_text(page)
    assert "There is no number of days “8”" in read_text(open_page(PAGE, silent="8"))
    assert "No player starting with “zz”" in read_text(open_page(PAGE, name="zz"))


def test_an_empty_list_of_silent_players_is_named(service: EnhancedDatabaseService) -> None:
    """When every player was seen today, the page says "No player is silent for 30 days"."""
    prepare_pages(service, "only an open session")
    assert "No player is silent for 30 days" in read_text(open_page(PAGE))


def test_downloads_have_all_rows(
    service: EnhancedDatabaseService, settings: Settings, tmp_path: Path
) -> None:
    """Each CSV download has all rows that match its filters; an invalid filter gives status 400."""
    now = datetime.now(UTC)
    write_scenario(service, "players come and go", now)
    # the scenario itself has stuck quests only at some times of the day
    [quest] = service.get_user_quests(service.get_user_by_username("charlie").id, limit=1)
    changes = {"status": "ACTIVE", "current_progress": Decimal(0), "completed_at": None, "expires_at": None}
    created_at = now - timedelta(days=8)
    service.load_quests([msgspec.structs.replace(quest, id=uuid4(), created_at=created_at, **changes)])
    with run_dashboard(
        tmp_path, DATABASE_URL=settings.database_url.get_secret_value(), ENABLE_REDIS_CACHE="false"
    ) as dashboard:
        status, body = dashboard.fetch("/download/silent-players.csv?days=7&sessions=5&prefix=c")
        assert status == 200
        assert [line.split(",")[0] for line in body.splitlines()] == ["username", "charlie"]
        status, body = dashboard.fetch("/download/silent-players.csv?days=many")
        assert (status, body) == (400, "days is 'many'; give a whole number\n")
        status, body = dashboard.fetch("/download/stuck-quests.csv")
        stuck = service.list_stuck_quests(limit=10_000)
        assert (status, stuck.quests > 0) == (200, True)
        assert [line.split(",")[0] for line in body.splitlines()] == [
            "username",
            *(item.username for item in stuck.first),
        ]
        status, body = dashboard.fetch("/download/retention.csv")
        assert status == 200
        cohorts = service.get_player_report().cohorts
        cells = sum(played is not None for cohort in cohorts for played in cohort.played)
        assert len(body.splitlines()) == 1 + cells
