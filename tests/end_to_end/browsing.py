"""Helpers to use the dashboard in a browser.

Launches Chromium, waits until Streamlit has drawn a page, and reads the page. Contains no assertion about the
product.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import Browser, Page, expect, sync_playwright
from playwright.sync_api import Error as PlaywrightError

CHROMIUM = Path("/usr/bin/chromium")
SWITCHES = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WAIT_MS = 30_000
NAVIGATION_ATTEMPTS = 4
NETWORK_CHANGED = "ERR_NETWORK_CHANGED"
READY = "[data-testid=stApp][data-test-script-state=notRunning][data-test-connection-state=CONNECTED]"
BUSY = "[data-testid=stSkeleton], [data-testid=stSpinner], [data-stale=true]"
ROW_PIXELS = 38


@contextmanager
def run_browser() -> Iterator[Browser]:
    """Yield a Chromium browser without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(SWITCHES))
        yield browser
        browser.close()


def visit(page: Page, url: str) -> None:
    """Open an address and wait until the page is complete.

    Chromium aborts requests (ERR_NETWORK_CHANGED) when a network interface of the machine appears or
    disappears; the page is then opened again.
    """
    failures: list[str] = []
    page.on("requestfailed", lambda request: failures.append(request.failure or ""))
    for attempt in range(1, NAVIGATION_ATTEMPTS + 1):
        failures.clear()
        try:
            page.goto(url)
            wait_until_complete(page)
        except PlaywrightError as error:
            is_dropped = any(NETWORK_CHANGED in text for text in (str(error), *failures))
            if not is_dropped or attempt == NAVIGATION_ATTEMPTS:
                raise
        else:
            return


def wait_until_complete(page: Page) -> None:
    """Wait until Streamlit has run the page's script and drawn every element."""
    page.wait_for_selector(READY)
    # not wait_for_function: it uses JavaScript's eval, which the Content Security Policy forbids
    expect(page.locator(BUSY)).to_have_count(0, timeout=WAIT_MS)


def read_cells(page: Page) -> list[str]:
    """Wait until the first table has rows; return its cells' texts, which the page has for screen readers."""
    cells = page.locator("[data-testid=stDataFrame] canvas table td")
    cells.first.wait_for(state="attached")
    return cells.all_inner_texts()


def read_parameters(page: Page) -> dict[str, str]:
    """Return the query parameters of the page's address."""
    return {name: values[-1] for name, values in parse_qs(urlsplit(page.url).query).items()}


def choose_row(page: Page, *, row: int) -> None:
    """Click into a row of the first table; row 1 is the first row below the header."""
    box = page.locator("[data-testid=stDataFrame] canvas").first.bounding_box()
    assert box
    page.mouse.click(box["x"] + 240, box["y"] + (row + 0.5) * ROW_PIXELS)


def is_dark(colour: str) -> bool:
    """Return whether a CSS colour is nearer to black than to white."""
    return sum(int(part) for part in re.findall(r"\d+", colour)[:3]) < 3 * 128
