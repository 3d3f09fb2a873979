"""Sign-in with an OpenID Connect provider in a real browser, and the rights of operators and viewers."""

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
def _long_expect_timeout() -> Iterator[None]:
    """Allow 30 s for each expectation, because a busy machine needs seconds for a page."""
    expect.set_options(timeout=WAIT_MS)
    yield
    expect.set_options(timeout=None)


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """Yield a browser context without cookies."""
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    context.set_default_timeout(WAIT_MS)
    yield context
    context.close()


@pytest.fixture
def provider() -> Iterator[Provider]:
    """Yield an OpenID Connect provider with the redirect address of this test's dashboard."""
    with run_provider(f"http://{LOOPBACK}:{find_free_port()}/oauth2callback") as provider:
        yield provider


@pytest.fixture
def dashboard(
    service: EnhancedDatabaseService, database_url: str, tmp_path: Path, provider: Provider
) -> Iterator[Dashboard]:
    """Yield a dashboard that requires a sign-in with the provider."""
    play_game(service)
    settings = provider.settings() | {"OIDC_OPERATOR_CLAIM": "groups=operators"}
    settings |= {"DATABASE_URL": database_url, "ENABLE_REDIS_CACHE": "false"}
    with run_dashboard(tmp_path, port=urlsplit(provider.redirect_uri).port, **settings) as started:
        yield started


def sign_in(page: Page, dashboard: Dashboard) -> None:
    """Sign in as the user in `provider.claims`, and wait for the first page."""
    visit(page, dashboard.url)
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator(".st-key-visitor")).to_contain_text("Signed in")
    wait_until_complete(page)


def test_no_data_before_a_sign_in(context: BrowserContext, dashboard: Dashboard) -> None:
    """Before a sign-in, every page shows only the sign-in button, no data and no menu."""
    page = context.new_page()
    for path in ("/", "/portfolios?player=alice"):
        visit(page, dashboard.url + path)
        expect(page.get_by_role("button", name="Sign in")).to_be_visible()
        expect(page.get_by_text("alice")).to_have_count(0)
        expect(page.get_by_role("link", name="Portfolios")).to_have_count(0)


def test_an_operators_action_is_recorded(
    context: BrowserContext, dashboard: Dashboard, provider: Provider, execute: Execute
) -> None:
    """An operator's action runs after one confirmation and is recorded with the provider's e-mail address."""
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
    """A user without the operator claim sees a notice on the Operations page and no action buttons."""
    provider.claims = VIEWER
    page = context.new_page()
    sign_in(page, dashboard)
    page.get_by_role("link", name="Operations").click()
    expect(page.get_by_text("Only operators can use these actions")).to_be_visible()
    expect(page.get_by_role("button", name="Expire quests")).to_have_count(0)


def test_operator_rights_end_after_half_a_day(
    context: BrowserContext, dashboard: Dashboard, provider: Provider
) -> None:
    """A user who signed in 13 hours ago has no operator rights and sees no action buttons."""
    provider.claims, provider.age_seconds = OPERATOR, 13 * 3600
    page = context.new_page()
    sign_in(page, dashboard)
    expect(page.locator(".st-key-visitor")).to_contain_text("Operator rights ended")
    page.get_by_role("link", name="Operations").click()
    expect(page.get_by_role("button", name="Expire quests")).to_have_count(0)


def test_sign_out_requires_a_new_sign_in(
    context: BrowserContext, dashboard: Dashboard, provider: Provider, execute: Execute
) -> None:
    """After a sign-out the browser must sign in again; the audit log has one sign-in and one sign-out."""
    provider.claims = VIEWER
    page = context.new_page()
    sign_in(page, dashboard)
    # the sign-in button appears at once, but the cookie is removed only after the redirect
    with page.expect_response("**/auth/logout"):
        page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    visit(page, f"{dashboard.url}/portfolios?player=alice")
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    assert "Traceback" not in dashboard.log.read_text()
    # one row for each event, although Streamlit ran the page several times
    assert execute("SELECT actor, action, outcome FROM audit_events ORDER BY created_at") == [
        ("victor@example.com", "sign_in", "done"), ("victor@example.com", "sign_out", "done"),
    ]  # fmt: skip  # one row a line would be longer


def test_a_kept_cookie_is_invalid_after_sign_out(
    context: BrowserContext, dashboard: Dashboard, provider: Provider
) -> None:
    """After a sign-out whose redirect the browser did not follow, the kept cookie opens no page."""
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
