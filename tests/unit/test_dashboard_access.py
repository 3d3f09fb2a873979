"""Who may see the dashboard and who is an operator, by settings and claims."""

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


def settle(**values: Any) -> Settings:
    """Return settings with these values."""
    return Settings(database_url=SecretStr("postgresql://echo@127.0.0.1/echo"), **values)


def test_without_sign_in_it_is_open_here_and_nobody_is_an_operator() -> None:
    """By default the dashboard listens on this machine only, and nobody may act."""
    policy = build_policy(settle())
    visitor = identify(policy, {}, now=NOW)
    assert visitor is not None
    assert (visitor.actor, visitor.is_operator) == (LOCAL, False)
    assert build_secrets(settle()) == {"auth": {}}


def test_the_local_user_is_an_operator_when_named() -> None:
    """The word local in DASHBOARD_OPERATORS makes the local user an operator."""
    visitor = identify(build_policy(settle(dashboard_operators="local")), {}, now=NOW)
    assert visitor is not None
    assert visitor.is_operator


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.5", "::1", "localhost"])
def test_loopback_needs_no_sign_in(host: str) -> None:
    """Every loopback address may be listened on without a sign-in."""
    assert not build_policy(settle(dashboard_host=host)).has_sign_in


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "dash.example"])
def test_listening_elsewhere_needs_a_reason(host: str) -> None:
    """The error names the address and each remedy, and each remedy works."""
    with pytest.raises(SettingsError, match=r"DASHBOARD_HOST is .*OIDC_CLIENT_ID.*DASHBOARD_BEHIND=proxy"):
        build_policy(settle(dashboard_host=host))
    for remedy in (SIGN_IN, {"dashboard_behind": "loopback"}, {"dashboard_behind": "proxy"}):
        build_policy(settle(dashboard_host=host, **remedy))


@pytest.mark.parametrize("name", SIGN_IN)
def test_sign_in_is_all_or_nothing(name: str) -> None:
    """The error names the missing setting and shows no secret."""
    values = {key: value for key, value in SIGN_IN.items() if key != name}
    with pytest.raises(SettingsError, match=rf"^{name.upper()} is not set although") as caught:
        build_policy(settle(**values))
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
def test_settings_that_contradict_each_other(values: dict[str, Any], message: str) -> None:
    """Each is named with its remedy before anything starts."""
    with pytest.raises(SettingsError, match=message):
        build_policy(settle(**values))


@pytest.mark.parametrize(
    "claims", [{}, {"is_logged_in": False}, {"is_logged_in": True}, {**ALICE, "sub": ""}]
)
def test_who_has_not_signed_in_is_nobody(claims: dict[str, Any]) -> None:
    """With sign-in configured, a session without claims has no visitor."""
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
def test_an_operator_by_address(changed: dict[str, Any], *, is_operator: bool) -> None:
    """The provider must have verified the address, and the sign-in must be less than 12 hours old."""
    policy = build_policy(settle(dashboard_operators=" alice@EXAMPLE.com, carol@example.com", **SIGN_IN))
    visitor = identify(policy, ALICE | changed, now=NOW)
    assert visitor is not None
    assert visitor.is_operator is is_operator


@pytest.mark.parametrize(
    "issued",
    [-(10**15), 10**15, 1e300, float("nan"), float("inf"), (NOW + timedelta(days=30)).timestamp()],
)
def test_an_impossible_time_of_issue_is_no_sign_in(issued: float) -> None:
    """Such a sign-in neither raises an error nor gives operator rights without an end."""
    policy = build_policy(settle(dashboard_operators="alice@example.com", **SIGN_IN))
    assert identify(policy, ALICE | {"iat": issued}, now=NOW) is None


def test_a_password_in_the_providers_address_is_not_repeated() -> None:
    """The error names the setting and hides the password."""
    values = {**SIGN_IN, "oidc_metadata_url": "http://user:hunter2@id.example/openid?token=hunter2"}
    with pytest.raises(SettingsError, match="OIDC_METADATA_URL") as caught:
        build_policy(settle(**values))
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
def test_an_operator_by_claim(claims: dict[str, Any], *, is_operator: bool) -> None:
    """The claim must equal the value or be a list that contains it; a part of the value is not enough."""
    policy = build_policy(settle(oidc_operator_claim="groups=operators", **SIGN_IN))
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
def test_health_is_for_operators_and_without_sign_in_for_all(
    policy: Policy, claims: dict[str, Any], sees: tuple[bool, bool]
) -> None:
    """This holds for the health line; messages of servers are hidden from visitors of a proxy."""
    visitor = identify(policy, ALICE | claims, now=NOW)
    assert visitor is not None
    assert (visitor.sees_health, visitor.sees_words) == sees


def test_an_address_nobody_vouches_for_is_not_written_down() -> None:
    """The audit record names the subject instead, because the provider has not verified the address."""
    visitor = identify(Policy(has_sign_in=True), ALICE | {"email_verified": False}, now=NOW)
    assert visitor is not None
    assert visitor.actor == "subject 1"


def test_streamlit_gets_what_it_needs() -> None:
    """The section has the five keys that Streamlit's documentation lists."""
    secrets = build_secrets(settle(**SIGN_IN))["auth"]
    assert secrets == {
        "client_id": "echo",
        "client_secret": "hunter2-hunter2",
        "server_metadata_url": "https://id.example/.well-known/openid-configuration",
        "redirect_uri": "https://dash.example/oauth2callback",
        "cookie_secret": "c" * 32,
    }
