"""Live parts: parts of a page that refresh by themselves, and the controls to pause and refresh.

A part runs again without the rest of the page and states its age. A part that fails says so in its own
place; filters, text that is being typed and the other parts stay.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from datetime import UTC, datetime

import streamlit as st

from dashboard import runtime, states
from dashboard.formats import escape_markdown, format_as_of, format_count

SHOWN_PAGE = "shown-page"

_is_first_run: ContextVar[bool] = ContextVar("is_first_run", default=False)
"""Whether the page was just opened; each run of a script has its own thread and so its own context."""


def show_heading(title: str) -> None:
    """Show the title of a page with the pause and refresh controls beside it."""
    _is_first_run.set(st.session_state.get(SHOWN_PAGE) != title)
    st.session_state[SHOWN_PAGE] = title
    row = st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center")
    row.title(title, anchor=False, width="content")
    with row.container(horizontal=True, vertical_alignment="center", width="content"):
        st.toggle(
            "Live",
            value=True,
            key="live",
            bind="query-params",
            help="The page refreshes by itself. Switch off to pause it.",
        )
        st.button("Refresh", key="refresh", help="Read everything again now")


def loading() -> AbstractContextManager[None]:
    """Show a spinner while a page that was just opened reads; later runs need none.

    They show the earlier content until the new one is there, and each spinner would start a thread.
    """
    return st.spinner("Loading") if _is_first_run.get() else nullcontext()


def is_live() -> bool:
    """Return whether parts refresh by themselves; they do unless the visitor paused them."""
    return bool(st.session_state.get("live", True))


def show_live(part: Callable[[], None], *, seconds: int) -> None:
    """Show a part of a page now, and again after each interval unless paused."""
    interval = seconds if is_live() else None

    def run() -> None:
        with loading():
            states.run_part(part, retry_seconds=interval)
        service = runtime.get_service()
        cache = service.cache_stats()
        bypass = escape_markdown(cache.reason or "") if cache.state == "down" else None
        st.caption(
            describe_age(datetime.now(UTC), interval=interval, stale=service.stale_seconds(), bypass=bypass)
        )

    st.fragment(run, run_every=interval)()


def describe_age(
    now: datetime, *, interval: int | None, stale: float | None, bypass: str | None = None
) -> str:
    """Return when a part was read, when it refreshes, and which server it did without.

    `stale` is the age in seconds of fail-safe values that replace the database. `bypass` is the reason
    why Redis is not used: pages are slower then, but correct.
    """
    parts = [format_as_of(now), f"refreshes every {interval} s" if interval else "paused"]
    if stale is not None:
        parts.append(
            f"the database does not answer: showing the last known values, {format_count(stale)} s old"
        )
    elif bypass is not None:
        reason = f" ({bypass})" if bypass else ""
        parts.append(f"the cache is not used{reason}: values are correct, but pages take longer")
    return " · ".join(parts)
