"""Leaderboards and Portfolios in a real browser, and every page's layout, with a real dashboard process.

Writes screenshots of the pages, in both themes and two widths, to `tests/output`.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect
from pydantic import SecretStr

from core import EnhancedDatabaseService, Settings
from core.migration import Migrator
from core.records import LeaderboardEntry
from core.simulation.replay import plan_seed
from core.stack.ports import find_free_port
from core.testing import PostgresServer, run_postgres
from tests.conftest import created_database
from tests.dashboard_process import ROOT, Dashboard, run_dashboard
from tests.end_to_end.browsing import (
    WAIT_MS,
    choose_row,
    is_dark,
    read_cells,
    read_parameters,
    visit,
    wait_until_complete,
)
from tests.game import open_database, play_game
from tests.patience import stretch
from tests.price_files import import_prices

pytestmark = [pytest.mark.browser, pytest.mark.slow]

OUTPUT = ROOT / "tests" / "output"
PRICES = ROOT / "data" / "market_history.csv.gz"
PLAYERS, SESSIONS = 40, 120
HEAL_MS = 60_000


@pytest.fixture(scope="module")
def seeded_url(postgres_server: PostgresServer, template_database: str) -> Iterator[str]:
    """Yield the URL of a database with a game that was replayed from the shipped prices."""
    with created_database(postgres_server, template=template_database) as url:
        with open_database(url) as service:
            import_prices(service, PRICES)
            plan_seed(service, players=PLAYERS, sessions=SESSIONS).run()
        yield url


@pytest.fixture(scope="module")
def dashboard(seeded_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    """Yield a dashboard on the seeded database, without Redis."""
    folder = tmp_path_factory.mktemp("dashboard")
    with run_dashboard(folder, DATABASE_URL=seeded_url, ENABLE_REDIS_CACHE="false") as dashboard:
        yield dashboard


@pytest.fixture(scope="module")
def service(seeded_url: str) -> Iterator[EnhancedDatabaseService]:
    """Yield a service on the seeded database; tests compare the pages with its results."""
    with open_database(seeded_url) as service:
        yield service


@pytest.fixture(scope="module")
def leaderboard(service: EnhancedDatabaseService) -> tuple[LeaderboardEntry, ...]:
    """Return the first 25 entries of the newest daily-returns leaderboard."""
    [newest] = service.list_session_dates(limit=1)
    return service.get_leaderboard("daily_returns", newest, 25)


@pytest.fixture
def open_context(browser: Browser) -> Iterator[Callable[..., BrowserContext]]:
    """Yield a function that opens browser contexts; a request to another host fails the test."""
    contexts: list[BrowserContext] = []
    outside: list[str] = []

    def record_outside(url: str) -> None:
        if urlsplit(url).hostname not in {"127.0.0.1", None}:
            outside.append(url)

    def open_one(**options: Any) -> BrowserContext:
        # in this time zone, a date wrongly shown in local time would be one day too early
        context = browser.new_context(timezone_id="America/Los_Angeles", **options)
        context.set_default_timeout(WAIT_MS)
        context.on("request", lambda request: record_outside(request.url))
        context.on("page", lambda page: page.on("websocket", lambda socket: record_outside(socket.url)))
        contexts.append(context)
        return context

    yield open_one
    for context in contexts:
        context.close()
    assert not outside


@pytest.fixture
def page(open_context: Callable[..., BrowserContext]) -> Page:
    """Return a browser page of a desktop's size."""
    return open_context(viewport={"width": 1440, "height": 1000}).new_page()


def test_seeded_players_are_on_the_leaderboard(
    page: Page, dashboard: Dashboard, leaderboard: tuple[LeaderboardEntry, ...]
) -> None:
    """The leaderboard shows the newest session's players, best first."""
    visit(page, f"{dashboard.url}/leaderboards")
    shown = set(read_cells(page))
    names = [entry.username for entry in leaderboard if entry.username in shown]
    # the table's text has only the visible rows
    assert len(names) >= 10
    assert names == [entry.username for entry in leaderboard][: len(names)]
    expect(page.get_by_text("Best score")).to_be_visible()
    expect(page.locator("[data-testid=stException]")).to_have_count(0)


def test_a_click_on_a_row_opens_the_player(
    page: Page,
    dashboard: Dashboard,
    service: EnhancedDatabaseService,
    leaderboard: tuple[LeaderboardEntry, ...],
) -> None:
    """A click on a row opens the player in the same tab; the Leaderboards link then restores the filters."""
    visit(page, f"{dashboard.url}/leaderboards?top=10&against=2013-02-26")
    read_cells(page)
    choose_row(page, row=2)
    second = service.get_user_by_id(leaderboard[1].user_id)
    expect(page.get_by_role("heading", name=second.name or "", exact=True)).to_be_visible()
    wait_until_complete(page)
    assert read_parameters(page) == {"player": second.username, "window": "Last session"}
    assert len(page.context.pages) == 1
    page.get_by_role("link", name="Leaderboards").click()
    expect(page.get_by_role("heading", name="Top 10 by daily return")).to_be_visible()
    wait_until_complete(page)
    assert read_parameters(page) == {"top": "10", "against": "2013-02-26"}


def test_the_keyboard_opens_a_player(
    page: Page, dashboard: Dashboard, leaderboard: tuple[LeaderboardEntry, ...]
) -> None:
    """With the focus in the table, the keys down and right open the second player."""
    visit(page, f"{dashboard.url}/leaderboards?top=10&live=false")
    read_cells(page)
    page.get_by_role("button", name="Fullscreen").first.focus()
    page.keyboard.press("Tab")
    expect(page.locator("[data-testid=stDataFrame] canvas:focus").first).to_be_attached()
    wait_until_complete(page)
    page.keyboard.press("ArrowDown")
    wait_until_complete(page)
    assert urlsplit(page.url).path == "/leaderboards"
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("heading", name="Portfolios")).to_be_visible()
    wait_until_complete(page)
    assert read_parameters(page)["player"] == leaderboard[1].username


def test_a_search_shows_the_player_and_the_neighbours(
    page: Page, dashboard: Dashboard, leaderboard: tuple[LeaderboardEntry, ...]
) -> None:
    """Typing a username shows the player among the neighbouring ranks; the address opens the same view."""
    visit(page, f"{dashboard.url}/leaderboards")
    page.get_by_label("Find a player").press_sequentially(leaderboard[6].username, delay=20)
    heading = page.get_by_role("heading", name=f"Around {leaderboard[6].username}, {leaderboard[6].rank} of ")
    expect(heading).to_be_visible()
    page.wait_for_url(f"**/leaderboards?find={leaderboard[6].username}")
    visit(page, page.url)
    expect(heading).to_be_visible()


def test_a_search_from_page_2_removes_the_page_number(page: Page, dashboard: Dashboard) -> None:
    """A search on page 2 of the leaderboard removes only the page number from the address."""
    visit(page, f"{dashboard.url}/leaderboards?top=10&page=2&live=false")
    page.get_by_label("Find a player").press_sequentially("c", delay=20)
    expect(page.get_by_role("heading", name="starting with “c”")).to_be_visible()
    wait_until_complete(page)
    assert read_parameters(page) == {"top": "10", "find": "c", "live": "false"}


def test_all_rows_are_downloaded(
    page: Page,
    dashboard: Dashboard,
    service: EnhancedDatabaseService,
    leaderboard: tuple[LeaderboardEntry, ...],
) -> None:
    """The CSV link downloads every entry of the session, best first."""
    visit(page, f"{dashboard.url}/leaderboards?top=10")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download CSV").click()
    day = leaderboard[0].session_date
    assert download.value.suggested_filename == f"leaderboard-daily_returns-{day}.csv"
    rows = Path(download.value.path()).read_text().splitlines()
    assert len(rows) == 1 + service.count_leaderboard("daily_returns", day)
    assert rows[1].startswith(f"1,{leaderboard[0].username},")


def test_a_link_compares_two_players(
    page: Page, dashboard: Dashboard, leaderboard: tuple[LeaderboardEntry, ...]
) -> None:
    """An address with `player` and `rival` shows both players side by side."""
    first, second = leaderboard[0].username, leaderboard[1].username
    visit(page, f"{dashboard.url}/portfolios?player={first}&rival={second}")
    expect(page.get_by_role("heading", name="Side by side")).to_be_visible()
    assert read_parameters(page) == {"player": first, "rival": second}


def test_a_link_opens_the_same_view(
    page: Page, dashboard: Dashboard, service: EnhancedDatabaseService
) -> None:
    """An address with category, session and number of rows opens exactly this leaderboard."""
    visit(page, f"{dashboard.url}/leaderboards?category=Total+value&day=2013-02-28&top=10")
    [best] = service.get_leaderboard("total_value", date(2013, 2, 28), 1)
    expect(page.get_by_text(f"${best.score:,.2f}")).to_be_visible()
    assert best.username in read_cells(page)
    expect(page.get_by_role("heading", name="Top 10 by total value")).to_be_visible()
    expect(page.get_by_role("combobox", name="Session")).to_have_value("2013-02-28")
    assert read_parameters(page) == {"category": "Total value", "day": "2013-02-28", "top": "10"}


def test_filters_are_kept_on_a_visit_to_another_page(page: Page, dashboard: Dashboard) -> None:
    """After a visit to another page, the filters are as before."""
    visit(page, f"{dashboard.url}/leaderboards?category=Total+value&top=10")
    page.get_by_role("link", name="Portfolios").click()
    expect(page.get_by_role("heading", name="Portfolios")).to_be_visible()
    page.get_by_role("link", name="Leaderboards").click()
    expect(page.get_by_role("heading", name="Top 10 by total value")).to_be_visible()
    wait_until_complete(page)
    assert read_parameters(page) == {"category": "Total value", "top": "10"}


def test_a_player_is_found_while_typing(
    page: Page, dashboard: Dashboard, service: EnhancedDatabaseService
) -> None:
    """Typed letters list matching players; the chosen player is in the address."""
    [wanted, *_] = service.search_users("", limit=1)
    visit(page, f"{dashboard.url}/portfolios")
    page.get_by_label("Find a player").press_sequentially(wanted.username[:3], delay=30)
    page.get_by_role("button", name=wanted.username).click()
    expect(page.get_by_role("heading", name=wanted.name or "", exact=True)).to_be_visible()
    wait_until_complete(page)
    assert read_parameters(page) == {"player": wanted.username}


def test_an_unknown_player_is_named(page: Page, dashboard: Dashboard) -> None:
    """A link to an unknown player shows a message and a search field with the name."""
    visit(page, f"{dashboard.url}/portfolios?player=zorro")
    expect(page.get_by_text("No player is called “zorro”")).to_be_visible()
    expect(page.get_by_label("Find a player")).to_have_value("zorro")


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("overview", "/"),
        ("leaderboards", "/leaderboards"),
        ("players", "/players?silent=1"),
        ("portfolios", "/portfolios?player={leader}&rival={second}&window=All"),
        ("market", "/market?symbol=FB&range=1+year"),
        ("quests", "/quests?player={leader}"),
    ],
)
def test_every_page_fits_in_both_themes(
    open_context: Callable[..., BrowserContext],
    dashboard: Dashboard,
    leaderboard: tuple[LeaderboardEntry, ...],
    *,
    name: str,
    path: str,
    theme: str,
    width: int,
) -> None:
    """No page is wider than the window, and each has the background of its theme."""
    page = open_context(viewport={"width": width, "height": 1000}, color_scheme=theme).new_page()
    visit(page, dashboard.url + path.format(leader=leaderboard[0].username, second=leaderboard[1].username))
    read_cells(page)
    page.locator("[data-testid=stVegaLiteChart] svg, [data-testid=stDataFrame]").first.wait_for()
    tall = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
    page.set_viewport_size({"width": width, "height": max(1000, tall)})
    page.wait_for_timeout(500)  # time for the charts to be drawn at the new size
    OUTPUT.mkdir(exist_ok=True)
    page.screenshot(path=OUTPUT / f"{name}-{theme}-{width}.png")
    assert not page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
    background = page.evaluate("getComputedStyle(document.querySelector('.stApp')).backgroundColor")
    assert is_dark(background) is (theme == "dark")


@contextmanager
def running_postgres(folder: Path, port: int) -> Iterator[str]:
    """Run a PostgreSQL server on a given port, so that a test can start it again; yield its URL."""
    with run_postgres(folder, port=port, options={"fsync": "off"}) as server:
        yield server.url()


def test_an_open_page_recovers_without_a_reload(page: Page, tmp_path: Path) -> None:
    """Without PostgreSQL, a page shows an error id of the log; once PostgreSQL runs, it shows the player."""
    folder, port = tmp_path / "postgres", find_free_port()
    with running_postgres(folder, port) as url:
        Migrator(Settings(database_url=SecretStr(url))).up()
        with open_database(url) as service:
            play_game(service)
    with run_dashboard(tmp_path, DATABASE_URL=url, ENABLE_REDIS_CACHE="false") as dashboard:
        visit(page, f"{dashboard.url}/portfolios?player=alice")
        expect(page.get_by_text("The database cannot be reached")).to_be_visible()
        expect(page.get_by_role("button", name="Retry")).to_be_visible()
        expect(page.get_by_text("Traceback")).to_have_count(0)
        error_id = page.locator(".st-key-state-problem code").last.inner_text()
        assert error_id in dashboard.log.read_text()
        with running_postgres(folder, port):
            heading = page.get_by_role("heading", name="Alice Example")
            expect(heading).to_be_visible(timeout=HEAL_MS)
        page.get_by_label("Find a player").fill("bob")
        # the search and the player's section each show the message
        expect(page.get_by_text("The database cannot be reached").first).to_be_visible()
        with running_postgres(folder, port):
            heading = page.get_by_role("heading", name="Bob Example")
            expect(heading).to_be_visible(timeout=HEAL_MS)


def test_the_first_request_may_open_any_page(page: Page, seeded_url: str, tmp_path: Path) -> None:
    """The first request to a new dashboard process may open any page."""
    with run_dashboard(tmp_path, DATABASE_URL=seeded_url, ENABLE_REDIS_CACHE="false") as fresh:
        visit(page, f"{fresh.url}/portfolios")
        expect(page.get_by_role("heading", name="Portfolios")).to_be_visible()
        expect(page.get_by_text("Page not found")).to_have_count(0)


def test_the_dashboard_stops_while_a_page_is_open(page: Page, tmp_path: Path) -> None:
    """A dashboard that gets SIGTERM while a page is open exits within 5 s."""
    url = f"postgresql://nobody@127.0.0.1:{find_free_port()}/nothing"
    with run_dashboard(tmp_path, DATABASE_URL=url, ENABLE_REDIS_CACHE="false") as other:
        visit(page, other.url)
        started = time.monotonic()
        other.process.terminate()
        assert other.process.wait(10) == 0
        assert time.monotonic() - started < stretch(5)
