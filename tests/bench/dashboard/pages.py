"""Measure how long a page takes in a browser, compared with the smallest possible page.

Owns the browser and the order of the visits: the two pages take turns, so that other load on the
machine affects both. The browser keeps its cache between visits.
"""

import statistics
import time

from playwright.sync_api import Page

from tests.end_to_end.browsing import WAIT_MS, run_browser, visit

VISITS = 9
DRAWN = "[data-testid=stVegaLiteChart] :is(svg, canvas), [data-testid=stDataFrame] canvas"


def measure_pages(dashboard_url: str, hello_url: str) -> dict[str, float]:
    """Return the median seconds until a leaderboard and the smallest page are drawn, and their ratio."""
    with run_browser() as browser:
        context = browser.new_context(viewport={"width": 1440, "height": 1000})
        context.set_default_timeout(WAIT_MS)
        page = context.new_page()
        _time_visit(page, dashboard_url, drawn=DRAWN)
        _time_visit(page, hello_url)
        turns = [
            (_time_visit(page, dashboard_url, drawn=DRAWN), _time_visit(page, hello_url))
            for _ in range(VISITS)
        ]
        context.close()
    leaderboards, hellos = zip(*turns, strict=True)
    return {
        "leaderboard": statistics.median(leaderboards),
        "hello": statistics.median(hellos),
        "ratio": statistics.median(leaderboard / hello for leaderboard, hello in turns),
    }


def _time_visit(page: Page, url: str, *, drawn: str | None = None) -> float:
    started = time.perf_counter()
    visit(page, url)
    if drawn is not None:
        page.locator(drawn).first.wait_for()
    return time.perf_counter() - started
