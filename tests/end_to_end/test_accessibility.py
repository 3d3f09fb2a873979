"""axe-core checks the accessibility of every page of the dashboard in a browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from core.testing import PostgresServer
from dashboard.navigation import SCRIPTS
from tests.axe import AxeMissing, fetch_axe, find_violations
from tests.conftest import created_database
from tests.dashboard_process import Dashboard, run_dashboard
from tests.end_to_end.browsing import WAIT_MS, visit
from tests.game import open_database, play_game

pytestmark = [pytest.mark.browser, pytest.mark.slow]

FAILING = {"moderate", "serious", "critical"}
WIDTHS = (1440, 390)


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the script of axe-core; skip the tests if it cannot be fetched."""
    try:
        return fetch_axe(tmp_path_factory.mktemp("axe"))
    except AxeMissing as error:
        pytest.skip(f"no accessibility check: {error}")


@pytest.fixture(scope="module")
def dashboard(
    postgres_server: PostgresServer, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Dashboard]:
    """Yield a dashboard on a finished game; the visitor is an operator, so that every section is drawn."""
    folder = tmp_path_factory.mktemp("dashboard")
    with created_database(postgres_server, template=template_database) as url:
        with open_database(url) as service:
            play_game(service)
        with run_dashboard(
            folder, DATABASE_URL=url, ENABLE_REDIS_CACHE="false", DASHBOARD_OPERATORS="local"
        ) as dashboard:
            yield dashboard


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("path", [*SCRIPTS, "portfolios?player=alice"])
def test_pages_have_only_minor_violations(
    axe: str, browser: Browser, dashboard: Dashboard, *, path: str, theme: str
) -> None:
    """No page has a moderate or worse violation, in both themes, at the widths of a desktop and a phone."""
    found = []
    for width in WIDTHS:
        context = browser.new_context(viewport={"width": width, "height": 1000}, color_scheme=theme)  # type: ignore[arg-type]  # "light" or "dark"
        context.set_default_timeout(WAIT_MS)
        page = context.new_page()
        visit(page, f"{dashboard.url}/{path}")
        expect(page.locator("[data-testid=stMain] h1, [data-testid=stMain] h2").first).to_be_visible(
            timeout=WAIT_MS
        )
        found += [item for item in find_violations(page, axe) if item.impact in FAILING]
        context.close()
    assert not found, "\n".join(str(item) for item in found)


def test_the_check_can_fail(axe: str, browser: Browser, tmp_path: Path) -> None:
    """axe-core reports an image without alternative text, so the checks of the pages can fail."""
    bad = tmp_path / "bad.html"
    bad.write_text('<!doctype html><html lang="en"><title>x</title><main><h1>x</h1><img src="x.png"></main>')
    page = browser.new_page()
    page.goto(bad.as_uri())
    assert [item.rule for item in find_violations(page, axe)] == ["image-alt"]
    page.close()
