"""Fixtures of the end-to-end tests: a browser, and a dashboard that shows a small game."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from core.testing import PostgresServer
from tests.conftest import created_database
from tests.dashboard_process import Dashboard, run_dashboard
from tests.end_to_end.browsing import CHROMIUM, run_browser
from tests.game import open_database, play_game
from tests.market import open_market


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Yield Debian's Chromium without a window; skip the tests if it is not installed."""
    if not CHROMIUM.exists():
        pytest.skip(f"no browser: {CHROMIUM} is missing; install it with `apt-get install chromium`")
    with run_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def url(postgres_server: PostgresServer, template_database: str) -> Iterator[str]:
    """Yield the URL of a database with a small game and a small market."""
    with created_database(postgres_server, template=template_database) as url:
        with open_database(url) as service:
            play_game(service)
            open_market(service)
        yield url


@pytest.fixture(scope="module")
def dashboard(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    """Yield a running dashboard on the database of `url`, without Redis."""
    folder = tmp_path_factory.mktemp("dashboard")
    with run_dashboard(folder, DATABASE_URL=url, ENABLE_REDIS_CACHE="false") as dashboard:
        yield dashboard
