"""Everything around a page's content: connection, history, theme, addresses, print, screen sizes."""

import re
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import pytest
from playwright.sync_api import Browser, Page, expect

from core.records import Quest
from core.testing import PostgresServer
from dashboard.navigation import SCRIPTS
from tests.conftest import created_database
from tests.dashboard_process import Dashboard, run_dashboard
from tests.end_to_end.browsing import (
    NETWORK_CHANGED,
    WAIT_MS,
    is_dark,
    read_parameters,
    visit,
    wait_until_complete,
)
from tests.game import open_database, play_game

pytestmark = [pytest.mark.browser, pytest.mark.slow]

NOTICED_MS = 6_000
"""A lost connection is shown within five seconds; one more second for a busy machine."""
FIRST_VISIT_BYTES = 1_350_000
"""Decision 13 has the measured size (1,248 kB). One more Streamlit chart library would exceed the limit."""


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Yield a browser page of a desktop's size on a system with a light theme."""
    context = browser.new_context(viewport={"width": 1440, "height": 1000}, color_scheme="light")
    context.set_default_timeout(WAIT_MS)
    yield context.new_page()
    context.close()


def test_a_lost_connection_shows_a_notice(page: Page, dashboard: Dashboard) -> None:
    """A lost connection shows a notice in place of the health within 5 s; the notice disappears by itself."""
    visit(page, dashboard.url)
    notice = page.get_by_text(re.compile(r"No connection to the dashboard since \d\d:\d\d:\d\d UTC"))
    health = page.locator(".st-key-health")
    expect(notice).to_have_count(0)
    expect(health).to_be_visible()
    page.context.set_offline(True)
    expect(notice).to_be_visible(timeout=NOTICED_MS)
    expect(health).to_be_hidden()
    page.context.set_offline(False)
    expect(notice).to_have_count(0, timeout=NOTICED_MS)
    expect(health).to_be_visible()


def test_a_dashboard_that_hangs_is_a_lost_connection(page: Page, dashboard: Dashboard) -> None:
    """A dashboard that hangs (SIGSTOP) with open sockets counts as a lost connection."""
    visit(page, dashboard.url)
    notice = page.get_by_text("No connection to the dashboard since")
    dashboard.process.send_signal(signal.SIGSTOP)
    try:
        expect(notice).to_be_visible(timeout=NOTICED_MS)
    finally:
        dashboard.process.send_signal(signal.SIGCONT)
    expect(notice).to_have_count(0, timeout=NOTICED_MS)


def test_a_page_recovers_after_a_restart_of_the_dashboard(
    page: Page, postgres_server: PostgresServer, template_database: str, tmp_path: Path
) -> None:
    """After a restart of the dashboard, an open page shows its content again, with the same address."""
    with created_database(postgres_server, template=template_database) as url:
        with open_database(url) as service:
            play_game(service)
        with run_dashboard(tmp_path, DATABASE_URL=url, ENABLE_REDIS_CACHE="false") as first:
            visit(page, f"{first.url}/leaderboards?top=10")
        notice = page.get_by_text("No connection to the dashboard since")
        expect(notice).to_be_visible(timeout=NOTICED_MS)
        port = int(first.url.rpartition(":")[2])
        with run_dashboard(tmp_path, port=port, DATABASE_URL=url, ENABLE_REDIS_CACHE="false"):
            expect(notice).to_have_count(0, timeout=WAIT_MS)
            expect(page.get_by_role("heading", name="Leaderboards", exact=True)).to_be_visible()
            assert read_parameters(page) == {"top": "10"}


def test_overview_has_an_address(page: Page, dashboard: Dashboard) -> None:
    """The address /overview opens the overview and keeps the query string."""
    visit(page, f"{dashboard.url}/overview?live=false")
    expect(page.get_by_role("heading", name="Overview", exact=True)).to_be_visible()
    expect(page.get_by_text("Page not found")).to_have_count(0)
    assert read_parameters(page) == {"live": "false"}


@pytest.mark.parametrize("path", SCRIPTS)
def test_a_page_opened_directly_has_no_failed_request(page: Page, dashboard: Dashboard, path: str) -> None:
    """Opening a page directly causes no failed request and no error in the browser's console."""
    failed: list[str] = []
    page.on("response", lambda answer: failed.append(answer.url) if answer.status >= 400 else None)
    page.on("console", lambda message: failed.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: failed.append(str(error)))
    visit(page, f"{dashboard.url}/{path}")
    assert urlsplit(page.url).path == ("/" if path == "overview" else f"/{path}")
    assert [text for text in failed if NETWORK_CHANGED not in text] == []


def test_back_undoes_a_search_and_a_filter(page: Page, dashboard: Dashboard) -> None:
    """The back button undoes a whole typed name, then a chosen filter; forward restores both."""
    visit(page, f"{dashboard.url}/leaderboards?top=10")
    page.get_by_role("radio", name="50", exact=True).or_(
        page.get_by_role("button", name="50", exact=True)
    ).first.click()
    page.wait_for_url(lambda url: "top=50" in url)
    wait_until_complete(page)
    box = page.get_by_role("textbox", name="Find a player")
    box.click()
    box.press_sequentially("alice", delay=150)
    page.wait_for_url(lambda url: "find=alice" in url)
    wait_until_complete(page)
    page.go_back()
    page.wait_for_url(lambda url: "find=" not in url)
    expect(box).to_have_value("")
    assert read_parameters(page) == {"top": "50"}
    page.go_back()
    page.wait_for_url(lambda url: "top=10" in url)
    page.go_forward()
    page.go_forward()
    expect(box).to_have_value("alice")
    assert read_parameters(page) == {"top": "50", "find": "alice"}


def test_a_chosen_theme_is_kept(page: Page, dashboard: Dashboard) -> None:
    """A chosen theme applies to every page after a reload, and the system's theme can be chosen again."""

    def read_background() -> str:
        return str(page.locator("[data-testid=stApp]").evaluate("e => getComputedStyle(e).backgroundColor"))

    visit(page, f"{dashboard.url}/market?symbol=IBM")
    assert not is_dark(read_background())
    page.get_by_label("Theme").select_option("Dark")
    # the reloaded page sets this attribute; a wait for a navigation could end before the reload, because a
    # change of the address also counts as a navigation
    expect(page.locator("html")).to_have_attribute("data-echo-theme", "dark")
    expect(page.get_by_text("IBM at ")).to_be_visible(timeout=WAIT_MS)
    assert is_dark(read_background())
    visit(page, f"{dashboard.url}/quests")
    assert is_dark(read_background())
    page.get_by_label("Theme").select_option("System")
    expect(page.locator("html")).to_have_attribute("data-echo-theme", "system")
    expect(page.get_by_role("heading", name="Quests", exact=True)).to_be_visible(timeout=WAIT_MS)
    assert not is_dark(read_background())


def test_a_slow_network_shows_text_at_once(page: Page, dashboard: Dashboard) -> None:
    """At 50 kB/s a page shows text within three seconds, before its scripts are loaded."""
    network = page.context.new_cdp_session(page)
    network.send("Network.enable")
    network.send(
        "Network.emulateNetworkConditions",
        {"offline": False, "latency": 100, "downloadThroughput": 50_000, "uploadThroughput": 50_000},
    )
    started = time.monotonic()
    page.goto(dashboard.url, wait_until="commit")
    expect(page.get_by_text("Loading. The first visit")).to_be_visible()
    assert time.monotonic() - started < 3


def test_a_first_visit_stays_small(page: Page, dashboard: Dashboard) -> None:
    """The first visit of the overview loads less than FIRST_VISIT_BYTES, headers included."""
    sizes: list[float] = []
    network = page.context.new_cdp_session(page)
    network.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    network.send("Network.enable")
    visit(page, dashboard.url)
    assert len(sizes) > 50
    assert sum(sizes) < FIRST_VISIT_BYTES


def test_print_hides_fixed_bars(page: Page, dashboard: Dashboard) -> None:
    """A printed page has no header bar and no theme switch, which would cover the content."""
    visit(page, dashboard.url)
    page.emulate_media(media="print")
    expect(page.get_by_role("heading", name="Overview", exact=True)).to_be_visible()
    for hidden in ("[data-testid=stHeader]", "#echo-theme"):
        expect(page.locator(hidden)).to_be_hidden()
    assert page.locator("[data-testid=stMain]").evaluate("e => getComputedStyle(e).overflowY") == "visible"


COUNT_LINES = """all => all.map(e => {
  const range = document.createRange();
  range.selectNodeContents(e);
  const tops = [...range.getClientRects()].filter(r => r.width).map(r => Math.round(r.top));
  return [e.innerText, new Set(tops).size];
}).filter(([_, lines]) => lines > 1)"""
"""JavaScript: returns the texts that take more than one line, with their number of lines."""

FIND_CUT = """all => all.filter(e => e.offsetParent && e.scrollWidth > e.clientWidth + 1
  && getComputedStyle(e).overflowX !== 'visible').map(e => e.innerText)"""
"""JavaScript: returns the texts that are cut off."""


def test_print_shows_whole_values(page: Page, dashboard: Dashboard) -> None:
    """On paper, tables fill the page, metric values stay on one line, and stale elements are not faded."""
    page.set_viewport_size({"width": 720, "height": 1000})  # an A4 sheet
    for path in ("", "portfolios?player=alice", "market"):
        visit(page, f"{dashboard.url}/{path}")
        page.emulate_media(media="print")
        values = page.locator("[data-testid=stMetricValue]")
        assert values.count() > 3
        assert values.evaluate_all(COUNT_LINES) == [], path
        wide = page.locator("[data-testid=stMain]").evaluate("e => e.clientWidth")
        tables = page.locator("[data-testid=stColumn] [data-testid=stDataFrame]")
        for table in tables.evaluate_all(
            "all => all.map(e => e.closest('[data-testid=stColumn]').clientWidth)"
        ):
            assert table > 0.8 * wide, path
        stale = page.locator("[data-testid=stMain] [data-stale]")
        assert set(stale.evaluate_all("all => all.map(e => getComputedStyle(e).opacity)")) == {"1"}, path
        page.emulate_media(media="screen")


def test_print_shows_every_column(page: Page, dashboard: Dashboard) -> None:
    """On paper, a wide table is scaled down, charts fill their columns, and buttons are hidden."""
    page.set_viewport_size({"width": 720, "height": 1000})
    visit(page, f"{dashboard.url}/leaderboards")
    canvas = page.locator("[data-testid=stDataFrame] canvas").first
    canvas.wait_for(state="attached")
    page.emulate_media(media="print")
    drawn = canvas.evaluate(
        "e => { e.style.width = '1760px'; e.style.height = '400px'; return e.getBoundingClientRect() }"
    )
    assert 500 < drawn["width"] <= 720
    for button in page.locator(".st-key-live, .st-key-refresh, [data-testid=stLinkButton]").all():
        expect(button).to_be_hidden()
    page.locator("[data-testid=stVegaLiteChart] svg").first.wait_for(state="attached")
    shares = page.locator("[data-testid=stVegaLiteChart] svg").evaluate_all(
        "all => all.map(e => e.getBoundingClientRect().width"
        " / e.closest('[data-testid=stColumn]').getBoundingClientRect().width)"
    )
    assert all(share > 0.9 for share in shares)


def test_print_does_not_enlarge_charts(page: Page, dashboard: Dashboard) -> None:
    """A printed chart has 60 % to 105 % of its width on the screen, and at most 105 % of its height."""
    visit(page, f"{dashboard.url}/leaderboards")
    chart = page.locator("[data-testid=stVegaLiteChart] svg").first
    chart.wait_for(state="attached")
    drawn = chart.bounding_box()
    # measure a copy: Vega would redraw its chart for the new size, but printing does not wait for this
    chart.evaluate("e => { e.setAttribute('data-drawn', ''); e.replaceWith(e.cloneNode(true)) }")
    page.emulate_media(media="print")
    printed = page.locator("svg[data-drawn]").bounding_box()
    assert drawn
    assert printed
    assert 0.6 * drawn["width"] < printed["width"] < 1.05 * drawn["width"]
    assert printed["height"] < 1.05 * drawn["height"]


@pytest.mark.parametrize(("width", "height"), [(1440, 1000), (720, 450), (640, 400), (390, 844)])
def test_no_text_of_a_metric_card_is_cut(
    browser: Browser, dashboard: Dashboard, width: int, height: int
) -> None:
    """No text of a metric card is cut off on a desktop, at 200 % zoom or on a phone."""
    context = browser.new_context(viewport={"width": width, "height": height})
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    for path in ("", "leaderboards", "players", "portfolios?player=alice", "market", "quests"):
        visit(page, f"{dashboard.url}/{path}")
        page.locator("[data-testid=stMetric]").first.wait_for()
        texts = page.locator(
            "[data-testid=stMetric] :is([data-testid=stMarkdownContainer], p, [data-testid=stMetricValue] *)"
        )
        assert texts.evaluate_all(FIND_CUT) == [], path
    context.close()


def test_wrapped_options_have_complete_borders(browser: Browser, dashboard: Dashboard) -> None:
    """Every option has a visible right border, even if the chosen option follows on the next line."""
    context = browser.new_context(viewport={"width": 390, "height": 844})
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    visit(page, f"{dashboard.url}/portfolios?player=alice&window=90+days")
    choices = page.get_by_test_id("stButtonGroup").first.get_by_role("radio")
    edges = choices.evaluate_all("all => all.map(e => getComputedStyle(e).borderRightColor)")
    assert len(edges) == 6
    assert not [edge for edge in edges if edge.endswith((", 0)", "/ 0)"))]
    context.close()


def test_forced_colours_show_the_chosen_option(browser: Browser, dashboard: Dashboard) -> None:
    """With forced colours (high-contrast mode), the chosen option has another background than the others."""
    context = browser.new_context(forced_colors="active")
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    visit(page, f"{dashboard.url}/leaderboards")
    choices = page.get_by_test_id("stButtonGroup").first.get_by_role("radio")
    colours = choices.evaluate_all(
        "all => all.map(e => [e.ariaChecked, getComputedStyle(e).backgroundColor])"
    )
    [chosen] = [colour for checked, colour in colours if checked == "true"]
    others = {colour for checked, colour in colours if checked == "false"}
    assert others
    assert chosen not in others
    track = page.locator(".st-key-live label > div").first
    expect(track).to_have_css("forced-color-adjust", "none")
    context.close()


def test_a_table_in_a_column_fills_a_tablet(page: Page, dashboard: Dashboard) -> None:
    """On a tablet, a table in a column takes the full width; at half of it, the trends would be hidden."""
    page.set_viewport_size({"width": 720, "height": 900})
    visit(page, dashboard.url)
    table = page.locator("[data-testid=stColumn] [data-testid=stDataFrame]").first.bounding_box()
    assert table
    assert table["width"] > 600


def test_the_menu_of_a_phone_hides_the_theme(browser: Browser, dashboard: Dashboard) -> None:
    """On a phone, the open menu hides the theme switch, because its close button is in the same place."""
    context = browser.new_context(viewport={"width": 390, "height": 844})
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    visit(page, dashboard.url)
    expect(page.locator("#echo-theme")).to_be_visible()
    page.get_by_test_id("stExpandSidebarButton").click()
    expect(page.locator("#echo-theme")).to_be_hidden()
    context.close()


def build_ended_quest(user_id: UUID) -> Quest:
    """Return a quest of the game's last day that expired when it was half done."""
    return Quest(
        id=uuid4(),
        user_id=user_id,
        type="DAILY_GAIN",
        title="Gain 100 today",
        description=None,
        target_value=Decimal(100),
        current_progress=Decimal(50),
        status="EXPIRED",
        reward_type=None,
        reward_value=None,
        created_at=datetime(2013, 3, 1, tzinfo=UTC),
        expires_at=datetime(2013, 3, 2, tzinfo=UTC),
    )


def measure_contrast(colours: list[list[float]]) -> float:
    """Return the WCAG contrast ratio of two colours; each colour is red, green and blue from 0 to 1."""

    def compute_luminance(colour: list[float]) -> float:
        parts = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour)
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True))

    low, high = sorted(map(compute_luminance, colours))
    return (high + 0.05) / (low + 0.05)


def read_colour(text: str) -> list[float]:
    """Return red, green and blue of a CSS colour, from 0 to 1."""
    parts = [float(part) for part in re.findall(r"[\d.]+", text)][:3]
    return parts if text.startswith("color(") else [part / 255 for part in parts]


@pytest.fixture(scope="module")
def ended_quest(url: str) -> None:
    """Store a quest that expired in 2013, so that the chart of the Quests page has a bar."""
    with open_database(url) as service:
        alice = service.get_user_by_username("alice")
        service.load_quests([build_ended_quest(alice.id)])


@pytest.mark.usefixtures("ended_quest")
@pytest.mark.parametrize("theme", ["Light", "Dark"])
@pytest.mark.parametrize(
    "path",
    [
        "",
        "leaderboards",
        "market?symbol=IBM",
        "portfolios?player=alice&window=All",
        "quests?ended=All+time",
    ],
)
def test_axes_and_legends_can_be_read(page: Page, dashboard: Dashboard, path: str, theme: str) -> None:
    """Texts of chart axes and legends have a contrast of at least 4.5 with the page, in both themes."""
    page.context.add_init_script(f"localStorage.setItem('echo-markets-theme', '{theme}')")
    visit(page, f"{dashboard.url}/{path}")
    texts = page.locator("[data-testid=stVegaLiteChart] svg :is(.role-axis, .role-legend) text")
    texts.first.wait_for(state="attached")
    background = page.locator("[data-testid=stApp]").evaluate("e => getComputedStyle(e).backgroundColor")
    for colour in texts.evaluate_all("all => [...new Set(all.map(e => getComputedStyle(e).fill))]"):
        assert measure_contrast([read_colour(colour), read_colour(background)]) >= 4.5, colour


def test_a_phone_shows_the_leaderboard_on_its_first_screen(browser: Browser, dashboard: Dashboard) -> None:
    """On a phone, the leaderboard begins on the first screen, and a click unfolds the filters."""
    context = browser.new_context(viewport={"width": 390, "height": 844})
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    visit(page, f"{dashboard.url}/leaderboards")
    table = page.locator("[data-testid=stDataFrame]").first.bounding_box()
    assert table
    assert table["y"] < 844 - 2 * 38
    assert page.evaluate("document.scrollingElement.scrollWidth") == 390
    box = page.get_by_role("textbox", name="Find a player")
    expect(box).to_be_hidden()
    page.get_by_text("Filters: ").click()
    expect(box).to_be_visible()
    context.close()


WITH_TABLES = pytest.mark.parametrize(
    "path",
    [
        "",
        "leaderboards",
        "players",
        "portfolios?player=alice&window=All",
        "market",
        "quests?ended=All+time&player=alice",
        "operations",
    ],
)


@pytest.mark.parametrize("width", [390, 720])
@WITH_TABLES
def test_a_small_screen_scrolls_no_table_sideways(
    browser: Browser, dashboard: Dashboard, path: str, width: int
) -> None:
    """On a phone and a tablet, no table scrolls sideways, also no table in a folded section."""
    context = browser.new_context(viewport={"width": width, "height": 8_000})
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    visit(page, f"{dashboard.url}/{path}")
    for folded in page.get_by_test_id("stExpander").locator("summary").all():
        folded.click()
        wait_until_complete(page)
    tables = page.get_by_test_id("stDataFrame").locator(".dvn-scroller")
    expect(tables.first).to_be_attached()
    for table in tables.all():
        expect(table).to_have_js_property("scrollWidth", table.evaluate("e => e.clientWidth"))
    context.close()


@WITH_TABLES
def test_a_wider_screen_shows_more_columns(browser: Browser, dashboard: Dashboard, path: str) -> None:
    """A table has more columns on a tablet than on a phone, and at least as many on a desktop."""
    context = browser.new_context()
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    headings = page.get_by_test_id("stDataFrame").first.locator("canvas table th")
    columns = []
    for width in (390, 720, 1440):
        page.set_viewport_size({"width": width, "height": 8_000})
        visit(page, f"{dashboard.url}/{path}")
        expect(headings.first).to_be_attached()
        columns.append(headings.count())
    phone, tablet, desktop = columns
    assert phone < tablet <= desktop
    context.close()


def test_every_button_has_a_name(page: Page, dashboard: Dashboard) -> None:
    """Every visible button, Streamlit's own included, has a name for screen readers."""
    for path in SCRIPTS:
        visit(page, f"{dashboard.url}/{path}")
        nameless = page.locator("button:visible").evaluate_all(
            "all => all.filter(e => !(e.innerText.trim() || e.ariaLabel || e.title"
            " || e.getAttribute('aria-labelledby'))).map(e => e.outerHTML.slice(0, 200))"
        )
        assert nameless == [], path


def test_streamlits_csv_button_is_hidden(page: Page, dashboard: Dashboard) -> None:
    """Streamlit's CSV button of a table is hidden, because its file may contain spreadsheet formulas."""
    visit(page, f"{dashboard.url}/leaderboards")
    wait_until_complete(page)
    page.get_by_test_id("stDataFrame").first.hover()
    expect(page.get_by_role("button", name="Search").first).to_be_visible()
    button = page.get_by_role("button", name="Download as CSV", include_hidden=True)
    assert button.count() > 0, "Streamlit has renamed the button"
    assert not any(each.is_visible() for each in button.all())
