"""The gate that every page is behind: sign-in, and a line that says who looks.

Owns what a visitor sees of access. The rules are in `access`; the server's lifespan (or a
test) opens the gate with a policy. Closed to operators until then.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

import streamlit as st

from dashboard.access import Policy, Visitor, identify
from dashboard.access_limits import RateLimit
from dashboard.formats import escape_markdown

ACTIONS, ACTION_SECONDS = 10, 60.0
"""Actions of one operator in a minute: more than a person means to do, far below what hurts."""


class _Gate:
    """What pages share; a holder because Streamlit passes scripts no argument."""

    policy = Policy()
    action_limit = RateLimit(limit=ACTIONS, seconds=ACTION_SECONDS)


def open_gate(policy: Policy) -> None:
    """Let pages admit visitors by this policy, and count actions from nothing."""
    _Gate.policy = policy
    _Gate.action_limit = RateLimit(limit=ACTIONS, seconds=ACTION_SECONDS)


def get_action_limit() -> RateLimit:
    """Return how often one operator may act."""
    return _Gate.action_limit


def find_visitor() -> Visitor | None:
    """Return who this session belongs to; None when a sign-in is needed first."""
    claims = st.user.to_dict() if _Gate.policy.has_sign_in else {}
    return identify(_Gate.policy, claims, now=datetime.now(UTC))


def choose_menu() -> Literal["top", "hidden"]:
    """Return where the menu of pages goes: nowhere until somebody has signed in."""
    return "hidden" if find_visitor() is None else "top"


def guard(page: Callable[[], None]) -> Callable[[], None]:
    """Return the page for who may see it, and the way to sign in for who may not yet."""

    def show() -> None:
        visitor = find_visitor()
        if visitor is None:
            show_sign_in()
        else:
            page()
            show_visitor(visitor)

    return show


def show_sign_in() -> None:
    """Ask for a sign-in; the provider decides who somebody is."""
    with st.container(border=True, key="sign-in"):
        st.title("Echo Markets", anchor=False)
        st.markdown("Sign in to see the dashboard. Your organisation's account is enough.")
        st.button("Sign in", type="primary", key="sign-in-button", on_click=st.login)


def show_visitor(visitor: Visitor) -> None:
    """Say below a page who looks at it, or what keeps others out where nobody signs in."""
    if not _Gate.policy.has_sign_in:
        st.caption(_describe_openness(visitor))
        return
    with st.container(key="visitor", horizontal=True, vertical_alignment="center"):
        role = " as an operator" if visitor.is_operator else ""
        st.caption(f"Signed in{role}: {escape_markdown(visitor.name)}")
        if visitor.is_stale:
            st.caption("Operators sign in anew after 12 hours.")
        st.button("Sign out", type="tertiary", key="sign-out", on_click=st.logout)


def _describe_openness(visitor: Visitor) -> str:
    if _Gate.policy.is_behind_proxy:
        return "Nobody signs in here: the proxy in front of this dashboard decides who gets in."
    role = "; whoever looks is an operator" if visitor.is_operator else ""
    return f"Open without sign-in, to this machine only{role}; the OIDC settings change that."
