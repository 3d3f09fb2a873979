"""A sign-out ends a sign-in in every process, even if a copy of its cookie exists."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest

from core import EnhancedDatabaseService
from core.settings.texts import LOOPBACK
from core.stack.ports import find_free_port
from dashboard.server.sign_outs import PAGE, SignOuts, describe_sign_in
from tests.dashboard_process import run_dashboard
from tests.patience import wait_until
from tests.unit.test_dashboard_security import COOKIE_SECRET, sign_cookie

NOW = datetime.now(UTC).replace(microsecond=0)
ALICE, BOB = "alice@example.com", "bob@example.com"


def sign_out(service: EnhancedDatabaseService, actor: str, issued_at: datetime) -> None:
    """Record a sign-out in the audit log, as another process does."""
    service.record_audit_event(
        actor=actor, action="sign_out", target="dashboard", detail=describe_sign_in(issued_at)
    )


def test_a_sign_out_ends_earlier_sign_ins(service: EnhancedDatabaseService) -> None:
    """A sign-out ends a sign-in and the user's earlier ones in each process that reads the audit log."""
    sign_out(service, ALICE, NOW)
    # a later sign-out of an older sign-in must not make the newer sign-in valid again
    sign_out(service, ALICE, NOW - timedelta(hours=1))
    for _ in range(2):
        fresh = SignOuts()
        assert not fresh.has_ended(ALICE, NOW)
        fresh.refresh(service)
        assert fresh.has_ended(ALICE, NOW)
        assert fresh.has_ended(ALICE, NOW - timedelta(days=2))
        assert not fresh.has_ended(ALICE, NOW + timedelta(seconds=1))
        assert not fresh.has_ended(BOB, NOW)


def test_a_sign_out_is_found_among_many_events(service: EnhancedDatabaseService) -> None:
    """A refresh finds a sign-out that is followed by more than a page of other events."""
    sign_outs = SignOuts()
    for round_number in range(2):
        issued_at = NOW + timedelta(seconds=round_number)
        sign_out(service, ALICE, issued_at)
        for _ in range(PAGE + 1):
            service.record_audit_event(actor=BOB, action="sign_in", target="dashboard")
        sign_outs.refresh(service)
        assert sign_outs.has_ended(ALICE, issued_at)


def test_a_sign_in_without_a_time_never_ends() -> None:
    """A sign-in without a time never ends: otherwise the user's next one without a time would be refused."""
    sign_outs = SignOuts()
    unknown = datetime.fromtimestamp(0, UTC)
    sign_outs.end(ALICE, unknown)
    assert not sign_outs.has_ended(ALICE, unknown)
    sign_outs.end(ALICE, NOW)
    assert not sign_outs.has_ended(ALICE, unknown)


@pytest.mark.parametrize("detail", [None, "signed in at", "signed in at noon", "another"])
def test_a_detail_without_a_time_ends_no_sign_in(
    service: EnhancedDatabaseService, detail: str | None
) -> None:
    """A sign-out event without a valid time in its detail, as earlier releases wrote it, ends no sign-in."""
    service.record_audit_event(actor=ALICE, action="sign_out", target="dashboard", detail=detail)
    sign_outs = SignOuts()
    sign_outs.refresh(service)
    assert not sign_outs.has_ended(ALICE, NOW)


def test_a_copied_cookie_is_refused_after_the_sign_out(
    service: EnhancedDatabaseService, database_url: str, tmp_path: Path
) -> None:
    """After a sign-out, a running process refuses the copied cookie within seconds, and a new process too."""
    port = find_free_port()
    origin = f"http://{LOOPBACK}:{port}"
    claims = {"is_logged_in": True, "sub": "1", "email": ALICE, "email_verified": True, "origin": origin}
    cookie = sign_cookie(claims | {"iat": NOW.timestamp()})["cookie"]
    later = sign_cookie(claims | {"iat": NOW.timestamp() + 60})["cookie"]
    settings = {
        "DATABASE_URL": database_url,
        "ENABLE_REDIS_CACHE": "false",
        "RATE_LIMIT_DOWNLOADS": "0",
        "OIDC_CLIENT_ID": "echo-markets",
        "OIDC_CLIENT_SECRET": "nobody signs in here",
        "OIDC_METADATA_URL": f"http://{LOOPBACK}:1/openid",
        "OIDC_REDIRECT_URI": f"{origin}/oauth2callback",
        "OIDC_COOKIE_SECRET": COOKIE_SECRET,
    }

    def get_status(sent: str) -> int:
        return httpx2.get(f"{origin}/download/leaderboard.csv", headers={"Cookie": sent}).status_code

    for is_first in (True, False):
        with run_dashboard(tmp_path, port=port, **settings):
            if is_first:
                assert get_status(cookie) == 400
                sign_out(service, ALICE, NOW)
            wait_until(lambda: get_status(cookie) == 401, "the copied cookie is refused")
            assert get_status(later) == 400
