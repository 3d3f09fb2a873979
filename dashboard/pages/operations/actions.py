"""The actions of operators and their panel: clear and warm caches, close a session, expire quests.

An action runs only for an operator, within the rate limit, and after it was recorded in the audit log.
`dashboard.server.access` decides which visitors are operators.
"""

from collections.abc import Callable
from datetime import date
from functools import partial
from typing import NoReturn

import msgspec
import streamlit as st

from core import EnhancedDatabaseService
from core.errors import EchoMarketsError, UserNotFound
from core.records import AuditAction
from dashboard import live, runtime
from dashboard.formats import escape_markdown
from dashboard.pages.operations.tables import EVENTS, show_listing
from dashboard.server import audit, sign_in
from dashboard.server.access import OPERATOR_SIGN_IN, Visitor

SESSIONS_OFFERED = 30
"""Number of sessions in the list of sessions to close: the newest ones."""

EVENTS_SHOWN = 20
ANONYMOUS_ACTOR = "not signed in"
"""The actor that the audit log names if an action is refused because the visitor has not signed in."""

_PENDING, _RESULT = "operator-pending", "operator-result"


class NotAllowed(EchoMarketsError):
    """The action did not run: the visitor is not an operator, or the rate limit does not allow it."""


class Action(msgspec.Struct, frozen=True):
    """An action of an operator. `run` executes the action and returns its result as a sentence.

    The audit log stores `kind` and `target`. The panel shows `label` on the button and asks `question` first.
    """

    key: str
    label: str
    kind: AuditAction
    target: str
    question: str
    run: Callable[[EnhancedDatabaseService], str]


def perform(service: EnhancedDatabaseService, action: Action) -> str:
    """Run an action for the visitor of this browser session, and return its result.

    The action is recorded in the audit log first. If it cannot be recorded, it does not run. Raises
    `NotAllowed` if the action is refused, and the errors of the service. A refusal is recorded too, if the
    log can be written.
    """
    visitor = sign_in.find_visitor()
    if visitor is None or not visitor.is_operator:
        _refuse(service, action, visitor, f"{action.kind} is for operators only; sign in as an operator")
    decision = sign_in.count_action(visitor.actor)
    if decision is not None and not decision.is_counted:
        reason = "actions cannot be counted while Redis does not answer; try again when it does"
        _refuse(service, action, visitor, reason)
    if decision is not None and not decision.is_allowed:
        reason = f"too many actions per minute; try again in {decision.seconds:.0f} seconds"
        _refuse(service, action, visitor, reason)
    with (
        service.audited(actor=visitor.actor, action=action.kind, target=action.target) as event,
        # the audit log names the visitor and this action for every row that the action changes
        service.acting_as(visitor.actor, request_id=str(event.id)),
    ):
        return action.run(service)


def _refuse(
    service: EnhancedDatabaseService, action: Action, visitor: Visitor | None, reason: str
) -> NoReturn:
    audit.record(
        service,
        actor=ANONYMOUS_ACTOR if visitor is None else visitor.actor,
        action=action.kind,
        target=action.target,
        outcome="refused",
        detail=reason,
    )
    raise NotAllowed(reason)


def show_operator_actions(service: EnhancedDatabaseService) -> None:
    """Show the panel of actions to an operator. Show any other visitor a text that says who can use it."""
    visitor = sign_in.find_visitor()
    st.header("Actions", anchor=False)
    if visitor is None or not visitor.is_operator:
        st.caption(_explain_absence(is_stale=visitor is not None and visitor.is_stale))
        return
    _show_result()
    with st.container(key="operator-actions", border=True):
        _offer_simple_actions()
        players, sessions = st.columns(2, vertical_alignment="bottom")
        with players:
            _offer_player_cache(service)
        with sessions:
            _offer_sessions(service)
    _show_question(service)
    load = partial(service.list_audit_events, limit=EVENTS_SHOWN)
    show = partial(show_listing, EVENTS, empty="Nobody has signed in or acted yet.")
    live.show_section("operations-events", load=load, show=show)


def build_clear_market() -> Action:
    """Return the action that removes the prices of all symbols from the cache."""

    def run(service: EnhancedDatabaseService) -> str:
        service.clear_market_data_cache()
        return "Cached prices removed."

    question = "Remove the cached prices of all symbols? The next reads go to the database."
    return Action("clear-market", "Clear the market cache", "clear_cache", "market", question, run)


def build_warm() -> Action:
    """Return the action that reads the most requested data into the cache."""

    def run(service: EnhancedDatabaseService) -> str:
        return f"{service.warm_cache():,} keys are in the cache."

    question = "Read the most requested data into the cache? This takes some seconds."
    return Action("warm", "Warm the caches", "warm_cache", "most active players", question, run)


def build_expire_quests() -> Action:
    """Return the action that marks active quests as expired if their end time has passed."""

    def run(service: EnhancedDatabaseService) -> str:
        return f"{service.expire_quests():,} quests have expired."

    question = "Expire all active quests past their end? Players cannot complete them afterwards."
    return Action("expire-quests", "Expire quests", "expire_quests", "past their time", question, run)


def build_clear_player(username: str) -> Action:
    """Return the action that removes the data of one player from the cache."""

    def run(service: EnhancedDatabaseService) -> str:
        user = service.get_user_by_username(username)
        service.clear_user_cache(user.id)
        return f"Cached data of {username} removed."

    question = f"Remove the cached profile, portfolios and quests of {username}?"
    return Action(
        "clear-player", "Clear a player's cache", "clear_cache", f"player {username}", question, run
    )


def build_close_session(day: date) -> Action:
    """Return the action that stores the final rank of every leaderboard entry of a session."""

    def run(service: EnhancedDatabaseService) -> str:
        return f"{service.close_session(day):,} entries of {day} have their final rank."

    question = f"Store the final rank of every entry of the session of {day}?"
    return Action("close-session", "Close the session", "close_session", f"session {day}", question, run)


def _offer_simple_actions() -> None:
    with st.container(horizontal=True):
        for action in (build_warm(), build_clear_market(), build_expire_quests()):
            if st.button(action.label, key=f"operator-{action.key}"):
                _ask(action)


def _offer_player_cache(service: EnhancedDatabaseService) -> None:
    name = st.text_input("Player's username", key="operator-player", max_chars=50).strip()
    if st.button("Clear a player's cache", key="operator-clear-player", disabled=not name):
        try:
            user = service.get_user_by_username(name)
        except (UserNotFound, ValueError):
            st.warning(f"No player is called “{escape_markdown(name)}”.")
        else:
            _ask(build_clear_player(user.username))


def _offer_sessions(service: EnhancedDatabaseService) -> None:
    load = partial(service.list_leaderboard_dates, limit=SESSIONS_OFFERED)
    days = live.read("operations-sessions", load)
    day = st.selectbox("Session", days, index=None, key="operator-session", placeholder="Choose a session")
    if st.button("Close the session", key="operator-close-session", disabled=day is None) and day:
        _ask(build_close_session(day))


def _ask(action: Action) -> None:
    """Ask the visitor to confirm the action. The question stays open when the page runs again."""
    st.session_state[_PENDING] = action


def _show_question(service: EnhancedDatabaseService) -> None:
    action = st.session_state.get(_PENDING)
    if action is not None:
        st.dialog(action.label, on_dismiss=_dismiss_question)(_confirm)(service, action)


def _dismiss_question() -> None:
    st.session_state.pop(_PENDING, None)


def _confirm(service: EnhancedDatabaseService, action: Action) -> None:
    st.markdown(escape_markdown(action.question))
    st.caption("The audit log records this action under your name.")
    if not st.button("Yes, do it", type="primary", key="operator-confirm"):
        return
    _dismiss_question()
    try:
        result = (True, perform(service, action))
    except EchoMarketsError as error:
        result = (False, f"{action.label} failed: {error}")
    st.session_state[_RESULT] = result
    runtime.get_reader().read_again()
    st.rerun()


def _show_result() -> None:
    result = st.session_state.pop(_RESULT, None)
    if result is not None:
        is_done, text = result
        (st.success if is_done else st.error)(escape_markdown(text))


def _explain_absence(*, is_stale: bool) -> str:
    if is_stale:
        hours = OPERATOR_SIGN_IN.total_seconds() / 3600
        return f"You signed in more than {hours:.0f} hours ago. Sign in again to use these actions."
    return "Only operators can use these actions. The settings say who is an operator."
