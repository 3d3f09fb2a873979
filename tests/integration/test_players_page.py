"""The Players page in worlds of different attendance, run by Streamlit against a real database."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from core import EnhancedDatabaseService, Settings
from dashboard import runtime
from dashboard.navigation import SCRIPTS
from tests.conftest import Execute
from tests.dashboard_process import run_dashboard
from tests.integration.pages import open_page, read_metrics, read_text
from tests.integration.test_players import World
from tests.situations import SITUATIONS, write_situation

PAGE = SCRIPTS["players"]
DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def _no_service_left() -> Iterator[None]:
    """Take the service out of the pages' reach after each test."""
    yield
    runtime.set_service(None)


def open_world(service: EnhancedDatabaseService, name: str) -> datetime:
    """Write a situation as of now and give the pages its service; return that time."""
    now = datetime.now(UTC)
    service._clock = lambda: now
    write_situation(service, name, now)
    runtime.set_service(service)
    return now


@pytest.mark.parametrize("name", SITUATIONS)
def test_the_page_opens_in_every_situation(service: EnhancedDatabaseService, name: str) -> None:
    """Nothing fails, and an empty game says how to get players."""
    open_world(service, name)
    page = open_page(PAGE)
    assert not page.exception
    assert not page.warning
    assert ("No players yet" in read_text(page)) == (name == "nobody")


def test_figures_are_those_of_a_recount(service: EnhancedDatabaseService, execute: Execute) -> None:
    """Seen, lost and the finished window, from all rows."""
    now = open_world(service, "players come and go")
    world = World(execute, now.date())
    figures = read_metrics(open_page(PAGE, window="30 days"))
    ages = [(now.date() - day).days for user in world.users if (day := world.last_seen(user))]
    assert figures["Seen today, so far"] == str(ages.count(0))
    assert figures["Seen in 7 days"] == str(sum(age < 7 for age in ages))
    assert figures["Seen in 30 days"] == str(sum(age < 30 for age in ages))
    assert figures["Lost"] == str(sum(age >= 30 for age in ages))
    assert figures["Newly lost"] == str(sum(31 <= age <= 60 for age in ages))
    window = world.window(now.date() - 30 * DAY, now.date() - DAY)
    assert figures["Played"] == str(window.played)
    assert figures["New"] == str(window.joined)
    assert figures["Returning"] == str(window.returned)


def test_filters_of_the_list_are_a_link(service: EnhancedDatabaseService) -> None:
    """Days, sessions and name are in the address; an unknown value is named."""
    open_world(service, "players come and go")
    page = open_page(PAGE, silent="7", played="5", name="C")
    assert list(page.dataframe[-1].value["player"]) == ["portfolios?player=charlie"]
    assert "1 to 1 of 1 players not seen for at least 7 days" in read_text(page)
    assert "There is no number of days “8”" in read_text(open_page(PAGE, silent="8"))
    assert "No player starting with “zz”" in read_text(open_page(PAGE, name="zz"))


def test_nobody_silent_is_said(service: EnhancedDatabaseService) -> None:
    """Everybody was seen today."""
    open_world(service, "only an open session")
    assert "No player is silent for 30 days" in read_text(open_page(PAGE))


def test_downloads_have_all_rows_of_the_list(
    service: EnhancedDatabaseService, settings: Settings, tmp_path: Path
) -> None:
    """The filters are followed; a wrong one is named. Retention has a row for each week of a cohort."""
    now = datetime.now(UTC)
    write_situation(service, "players come and go", now)
    with run_dashboard(
        tmp_path, DATABASE_URL=settings.database_url.get_secret_value(), ENABLE_REDIS_CACHE="false"
    ) as dashboard:
        status, body = dashboard.fetch("/download/silent-players.csv?days=7&sessions=5&prefix=c")
        assert status == 200
        assert [line.split(",")[0] for line in body.splitlines()] == ["username", "charlie"]
        status, body = dashboard.fetch("/download/silent-players.csv?days=many")
        assert (status, body) == (400, "days is 'many'; give a whole number\n")
        status, body = dashboard.fetch("/download/retention.csv")
        assert status == 200
        cohorts = service.get_player_report().cohorts
        cells = sum(played is not None for cohort in cohorts for played in cohort.played)
        assert len(body.splitlines()) == 1 + cells
