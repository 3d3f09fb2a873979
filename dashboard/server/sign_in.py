"""The sign-in page that is shown before every page, and the line below a page that names the visitor.

Owns the page and the texts of the sign-in; the rules of access are in `access`. The application sets the
policy when it starts. Before that, nobody is an operator.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

import streamlit as st

from core.web.rate_limits import Decision, RateLimit, RateLimits
from dashboard import runtime
from dashboard.formats import escape_markdown
from dashboard.server import audit
from dashboard.server.access import OPERATOR_SIGN_IN, Policy, Visitor, identify
from dashboard.server.sign_outs import SignOuts, describe_sign_in, has_signed_out

ACTIONS = 10
"""How many actions an operator may take per minute: more than a person needs, too few to do harm."""


class _Access:
    """The state of access control that all pages share.

    It consists of class attributes, because Streamlit passes no arguments to the script of a page.
    """

    policy = Policy()
    limits: RateLimits | None = None
    action_limit = RateLimit("operator_actions", ACTIONS)
    sign_ins = audit.SignIns()
    sign_outs = SignOuts()


def set_policy(
    policy: Policy,
    *,
    limits: RateLimits | None = None,
    actions_per_minute: int = ACTIONS,
    sign_outs: SignOuts | None = None,
) -> None:
    """Set the access policy. Without `limits`, this process counts the actions of operators by itself."""
    _Access.sign_outs = sign_outs or SignOuts()
    _Access.policy = policy
    _Access.limits = limits or RateLimits()
    _Access.action_limit = RateLimit("operator_actions", actions_per_minute)


def count_action(actor: str) -> Decision | None:
    """Count an action of an operator.

    Return whether the rate limit allows it, or None if there is no limit.
    """
    if _Access.limits is None or not _Access.action_limit.requests:
        return None
    return _Access.limits.take(_Access.action_limit, actor, fails_closed=True)


def find_visitor() -> Visitor | None:
    """Return the visitor of this session, or None if a sign-in is needed."""
    claims = st.user.to_dict() if _Access.policy.has_sign_in else {}
    visitor = identify(_Access.policy, claims, now=datetime.now(UTC))
    return None if visitor is None or has_signed_out(visitor, _Access.sign_outs) else visitor


def choose_menu_position() -> Literal["top", "hidden"]:
    """Return where Streamlit shows the menu of pages: at the top, or nowhere before a sign-in."""
    return "hidden" if find_visitor() is None else "top"


def require_sign_in(page: Callable[[], None]) -> Callable[[], None]:
    """Return a function that shows the page to a signed-in visitor and the sign-in page to all others."""

    def show() -> None:
        visitor = find_visitor()
        if visitor is None:
            _show_sign_in()
        else:
            _record_sign_in(visitor)
            page()
            _show_visitor(visitor)

    return show


def _record_sign_in(visitor: Visitor) -> None:
    if _Access.policy.has_sign_in and _Access.sign_ins.is_new(
        visitor.actor, st.user.to_dict(), datetime.now(UTC)
    ):
        audit.record(runtime.get_service(), actor=visitor.actor, action="sign_in")


def _sign_out(visitor: Visitor) -> None:
    """End the sign-in on the server too: the browser may never load the page that deletes the cookie."""
    detail = None
    if visitor.issued_at is not None:
        _Access.sign_outs.end(visitor.actor, visitor.issued_at)
        detail = describe_sign_in(visitor.issued_at)
    audit.record(runtime.get_service(), actor=visitor.actor, action="sign_out", detail=detail)
    st.logout()


def _show_sign_in() -> None:
    with st.container(border=True, key="sign-in"):
        st.title("Echo Markets", anchor=False)
        st.markdown("Sign in with your organisation's account to see the dashboard.")
        st.button("Sign in", type="primary", key="sign-in-button", on_click=st.login)


def _show_visitor(visitor: Visitor) -> None:
    if not _Access.policy.has_sign_in:
        # show this to operators only: only they can turn sign-in on
        if visitor.is_operator:
            st.caption("No sign-in: every visitor is an operator. OIDC settings turn sign-in on.")
        return
    with st.container(key="visitor", horizontal=True, vertical_alignment="center"):
        role = " as an operator" if visitor.is_operator else ""
        st.caption(f"Signed in{role}: {escape_markdown(visitor.name)}")
        if visitor.is_stale:
            hours = OPERATOR_SIGN_IN.total_seconds() / 3600
            st.caption(f"Operator rights ended after {hours:.0f} hours; sign in again to renew them.")
        st.button("Sign out", type="tertiary", key="sign-out", on_click=_sign_out, args=(visitor,))
