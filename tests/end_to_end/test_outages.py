"""Every page keeps its content in a browser while PostgreSQL or Valkey hangs or is killed, and recovers."""

import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect
from pydantic import SecretStr

from core import Settings
from core.migration import Migrator
from core.stack.ports import find_free_port
from core.testing import PostgresServer, ValkeyServer, run_postgres, run_valkey
from dashboard.navigation import MENU
from tests.conftest import FAST
from tests.dashboard_process import run_dashboard
from tests.end_to_end.browsing import WAIT_MS, visit
from tests.game import open_database, play_game
from tests.market import open_market
from tests.patience import stretch

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PAGES = {name: f"{name}?player=alice" if name == "portfolios" else name for name in MENU}
LAST_KNOWN = re.compile(r"Last known values of .*\d\d:\d\d:\d\d UTC; .*; next try in 5 s")
BYPASS = re.compile("the cache is not used")
NOTICED_SECONDS = 5.0
HEALED_SECONDS = 10.0
"""Time for two health checks and the start of the server."""


class Server:
    """A PostgreSQL or Valkey server that a test may stop, kill and start again on the same port."""

    def __init__(self, run: Callable[[], AbstractContextManager[PostgresServer | ValkeyServer]]) -> None:
        self._run = run
        self._stack = ExitStack()
        self.start()

    def start(self) -> None:
        """Start the server."""
        self.running = self._stack.enter_context(self._run())

    def end(self) -> None:
        """Stop the server."""
        self._stack.close()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server and its child processes."""
        server = psutil.Process(self.running.pid)
        for process in (server, *server.children(recursive=True)):
            # when the postmaster is killed, its child processes end by themselves
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)


@contextmanager
def hanging(server: Server) -> Iterator[None]:
    """Hold a server with SIGSTOP for the length of the block: connections stay open but get no answer."""
    server.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.signal(signal.SIGCONT)


@contextmanager
def gone(server: Server) -> Iterator[None]:
    """Kill a server with SIGKILL, and start it again at the end of the block."""
    server.signal(signal.SIGKILL)
    server.end()
    try:
        yield
    finally:
        server.start()


class Stack(NamedTuple):
    """The servers, and one browser tab for every page of the dashboard."""

    postgres: Server
    valkey: Server
    url: str
    context: BrowserContext
    pages: dict[str, Page]


@pytest.fixture(scope="module")
def stack(
    browser: Browser, server_directory: Callable[[], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """Yield servers with a small game, and every page of their dashboard open in the browser."""
    with ExitStack() as stack:
        postgres = Server(partial(run_postgres, server_directory(), port=find_free_port(), options=FAST))
        stack.callback(postgres.end)
        valkey = Server(partial(run_valkey, server_directory(), port=find_free_port()))
        stack.callback(valkey.end)
        assert isinstance(postgres.running, PostgresServer)
        assert isinstance(valkey.running, ValkeyServer)
        url = postgres.running.url()
        Migrator(Settings(database_url=SecretStr(url))).up()
        with open_database(url) as service:
            play_game(service)
            open_market(service)
        dashboard = stack.enter_context(
            run_dashboard(
                tmp_path_factory.mktemp("dashboard"),
                DATABASE_URL=url,
                REDIS_URL=valkey.running.url,
                REDIS_PASSWORD=valkey.running.password,
                EXPORTER_URL=f"http://127.0.0.1:{find_free_port()}",
            )
        )
        context = browser.new_context(viewport={"width": 1440, "height": 1000})
        stack.callback(context.close)
        context.set_default_timeout(WAIT_MS)
        pages = {name: context.new_page() for name in PAGES}
        for name, page in pages.items():
            visit(page, f"{dashboard.url}/{PAGES[name]}")
        yield Stack(postgres, valkey, dashboard.url, context, pages)


def read_content(page: Page) -> tuple[list[str], list[str]]:
    """Return the headings of a page and the values of its metric cards."""
    titles = page.locator("[data-testid=stMain] :is(h1, h2)")
    return titles.all_inner_texts(), page.locator("[data-testid=stMetricValue]").all_inner_texts()


@pytest.mark.parametrize("fault", [hanging, gone])
@pytest.mark.parametrize(
    ("name", "notice"), [("postgres", LAST_KNOWN), ("valkey", BYPASS)], ids=["postgres", "valkey"]
)
def test_every_page_keeps_its_content_during_an_outage(
    stack: Stack, name: str, notice: re.Pattern[str], fault: Callable[[Server], AbstractContextManager[None]]
) -> None:
    """During an outage every page, open or new, shows its values and a notice; the notice then disappears."""
    server: Server = getattr(stack, name)
    before = {path: read_content(page) for path, page in stack.pages.items()}
    assert all(titles for titles, _ in before.values())
    with fault(server):
        # all open pages notice the outage in parallel, so only the first check may have to wait long
        for path, page in stack.pages.items():
            expect(page.get_by_text(notice).first, path).to_be_visible(
                timeout=stretch(NOTICED_SECONDS) * 1000
            )
        new_page = stack.context.new_page()
        visit(new_page, stack.url)
        expect(new_page.get_by_text(notice).first).to_be_visible()
        for path, page in (*stack.pages.items(), (next(iter(PAGES)), new_page)):
            assert read_content(page) == before[path], path
    for path, page in {**stack.pages, "new page": new_page}.items():
        expect(page.get_by_text(notice), path).to_have_count(0, timeout=stretch(HEALED_SECONDS) * 1000)
    new_page.close()
