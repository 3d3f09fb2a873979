"""Error states and empty states, which are shown in place of a page or in place of a part of a page.

Owns the texts that pages show for an error of the service; every text names the next step. Visitors never see
a traceback: the page shows an error id, and the log has the traceback under this id.
"""

import logging
from collections.abc import Callable
from secrets import token_hex
from typing import NamedTuple

import streamlit as st

from core.errors import (
    DatabaseError,
    DatabaseUnavailable,
    EchoMarketsError,
    PoolClosed,
    PoolTimeout,
    QueryTimeout,
)
from dashboard import runtime
from dashboard.formats import escape_markdown

logger = logging.getLogger(__name__)

RETRY_SECONDS = 5
"""Time after which an open page reads the values of its failed sections again."""

RETRYING = "retrying"
"""A key of Streamlit's session state. It is set if a page runs again because a read has failed."""


class ErrorState(NamedTuple):
    """The texts that a page shows for a database error of one of the types in `errors`.

    `title`, `text`, `hint` and `command` replace the whole page. `summary` replaces a part of a page. `cause`
    is part of the note below a last known value.
    """

    errors: tuple[type[Exception], ...]
    title: str
    text: str
    hint: str
    command: str
    summary: str
    cause: str


UNREACHABLE = ErrorState(
    errors=(DatabaseUnavailable, PoolClosed),
    title="The database cannot be reached",
    text=f"No data is lost. This page tries again every {RETRY_SECONDS} seconds.",
    hint="See what runs, and start what does not run with `make up`:",
    command="make status",
    summary="The database cannot be reached.",
    cause="the database does not answer",
)
BUSY = ErrorState(
    errors=(PoolTimeout,),
    title="The dashboard is busy",
    text="All its database connections were in use. Try again in a moment.",
    hint="If this happens often, allow more connections and restart the dashboard:",
    command="DATABASE_CONNECTION_LIMIT=20",
    summary="The dashboard is busy: all its database connections were in use.",
    cause="all database connections are in use",
)
SLOW = ErrorState(
    errors=(QueryTimeout,),
    title="The database took too long to answer",
    text="The query was stopped so that it does not delay others. Try again, or choose a smaller view.",
    hint="If this happens often, check the database:",
    command="make status",
    summary="The database took too long to answer. Choose a smaller view.",
    cause="the database took too long to answer",
)
MIGRATIONS_PENDING = ErrorState(
    errors=(DatabaseError,),
    title="The database is not set up yet",
    text="The database answers, but its tables are missing or older than this dashboard.",
    hint="Migrate it, then retry. Without make: `echo-markets migrate`.",
    command="make migrate",
    summary="The database is not set up yet: migrate it with `make migrate`.",
    cause="the database is not set up",
)
ERROR_STATES = (UNREACHABLE, BUSY, SLOW, MIGRATIONS_PENDING)
"""The first state that matches an error is shown.

MIGRATIONS_PENDING matches only while migrations are pending.
"""


def find_state(error: Exception) -> ErrorState | None:
    """Return the state for an error, or None if the error is not one of those in ERROR_STATES."""
    state = next((state for state in ERROR_STATES if isinstance(error, state.errors)), None)
    if state is MIGRATIONS_PENDING and not runtime.get_service().health().migrations_pending:
        return None
    return state


def run_page(page: Callable[[], None]) -> None:
    """Run a page. If the database fails, show the error state instead of the page."""
    try:
        page()
    except EchoMarketsError as error:
        state = find_state(error)
        if state is None:
            raise
        _show_error(state, error)
        if state is UNREACHABLE:
            retry_page()


def run_part(part: Callable[[], None], *, is_live: bool) -> bool:
    """Run a part of a page and return whether it succeeded. On an error, show a warning instead of the part.

    `is_live` says whether the part runs again by itself.
    """
    try:
        part()
    # catch every error: after an error that is not caught, Streamlit would show only this error on the page
    except Exception as error:
        error_id = _log(error)
        state = find_state(error)
        summary = state.summary if state else "Something went wrong here. This is our mistake, not yours."
        retry = f"Next try in {RETRY_SECONDS} s." if is_live else "Use Refresh to try again."
        st.warning(f"{summary} {retry} Details are in the dashboard's log under error id `{error_id}`.")
        return False
    return True


def retry_page() -> None:
    """Run the whole page again every RETRY_SECONDS, until a run does not call this function.

    Waits while the database does not answer. A live part calls it again in each run that fails.
    """
    is_first_call = True

    def retry() -> None:
        nonlocal is_first_call
        if is_first_call:
            is_first_call = False
        elif not runtime.get_reader().is_database_down():
            st.session_state[RETRYING] = True
            st.rerun()

    st.fragment(retry, run_every=RETRY_SECONDS)()


def describe_cause(error: Exception) -> str:
    """Return the cause of a failed read in a few words.

    Logs the error with an error id, unless it is an outage.
    """
    state = find_state(error)
    if state is UNREACHABLE:
        # do not log it: the outage was logged when it began, and one entry per section and visitor would not
        # help
        return state.cause
    error_id = _log(error)
    return f"{state.cause if state else 'reading failed'} (error id `{error_id}` in the log)"


def show_unexpected(error: Exception) -> bool:
    """Log an unexpected error and show its error id. Returns True, so that Streamlit shows no traceback."""
    error_id = _log(error)
    with st.container(border=True, key="state-unexpected"):
        st.header("Something went wrong")
        st.markdown("This is our mistake, not yours. Try again, or go to another page.")
        st.button("Retry", type="primary", key="retry-unexpected")
        _show_error_id(error_id)
    return True


def show_empty(key: str, title: str, text: str, *, command: str | None = None, note: str = "") -> None:
    """Show an empty state: a title, a text with the reason, and a command that fills the page.

    The title, the text and the note are Markdown.
    """
    with st.container(border=True, key=f"state-{key}"):
        st.header(title)
        st.markdown(text)
        if command:
            st.code(command, language="bash")
        if note:
            st.caption(note)


def show_unseeded(key: str, title: str, reason: str) -> None:
    """Show an empty state for a page that `make seed` fills."""
    show_empty(
        key,
        title,
        f"{reason} Load the shipped price history as game sessions, with players and quests:",
        command="make seed",
        note="Without make: `echo-markets seed`. Then reload this page.",
    )


def show_no_sessions() -> None:
    """Show that nobody has played yet."""
    show_unseeded("empty", "No sessions yet", "The database is ready, but nobody has played.")


def show_not_played(username: str) -> None:
    """Show that a player has no session yet."""
    show_empty(
        "no-sessions",
        f"{escape_markdown(username)} has not played a session yet",
        "This page has content after the first session.",
    )


def _show_error(state: ErrorState, error: Exception) -> None:
    error_id = _log(error)
    with st.container(border=True, key="state-problem"):
        st.header(state.title)
        st.markdown(state.text)
        st.button("Retry", type="primary", key="retry")
        st.caption(state.hint)
        st.code(state.command, language="bash")
        _show_error_id(error_id)


def _show_error_id(error_id: str) -> None:
    st.caption(f"Details are in the dashboard's log under error id `{error_id}`.")


def _log(error: Exception) -> str:
    error_id = token_hex(4)
    logger.error("page failed with error id %s", error_id, exc_info=error)
    return error_id
