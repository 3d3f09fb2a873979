"""The rules of access: who may see the dashboard, and who is an operator.

Builds the access policy from the settings, and a visitor from the claims of a sign-in. Streamlit has already
checked the signature of the claims. Draws nothing, and sends nothing to the identity provider.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import msgspec

from core import Settings
from core.errors import SettingsError
from core.settings.environment import show_value
from core.web.requests import is_local_host

LOCAL = "local"
"""The name of every visitor if no sign-in is configured.

If DASHBOARD_OPERATORS contains it, all visitors are operators.
"""

OPERATOR_SIGN_IN = timedelta(hours=12)
"""How long operator rights last after a sign-in. The visitor stays signed in for longer: for a month."""

_SIGN_IN = (
    "oidc_client_id",
    "oidc_client_secret",
    "oidc_metadata_url",
    "oidc_redirect_uri",
    "oidc_cookie_secret",
)
_ALL = ", ".join(name.upper() for name in _SIGN_IN)


class Policy(msgspec.Struct, frozen=True):
    """The rules of access, taken from the settings. By default, nobody is an operator."""

    has_sign_in: bool = False
    is_behind_proxy: bool = False
    is_local_operator: bool = False
    operators: frozenset[str] = frozenset()
    operator_claim: tuple[str, str] | None = None
    origin: str | None = None


class Visitor(msgspec.Struct, frozen=True):
    """The person who sees a page. `actor` is the person's name in the audit log."""

    actor: str
    name: str
    is_operator: bool
    issued_at: datetime | None = None
    """When the identity provider issued the sign-in, by the provider's clock. None without sign-in."""

    is_stale: bool = False
    """Whether this person is named as an operator, but signed in more than `OPERATOR_SIGN_IN` ago."""

    sees_health: bool = False
    """Whether pages show the health line: to operators, and to all visitors if there is no sign-in."""

    sees_reasons: bool = False
    """Whether pages show error messages of servers: to operators; without sign-in and proxy, to everyone."""


def build_policy(settings: Settings) -> Policy:
    """Return the access policy of these settings. Raises `SettingsError` if they contradict each other."""
    has_sign_in = _check_sign_in(settings)
    _check_host(settings, has_sign_in=has_sign_in)
    names = {name.strip().casefold() for name in settings.dashboard_operators.split(",")} - {""}
    _check_operators(settings, names, has_sign_in=has_sign_in)
    claim, _, value = (settings.oidc_operator_claim or "").partition("=")
    return Policy(
        has_sign_in=has_sign_in,
        is_behind_proxy=settings.dashboard_behind == "proxy",
        is_local_operator=LOCAL in names,
        operators=frozenset(names - {LOCAL}),
        operator_claim=(claim, value) if claim else None,
        origin=_find_origin(settings.oidc_redirect_uri) if settings.oidc_redirect_uri else None,
    )


def build_secrets(settings: Settings) -> dict[str, Any]:
    """Return Streamlit's secrets: the section of the sign-in, which is empty if no sign-in is configured.

    If the section were missing, Streamlit would read secrets from a file in the user's home.
    """
    if not _check_sign_in(settings):
        return {"auth": {}}
    assert settings.oidc_client_secret  # noqa: S101  # for mypy: all five are set
    assert settings.oidc_cookie_secret  # noqa: S101  # likewise
    return {
        "auth": {
            "client_id": str(settings.oidc_client_id),
            "client_secret": settings.oidc_client_secret.get_secret_value(),
            "server_metadata_url": str(settings.oidc_metadata_url),
            "redirect_uri": str(settings.oidc_redirect_uri),
            "cookie_secret": settings.oidc_cookie_secret.get_secret_value(),
        }
    }


def identify(policy: Policy, claims: Mapping[str, Any], *, now: datetime) -> Visitor | None:
    """Return the visitor whom the claims of a sign-in describe, or None if a sign-in is needed."""
    if not policy.has_sign_in:
        return Visitor(
            actor=LOCAL,
            name=LOCAL,
            is_operator=policy.is_local_operator,
            sees_health=True,
            sees_reasons=not policy.is_behind_proxy,
        )
    if claims.get("is_logged_in") is not True or not claims.get("sub"):
        return None
    issued_at = _find_issue_time(claims)
    if issued_at is None or issued_at > now + OPERATOR_SIGN_IN:
        # refuse a sign-in whose time is impossible or far in the future: its operator rights would never end
        return None
    address = _find_address(claims)
    is_named = (address or "").casefold() in policy.operators or _has_claim(policy, claims)
    is_fresh = issued_at > now - OPERATOR_SIGN_IN
    is_operator = is_named and is_fresh
    actor = address or f"subject {claims['sub']}"
    return Visitor(
        actor=actor[:320],
        name=str(claims.get("name") or actor),
        is_operator=is_operator,
        issued_at=issued_at,
        is_stale=is_named and not is_fresh,
        sees_health=is_operator,
        sees_reasons=is_operator,
    )


def _find_origin(address: str) -> str:
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc}"


def _find_address(claims: Mapping[str, Any]) -> str | None:
    """Return the e-mail address if the provider has verified it: many providers let users enter any text."""
    address = claims.get("email")
    return address if isinstance(address, str) and claims.get("email_verified") is True else None


def _has_claim(policy: Policy, claims: Mapping[str, Any]) -> bool:
    if policy.operator_claim is None:
        return False
    name, wanted = policy.operator_claim
    value = claims.get(name)
    return wanted in value if isinstance(value, list) else value == wanted


def _find_issue_time(claims: Mapping[str, Any]) -> datetime | None:
    """Return when the identity provider issued the claims of a sign-in.

    Returns 1970-01-01 if the claims have no time, and None if their time is impossible.
    """
    issued = claims.get("iat")
    try:
        return datetime.fromtimestamp(issued if isinstance(issued, int | float) else 0, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _check_sign_in(settings: Settings) -> bool:
    """Return whether sign-in is configured. Raises `SettingsError` if only some of its settings are set."""
    missing = [name.upper() for name in _SIGN_IN if getattr(settings, name) is None]
    given = [name.upper() for name in _SIGN_IN if name.upper() not in missing]
    if missing and given:
        raise SettingsError(
            f"{_list(missing)} not set although {_list(given)}; sign-in needs all of them, or none"
        )
    for name in ("oidc_metadata_url", "oidc_redirect_uri"):
        _check_encrypted(name, getattr(settings, name))
    if settings.oidc_operator_claim and not given:
        raise SettingsError(
            f"OIDC_OPERATOR_CLAIM is {show_value(settings.oidc_operator_claim)} without sign-in; "
            f"set {', '.join(missing)}, or unset it"
        )
    return bool(given)


def _list(names: list[str]) -> str:
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"


def _check_encrypted(name: str, address: str | None) -> None:
    parts = urlsplit(address or "https:")
    if parts.scheme != "https" and not is_local_host(parts.hostname or ""):
        raise SettingsError(
            f"{name.upper()} is {show_value(parts.geturl())}, where others can listen in; use https://"
        )


def _check_host(settings: Settings, *, has_sign_in: bool) -> None:
    is_open = not has_sign_in and settings.dashboard_behind == "nothing"
    if is_open and not is_local_host(settings.dashboard_host):
        raise SettingsError(
            f"DASHBOARD_HOST is {settings.dashboard_host!r}, which other machines can reach, without sign-in;"
            f" set {_ALL} to ask for a sign-in, listen on 127.0.0.1, or state what keeps others"
            " out: DASHBOARD_BEHIND=loopback (the port is published on this machine only) or"
            " DASHBOARD_BEHIND=proxy (a proxy decides who gets in)"
        )


def _check_operators(settings: Settings, names: set[str], *, has_sign_in: bool) -> None:
    if LOCAL in names and (has_sign_in or settings.dashboard_behind == "proxy"):
        reason = "visitors sign in with an address" if has_sign_in else "a proxy lets other people in"
        raise SettingsError(
            f"DASHBOARD_OPERATORS names 'local', but {reason}; give the e-mail addresses of the operators"
        )
    wrong = sorted(name for name in names - {LOCAL} if "@" not in name or " " in name)
    if wrong:
        raise SettingsError(
            f"DASHBOARD_OPERATORS names {show_value(wrong[0])}, which is no e-mail address; "
            "give addresses separated by commas, or the word local"
        )
    if names - {LOCAL} and not has_sign_in:
        raise SettingsError(
            f"DASHBOARD_OPERATORS names addresses, but nobody signs in; set {_ALL}, or give the word local"
        )
