"""What a page shows when it cannot show its figures, with the next step.

Owns the empty, unknown, unavailable and unexpected states, and which error leads to
which. Nobody ever sees a traceback: the log has it, under an id that the page shows.
"""

import logging
from collections.abc import Callable
from secrets import token_hex

import streamlit as st

from core.errors import (
    DatabaseError,
    DatabaseUnavailable,
    EchoMarketsError,
    PoolClosed,
    PoolTimeout,
    QueryTimeout,
)
from dashboard import data, runtime
from dashboard.formats import escape_markdown

logger = logging.getLogger(__name__)

RETRY_SECONDS = 5
"""How often an open page looks whether the database is back: soon, at one cheap call."""


def run_page(page: Callable[[], None]) -> None:
    """Run a page; trouble with the database becomes its designed state."""
    try:
        page()
    except (DatabaseUnavailable, PoolClosed) as error:
        show_database_down(error)
    except PoolTimeout as error:
        show_busy(error)
    except QueryTimeout as error:
        show_slow_query(error)
    except DatabaseError as error:
        if not runtime.get_service().health().migrations_pending:
            raise
        show_migrations_pending(error)


def run_part(part: Callable[[], None], *, retry_seconds: int | None) -> None:
    """Run a part of a page; trouble takes its place in a line or two, and only there.

    `retry_seconds` is when the part runs again by itself, None when it does not.
    """
    try:
        part()
    # the edge of a part: Streamlit would show the error in place of the whole page
    except Exception as error:
        error_id = _log(error)
        again = (
            f"It is tried again every {retry_seconds} seconds." if retry_seconds else "Refresh tries again."
        )
        st.warning(
            f"{_name_trouble(error)} {again} Error id `{error_id}`: the dashboard's log has the details."
        )


def _name_trouble(error: Exception) -> str:
    if isinstance(error, DatabaseUnavailable | PoolClosed):
        return "The database cannot be reached."
    if isinstance(error, PoolTimeout):
        return "The dashboard is busy: all its database connections were in use."
    if isinstance(error, QueryTimeout):
        return "The database took too long to answer. Choose a smaller view."
    return "Something went wrong here. This is our mistake, not yours."


def show_database_down(error: EchoMarketsError) -> None:
    """Say that the database cannot be reached; the page comes back by itself."""
    _show_problem(
        "The database cannot be reached",
        "Nothing is lost: figures come back as soon as it answers. This page tries again "
        f"every {RETRY_SECONDS} seconds.",
        command="make status",
        hint="See what runs, and start what does not with `make up`:",
        error=error,
    )
    _watch_database()


def show_busy(error: EchoMarketsError) -> None:
    """Say that every database connection was in use for too long."""
    _show_problem(
        "The dashboard is busy",
        "All its database connections were in use. Try again in a moment.",
        command="DATABASE_CONNECTION_LIMIT=20",
        hint="If it happens often, allow more connections and restart the dashboard:",
        error=error,
    )


def show_slow_query(error: EchoMarketsError) -> None:
    """Say that the database took too long to answer."""
    _show_problem(
        "The database took too long to answer",
        "The query was stopped so that it does not hold up others. Try again, or choose a smaller view.",
        command="make status",
        hint="If it happens often, look at the database:",
        error=error,
    )


def show_migrations_pending(error: EchoMarketsError) -> None:
    """Say that the database lacks tables that this version needs."""
    _show_problem(
        "The database is not set up yet",
        "It answers, but its tables are missing or older than this dashboard.",
        command="make migrate",
        hint="Bring it up to date, then retry. Without make: `echo-markets migrate`.",
        error=error,
    )


def show_unexpected(error: Exception) -> bool:
    """Say that something went wrong, log it under the id shown; True suppresses the traceback."""
    error_id = _log(error)
    with st.container(border=True, key="state-unexpected"):
        st.subheader("Something went wrong")
        st.markdown("This is our mistake, not yours. Try again, or go to another page.")
        st.button("Retry", type="primary", key="retry-unexpected")
        st.caption(f"Error id `{error_id}`: the dashboard's log has the details under it.")
    return True


def show_empty_database() -> None:
    """Say that there is no session yet, and how to get some."""
    with st.container(border=True, key="state-empty"):
        st.subheader("No sessions yet")
        st.markdown(
            "The database is ready, but nobody has played. Load the shipped market history as game sessions:"
        )
        st.code("make seed", language="bash")
        st.caption("Without make: `echo-markets seed`. Then reload this page.")


def show_no_prices() -> None:
    """Say that no symbol has a price, and how to get some."""
    with st.container(border=True, key="state-no-prices"):
        st.subheader("No prices yet")
        st.markdown("The database is ready, but no symbol has a price. Import the shipped market history:")
        st.code("echo-markets import-prices --demo", language="bash")
        st.caption("`make up` does it at its first start. Then reload this page.")


def show_no_quests() -> None:
    """Say that there is no quest at all, and how to get some."""
    with st.container(border=True, key="state-no-quests"):
        st.subheader("No quests yet")
        st.markdown("Nobody was given a quest. Load the shipped market history as game sessions with quests:")
        st.code("make seed", language="bash")
        st.caption("Without make: `echo-markets seed`. Then reload this page.")


def show_empty_board(category: str, day: str) -> None:
    """Say that a board has no scores in this session."""
    with st.container(border=True, key="state-empty-board"):
        st.subheader("No scores on this board")
        st.markdown(
            f"Nobody has a score for **{escape_markdown(category)}** in the session of "
            f"**{day}**. Choose another day or category above."
        )


def show_no_match(prefix: str) -> None:
    """Say that nobody on a board has a username with this beginning."""
    with st.container(border=True, key="state-no-match"):
        st.subheader(f"Nobody here starts with “{escape_markdown(prefix[:60])}”")
        st.markdown(
            "Check the spelling, type fewer letters, or choose another session or category: "
            "only players with a score are on a board."
        )


def show_unknown_player(name: str) -> None:
    """Say that nobody has this name; the search stays above it."""
    with st.container(border=True, key="state-unknown-player"):
        st.subheader(f"No player is called “{escape_markdown(name[:60])}”")
        st.markdown(
            "Check the spelling, or type only the first letters above: players whose "
            "username or name starts with them are listed as you type."
        )


def show_no_sessions(name: str) -> None:
    """Say that a player has not played yet."""
    with st.container(border=True, key="state-no-sessions"):
        st.subheader(f"{escape_markdown(name)} has not played a session yet")
        st.markdown("Figures appear here after the first session.")


def _show_problem(title: str, text: str, *, command: str, hint: str, error: Exception) -> None:
    error_id = _log(error)
    with st.container(border=True, key="state-problem"):
        st.subheader(title)
        st.markdown(text)
        st.button("Retry", type="primary", key="retry")
        st.caption(hint)
        st.code(command, language="bash")
        st.caption(f"Error id `{error_id}`: the dashboard's log has the details under it.")


@st.fragment(run_every=RETRY_SECONDS)
def _watch_database() -> None:
    """Run the whole page again once the database answers."""
    if data.is_database_up(runtime.get_service()):
        st.rerun()


def _log(error: Exception) -> str:
    error_id = token_hex(4)
    logger.error("page failed with error id %s", error_id, exc_info=error)
    return error_id
