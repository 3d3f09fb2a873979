"""Access to the dashboard: which settings and claims let visitors in and make them operators."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from core import Settings
from core.errors import SettingsError
from dashboard.server.access import LOCAL, Policy, build_policy, build_secrets, identify

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
SIGN_IN: dict[str, Any] = {
    "oidc_client_id": "echo",
    "oidc_client_secret": SecretStr("hunter2-hunter2"),
    "oidc_metadata_url": "https://id.example/.well-known/openid-configuration",
    "oidc_redirect_uri": "https://dash.example/oauth2callback",
    "oidc_cookie_secret": SecretStr("c" * 32),
}
ALICE: dict[str, Any] = {
    "is_logged_in": True,
    "sub": "1",
    "name": "Alice Adams",
    "email": "Alice@example.com",
    "email_verified": True,
    "iat": NOW.timestamp() - 60,
}


def build_settings(**values: Any) -> Settings:
    """Return settings that have a database URL and these values."""
    return Settings(database_url=SecretStr("postgresql://echo@127.0.0.1/echo"), **values)


def test_without_sign_in_the_visitor_is_local_and_no_operator() -> None:
    """By default every visitor is the local user, who is not an operator."""
    policy = build_policy(build_settings())
    visitor = identify(policy, {}, now=NOW)
    assert visitor is not None
    assert (visitor.actor, visitor.is_operator) == (LOCAL, False)
    assert build_secrets(build_settings()) == {"auth": {}}


def test_the_local_user_is_an_operator_when_named() -> None:
    """DASHBOARD_OPERATORS=local makes the local user an operator."""
    visitor = identify(build_policy(build_settings(dashboard_operators="local")), {}, now=NOW)
    assert visitor is not None
    assert visitor.is_operator


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.5", "::1", "localhost"])
def test_loopback_needs_no_sign_in(host: str) -> None:
    """DASHBOARD_HOST may be any loopback address without a configured sign-in."""
    assert not build_policy(build_settings(dashboard_host=host)).has_sign_in


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "dash.example"])
def test_another_host_needs_sign_in_or_dashboard_behind(host: str) -> None:
    """A DASHBOARD_HOST outside loopback is refused unless sign-in or DASHBOARD_BEHIND is configured."""
    with pytest.raises(SettingsError, match=r"DASHBOARD_HOST is .*OIDC_CLIENT_ID.*DASHBOARD_BEHIND=proxy"):
        build_policy(build_settings(dashboard_host=host))
    for remedy in (SIGN_IN, {"dashboard_behind": "loopback"}, {"dashboard_behind": "proxy"}):
        build_policy(build_settings(dashboard_host=host, **remedy))


@pytest.mark.parametrize("name", SIGN_IN)
def test_incomplete_sign_in_settings_are_refused(name: str) -> None:
    """If one setting of the sign-in is missing, the error names the setting and shows no secret."""
    values = {key: value for key, value in SIGN_IN.items() if key != name}
    with pytest.raises(SettingsError, match=rf"^{name.upper()} is not set although") as caught:
        build_policy(build_settings(**values))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dashboard_operators": "local", **SIGN_IN}, "names 'local'"),
        ({"dashboard_operators": "local", "dashboard_behind": "proxy"}, "names 'local'"),
        ({"dashboard_operators": "alice@example.com"}, "nobody signs in"),
        ({"dashboard_operators": "alice", **SIGN_IN}, "'alice', which is no e-mail address"),
        ({"oidc_operator_claim": "groups=operators"}, "OIDC_OPERATOR_CLAIM is 'groups=operators' without"),
        ({**SIGN_IN, "oidc_redirect_uri": "http://dash.example/oauth2callback"}, "use https://"),
        ({**SIGN_IN, "oidc_metadata_url": "http://id.example/openid"}, "use https://"),
    ],
)
def test_contradicting_settings_are_refused(values: dict[str, Any], message: str) -> None:
    """Access settings that contradict each other or use http:// raise an error with the reason."""
    with pytest.raises(SettingsError, match=message):
        build_policy(build_settings(**values))


@pytest.mark.parametrize(
    "claims", [{}, {"is_logged_in": False}, {"is_logged_in": True}, {**ALICE, "sub": ""}]
)
def test_an_unauthenticated_session_has_no_visitor(claims: dict[str, Any]) -> None:
    """If sign-in is configured, a session without a sign-in or without a subject has no visitor."""
    assert identify(Policy(has_sign_in=True), claims, now=NOW) is None


@pytest.mark.parametrize(
    ("changed", "is_operator"),
    [
        ({}, True),
        ({"email": "bob@example.com"}, False),
        ({"email_verified": False}, False),
        ({"email_verified": None}, False),
        ({"email_verified": "true"}, False),
        ({"iat": (NOW - timedelta(hours=12, seconds=1)).timestamp()}, False),
        ({"iat": None}, False),
    ],
)
def test_a_verified_address_makes_an_operator(changed: dict[str, Any], *, is_operator: bool) -> None:
    """A listed e-mail address makes an operator if it is verified and the sign-in is under 12 hours old."""
    policy = build_policy(
        build_settings(dashboard_operators=" alice@EXAMPLE.com, carol@example.com", **SIGN_IN)
    )
    visitor = identify(policy, ALICE | changed, now=NOW)
    assert visitor is not None
    assert visitor.is_operator is is_operator


@pytest.mark.parametrize(
    "issued",
    [-(10**15), 10**15, 1e300, float("nan"), float("inf"), (NOW + timedelta(days=30)).timestamp()],
)
def test_an_impossible_issue_time_is_no_sign_in(issued: float) -> None:
    """Claims whose `iat` is out of range, not a number or in the future give no visitor and no error."""
    policy = build_policy(build_settings(dashboard_operators="alice@example.com", **SIGN_IN))
    assert identify(policy, ALICE | {"iat": issued}, now=NOW) is None


def test_a_password_in_the_provider_url_is_not_shown() -> None:
    """The error about OIDC_METADATA_URL shows neither the password nor the token in the URL."""
    values = {**SIGN_IN, "oidc_metadata_url": "http://user:hunter2@id.example/openid?token=hunter2"}
    with pytest.raises(SettingsError, match="OIDC_METADATA_URL") as caught:
        build_policy(build_settings(**values))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("claims", "is_operator"),
    [
        ({"groups": ["staff", "operators"]}, True),
        ({"groups": "operators"}, True),
        ({"groups": ["operators-of-something-else"]}, False),
        ({"groups": "not operators"}, False),
        ({}, False),
    ],
)
def test_a_claim_makes_an_operator(claims: dict[str, Any], *, is_operator: bool) -> None:
    """The claim must equal the configured value or be a list that contains the value."""
    policy = build_policy(build_settings(oidc_operator_claim="groups=operators", **SIGN_IN))
    visitor = identify(policy, ALICE | claims, now=NOW)
    assert visitor is not None
    assert visitor.is_operator is is_operator


@pytest.mark.parametrize(
    ("policy", "claims", "sees"),
    [
        (Policy(), {}, (True, True)),
        (Policy(is_behind_proxy=True), {}, (True, False)),
        (Policy(has_sign_in=True), {}, (False, False)),
        (Policy(has_sign_in=True, operators=frozenset({"alice@example.com"})), {}, (True, True)),
        (
            Policy(has_sign_in=True, operators=frozenset({"alice@example.com"})),
            {"iat": (NOW - timedelta(days=1)).timestamp()},
            (False, False),
        ),
    ],
)
def test_visitors_who_see_the_health_line(
    policy: Policy, claims: dict[str, Any], sees: tuple[bool, bool]
) -> None:
    """With sign-in only operators see the health line; behind a proxy all do, without server messages."""
    visitor = identify(policy, ALICE | claims, now=NOW)
    assert visitor is not None
    assert (visitor.sees_health, visitor.sees_reasons) == sees


def test_an_unverified_address_is_not_the_audit_actor() -> None:
    """If the provider has not verified the e-mail address, the audit actor is the subject."""
    visitor = identify(Policy(has_sign_in=True), ALICE | {"email_verified": False}, now=NOW)
    assert visitor is not None
    assert visitor.actor == "subject 1"


def test_streamlit_gets_the_sign_in_settings() -> None:
    """The section `auth` has the five keys that Streamlit's documentation lists."""
    secrets = build_secrets(build_settings(**SIGN_IN))["auth"]
    assert secrets == {
        "client_id": "echo",
        "client_secret": "hunter2-hunter2",
        "server_metadata_url": "https://id.example/.well-known/openid-configuration",
        "redirect_uri": "https://dash.example/oauth2callback",
        "cookie_secret": "c" * 32,
    }
