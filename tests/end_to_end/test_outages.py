"""Pages in a browser while PostgreSQL hangs or is gone: they keep their values, say so, and heal."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Browser, Page, expect
from pydantic import SecretStr

from core import Settings
from core.migration import Migrator
from core.stack.ports import find_free_port
from core.testing import run_postgres
from tests.conftest import FAST
from tests.dashboard_process import run_dashboard
from tests.end_to_end.browsing import WAIT_MS, visit
from tests.game import open_database, play_game
from tests.market import open_market

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PAGES = ("", "leaderboards", "portfolios?player=alice")
NOTE = "Last known values of"
NOTICED_MS = 45_000
"""A part refreshes every 30 seconds; until then nothing is asked."""
HEALED_MS = 15_000
"""A retry every five seconds, two seconds of the health's memory, and time for this machine."""


def read_figures(page: Page) -> list[str]:
    """Return the figures of all metric cards."""
    return page.locator("[data-testid=stMetricValue]").all_inner_texts()


def signal_all(pid: int, number: signal.Signals) -> None:
    """Send a signal to a server and its processes."""
    server = psutil.Process(pid)
    for process in (server, *server.children(recursive=True)):
        os.kill(process.pid, number)


@pytest.mark.parametrize("fault", ["hangs", "is gone"])
def test_pages_keep_their_figures_through_an_outage(
    browser: Browser, tmp_path: Path, server_directory: Callable[[], Path], fault: str
) -> None:
    """All pages at once, and a visitor who comes meanwhile; afterwards the notes go without a click."""
    folder, port = server_directory(), find_free_port()
    with ExitStack() as stack:
        server = stack.enter_context(served := ExitStack()).enter_context(
            run_postgres(folder, port=port, options=FAST)
        )
        Migrator(Settings(database_url=SecretStr(server.url()))).up()
        with open_database(server.url()) as service:
            play_game(service)
            open_market(service)
        dashboard = stack.enter_context(
            run_dashboard(tmp_path, DATABASE_URL=server.url(), ENABLE_REDIS_CACHE="false")
        )
        context = browser.new_context(viewport={"width": 1440, "height": 1000})
        stack.callback(context.close)
        context.set_default_timeout(WAIT_MS)
        pages, before = {}, {}
        for path in PAGES:
            pages[path] = context.new_page()
            visit(pages[path], f"{dashboard.url}/{path}")
            before[path] = read_figures(pages[path])
        pid = int((folder / "postgres" / "postmaster.pid").read_text().split()[0])
        if fault == "hangs":
            signal_all(pid, signal.SIGSTOP)
            stack.callback(signal_all, pid, signal.SIGCONT)
        else:
            served.close()
        for path, page in pages.items():
            expect(page.get_by_text(NOTE).first, path).to_be_visible(timeout=NOTICED_MS)
            assert read_figures(page) == before[path]
        newcomer = context.new_page()
        started = time.monotonic()
        visit(newcomer, dashboard.url)
        assert time.monotonic() - started < WAIT_MS / 1000
        assert read_figures(newcomer) == before[""]
        if fault == "hangs":
            signal_all(pid, signal.SIGCONT)
        else:
            stack.enter_context(run_postgres(folder, port=port, options=FAST))
        for path, page in {**pages, "newcomer": newcomer}.items():
            expect(page.get_by_text(NOTE), path).to_have_count(0, timeout=HEALED_MS)
