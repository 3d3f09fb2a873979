"""Overview, Market and Quests in a real browser: links, live sections, and an outage of the database."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect
from pydantic import SecretStr

from core import Settings
from core.migration import Migrator
from core.stack.ports import find_free_port
from core.testing import run_postgres
from tests.conftest import FAST
from tests.dashboard_process import Dashboard, run_dashboard
from tests.end_to_end.browsing import (
    ROW_PIXELS,
    WAIT_MS,
    read_cells,
    read_parameters,
    visit,
    wait_until_complete,
)
from tests.game import open_database, play_game
from tests.market import open_market

pytestmark = [pytest.mark.browser, pytest.mark.slow]

REFRESH_MS = 60_000
"""A section refreshes within seconds; this limit allows for a busy machine."""


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Yield a browser page of a desktop's size in the time zone of Los Angeles."""
    context = browser.new_context(viewport={"width": 1440, "height": 1000}, timezone_id="America/Los_Angeles")
    context.set_default_timeout(WAIT_MS)
    yield context.new_page()
    context.close()


def wait_for_parameters(page: Page, expected: dict[str, str]) -> None:
    """Wait until the page's address has exactly these query parameters."""
    page.wait_for_url(lambda url: dict(parse_qsl(urlsplit(url).query)) == expected)


def read_table(page: Page, number: int) -> list[str]:
    """Wait until a table of the page has rows, and return the texts of its cells."""
    cells = page.locator("[data-testid=stDataFrame]").nth(number).locator("canvas table td")
    cells.first.wait_for(state="attached")
    return cells.all_inner_texts()


def test_the_overview_opens_first_and_links_to_every_page(page: Page, dashboard: Dashboard) -> None:
    """The overview opens first; it links to the other pages and to the player who leads."""
    visit(page, dashboard.url)
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    expect(page).to_have_title("Overview - Echo Markets")
    for name in ("Leaderboards", "Portfolios", "Market", "Quests"):
        expect(page.get_by_role("link", name=name, exact=True)).to_be_visible()
    expect(page.get_by_role("link", name="alice", exact=True)).to_have_attribute(
        "href", "portfolios?player=alice&window=Last%20session"
    )
    expect(page.locator("[data-testid=stException]")).to_have_count(0)
    visit(page, f"{dashboard.url}/portfolios?player=alice")
    expect(page).to_have_title("alice - Echo Markets")


def test_a_click_on_a_market_row_selects_its_symbol(page: Page, dashboard: Dashboard) -> None:
    """A click on a row of the Market page shows its symbol in the chart and in the address."""
    visit(page, f"{dashboard.url}/market")
    read_cells(page)
    box = page.locator("[data-testid=stDataFrame] canvas").first.bounding_box()
    assert box
    page.mouse.click(box["x"] + 16, box["y"] + 2.5 * ROW_PIXELS)
    expect(page.get_by_text("FB at ")).to_be_visible()
    wait_for_parameters(page, {"symbol": "FB"})
    page.get_by_role("radio", name="1 year").or_(page.get_by_role("button", name="1 year")).first.click()
    wait_for_parameters(page, {"symbol": "FB", "range": "1 year"})
    wait_until_complete(page)
    page.mouse.click(box["x"] + 16, box["y"] + 3.5 * ROW_PIXELS)
    expect(page.get_by_text("IBM at ")).to_be_visible()
    wait_for_parameters(page, {"symbol": "IBM", "range": "1 year"})


def test_a_click_on_an_event_row_selects_the_event(page: Page, dashboard: Dashboard) -> None:
    """A click on an event row shows the event; its address shows the same event in another window."""
    visit(page, f"{dashboard.url}/market?window=6+hours")
    titles = read_table(page, 1)[2::6]
    wait_until_complete(page)
    table = page.locator("[data-testid=stDataFrame]").nth(1).locator("canvas").first
    table.scroll_into_view_if_needed()
    box = table.bounding_box()
    assert box
    page.mouse.click(box["x"] + 16, box["y"] + 2.5 * ROW_PIXELS)
    page.wait_for_url(lambda url: "event" in dict(parse_qsl(urlsplit(url).query)))
    chosen = page.locator("strong", has_text=titles[1])
    expect(chosen).to_be_visible()
    assert dict(parse_qsl(urlsplit(page.url).query))["window"] == "6 hours"
    other = page.context.new_page()
    visit(other, page.url)
    expect(other.locator("strong", has_text=titles[1])).to_be_visible()
    page.mouse.click(box["x"] + 16, box["y"] + 2.5 * ROW_PIXELS)
    wait_for_parameters(page, {"window": "6 hours"})
    expect(page.locator("strong", has_text=titles[0])).to_be_visible()


def test_filters_are_kept_on_other_pages_and_in_the_address(page: Page, dashboard: Dashboard) -> None:
    """Chosen filters are in the address, stay after a visit to another page, and apply in another window."""
    visit(page, f"{dashboard.url}/market?symbol=IBM&sentiment=POSITIVE")
    expected = {"symbol": "IBM", "sentiment": "Positive"}
    wait_for_parameters(page, expected)
    page.get_by_role("link", name="Quests", exact=True).click()
    expect(page.get_by_role("heading", name="Quests", exact=True)).to_be_visible()
    page.get_by_role("link", name="Market", exact=True).click()
    expect(page.get_by_text("IBM at ")).to_be_visible()
    wait_for_parameters(page, expected)
    other = page.context.new_page()
    visit(other, page.url)
    expect(other.get_by_text("IBM at ")).to_be_visible()
    titles = read_table(other, 1)
    assert "AAPL rose 6.1%" in titles
    assert "FB fell 5.3%" not in titles


def test_a_live_section_refreshes_and_keeps_typed_letters(page: Page, dashboard: Dashboard, url: str) -> None:
    """A new price appears without a reload, and a filter keeps the letters that were typed."""
    visit(page, f"{dashboard.url}/market?symbol=AAPL")
    read_cells(page)
    box = page.get_by_role("combobox", name="Affected symbol")
    box.press_sequentially("IB", delay=30)
    with open_database(url) as service:
        service.insert_market_tick("AAPL", Decimal("77.25"), timestamp=datetime.now(UTC))
    cell = page.locator("[data-testid=stDataFrame] canvas table td", has_text="77.25")
    cell.first.wait_for(state="attached", timeout=REFRESH_MS)
    expect(box).to_have_value("IB")


def test_pause_is_in_the_address(page: Page, dashboard: Dashboard) -> None:
    """Pausing live updates on one page sets `live=false` in the address and pauses the other pages."""
    visit(page, f"{dashboard.url}/quests")
    page.get_by_text("Live", exact=True).click()
    expect(page.get_by_text("paused")).to_have_count(1)
    wait_for_parameters(page, {"live": "false"})
    page.get_by_role("link", name="Market", exact=True).click()
    expect(page.get_by_text("paused")).to_have_count(3)


def test_open_sections_keep_their_values_without_the_database(
    page: Page, tmp_path: Path, server_directory: Callable[[], Path]
) -> None:
    """While PostgreSQL is stopped, each section shows its last known values with a notice."""
    folder, port = server_directory(), find_free_port()
    with ExitStack() as stack:
        with running_game(folder, port) as url:
            dashboard = stack.enter_context(
                run_dashboard(tmp_path, DATABASE_URL=url, ENABLE_REDIS_CACHE="false", CACHE_FAILSAFE="0")
            )
            visit(page, f"{dashboard.url}/market?symbol=IBM&events=10")
            expect(page.get_by_text("IBM at ")).to_be_visible()
        notice = page.get_by_text("Last known values of")
        expect(notice.first).to_be_visible(timeout=REFRESH_MS)
        expect(page.get_by_text("IBM at ")).to_be_visible()
        expect(page.get_by_text("Traceback")).to_have_count(0)
        with run_postgres(folder, port=port, options=FAST):
            expect(notice).to_have_count(0, timeout=REFRESH_MS)
            expect(page.get_by_text("IBM at ")).to_be_visible()
            assert read_parameters(page) == {"symbol": "IBM", "events": "10"}


@contextmanager
def running_game(folder: Path, port: int) -> Iterator[str]:
    """Run a PostgreSQL server with a small game and market; yield its URL."""
    with run_postgres(folder, port=port, options=FAST) as server:
        Migrator(Settings(database_url=SecretStr(server.url()))).up()
        with open_database(server.url()) as service:
            play_game(service)
            open_market(service)
        yield server.url()
