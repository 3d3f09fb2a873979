"""Signing in at a provider, in a real browser, and what an operator then may do."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from core import EnhancedDatabaseService
from core.settings.texts import LOOPBACK
from core.stack.ports import find_free_port
from tests.conftest import Execute
from tests.dashboard_process import Dashboard, run_dashboard
from tests.end_to_end.browsing import WAIT_MS, visit, wait_until_complete
from tests.game import play_game
from tests.oidc_provider import Provider, run_provider

pytestmark = [pytest.mark.browser, pytest.mark.slow]

OPERATOR = {
    "sub": "1",
    "name": "Olivia Operator",
    "email": "olivia@example.com",
    "email_verified": True,
    "groups": ["staff", "operators"],
}
VIEWER = {"sub": "2", "name": "Victor Viewer", "email": "victor@example.com", "email_verified": True}


@pytest.fixture(scope="module", autouse=True)
def _patience() -> Iterator[None]:
    """A machine that is busy with other tests takes seconds for a page."""
    expect.set_options(timeout=WAIT_MS)
    yield
    expect.set_options(timeout=None)


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A browser that nobody has signed in with."""
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    context.set_default_timeout(WAIT_MS)
    yield context
    context.close()


@pytest.fixture
def provider() -> Iterator[Provider]:
    """A provider that knows this test's dashboard."""
    with run_provider(f"http://{LOOPBACK}:{find_free_port()}/oauth2callback") as provider:
        yield provider


@pytest.fixture
def dashboard(
    service: EnhancedDatabaseService, database_url: str, tmp_path: Path, provider: Provider
) -> Iterator[Dashboard]:
    """A dashboard that asks for a sign-in at the provider."""
    play_game(service)
    settings = provider.settings() | {"OIDC_OPERATOR_CLAIM": "groups=operators"}
    settings |= {"DATABASE_URL": database_url, "ENABLE_REDIS_CACHE": "false"}
    with run_dashboard(tmp_path, port=urlsplit(provider.redirect_uri).port, **settings) as started:
        yield started


def sign_in(page: Page, dashboard: Dashboard) -> None:
    """Sign in as whoever the provider says, and wait for the first page."""
    visit(page, dashboard.url)
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator(".st-key-visitor")).to_contain_text("Signed in")
    wait_until_complete(page)


def test_nothing_is_seen_before_signing_in(context: BrowserContext, dashboard: Dashboard) -> None:
    """Whichever page is opened, there are neither figures nor a menu."""
    page = context.new_page()
    for path in ("/", "/portfolios?player=alice"):
        visit(page, dashboard.url + path)
        expect(page.get_by_role("button", name="Sign in")).to_be_visible()
        expect(page.get_by_text("alice")).to_have_count(0)
        expect(page.get_by_role("link", name="Portfolios")).to_have_count(0)


def test_an_operator_acts_and_it_is_written_down(
    context: BrowserContext, dashboard: Dashboard, provider: Provider, execute: Execute
) -> None:
    """After one confirmation it is done, and recorded under the address from the provider."""
    provider.claims = OPERATOR
    page = context.new_page()
    sign_in(page, dashboard)
    expect(page.locator(".st-key-visitor")).to_contain_text("as an operator: Olivia Operator")
    page.get_by_role("link", name="Operations").click()
    page.get_by_role("button", name="Expire quests").click()
    recorded = "FROM audit_events WHERE action = 'expire_quests'"
    assert execute(f"SELECT count(*) {recorded}") == [(0,)]
    page.get_by_role("button", name="Yes, do it").click()
    expect(page.get_by_text("quests have expired")).to_be_visible()
    rows = execute(f"SELECT actor, target, outcome {recorded} ORDER BY created_at")
    assert rows == [("olivia@example.com", "past their time", outcome) for outcome in ("started", "done")]


def test_a_viewer_has_no_actions(context: BrowserContext, dashboard: Dashboard, provider: Provider) -> None:
    """Signed in without the claim, the page says who may act and offers nothing."""
    provider.claims = VIEWER
    page = context.new_page()
    sign_in(page, dashboard)
    page.get_by_role("link", name="Operations").click()
    expect(page.get_by_text("Only operators can use these actions")).to_be_visible()
    expect(page.get_by_role("button", name="Expire quests")).to_have_count(0)


def test_an_old_sign_in_makes_no_operator(
    context: BrowserContext, dashboard: Dashboard, provider: Provider
) -> None:
    """Half a day after signing in, the figures are still there, but the actions are not."""
    provider.claims, provider.age_seconds = OPERATOR, 13 * 3600
    page = context.new_page()
    sign_in(page, dashboard)
    expect(page.locator(".st-key-visitor")).to_contain_text("Operator rights ended")
    page.get_by_role("link", name="Operations").click()
    expect(page.get_by_role("button", name="Expire quests")).to_have_count(0)


def test_signing_out_ends_it(
    context: BrowserContext, dashboard: Dashboard, provider: Provider, execute: Execute
) -> None:
    """Afterwards the browser has to sign in again; both events are in the audit log."""
    provider.claims = VIEWER
    page = context.new_page()
    sign_in(page, dashboard)
    # the page asks for a sign-in at once; the cookie goes when the browser has followed the redirect
    with page.expect_response("**/auth/logout"):
        page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    visit(page, f"{dashboard.url}/portfolios?player=alice")
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    assert "Traceback" not in dashboard.log.read_text()
    # once each, however often the page ran
    assert execute("SELECT actor, action, outcome FROM audit_events ORDER BY created_at") == [
        ("victor@example.com", "sign_in", "done"), ("victor@example.com", "sign_out", "done"),
    ]  # fmt: skip  # in pairs


def test_a_sign_out_counts_that_the_browser_did_not_follow(
    context: BrowserContext, dashboard: Dashboard, provider: Provider
) -> None:
    """A cookie that the browser kept, or a copy of it, opens nothing after the sign-out."""
    provider.claims = VIEWER
    page = context.new_page()
    sign_in(page, dashboard)
    context.route("**/auth/logout", lambda route: route.abort())
    cookies = context.cookies()
    with page.expect_request("**/auth/logout"):
        page.get_by_role("button", name="Sign out").click()
    assert {each["name"] for each in cookies} <= {each["name"] for each in context.cookies()}
    page = context.new_page()
    visit(page, f"{dashboard.url}/portfolios?player=alice")
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()
