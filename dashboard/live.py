"""Parts of a page that refresh alone, and the controls that pause and hasten them.

Owns the pause and refresh buttons, how a part runs again without the rest of the page, and
what it says about its age. A part that fails shows so in its own place; filters, what is
being typed and the other parts stay as they are.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import streamlit as st

from dashboard import runtime, states
from dashboard.formats import format_as_of, format_count


def show_heading(title: str) -> None:
    """Show a page's title with the pause and refresh controls beside it."""
    row = st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center")
    row.title(title, anchor=False, width="content")
    with row.container(horizontal=True, vertical_alignment="center", width="content"):
        st.toggle(
            "Live",
            value=True,
            key="live",
            bind="query-params",
            help="Figures refresh by themselves. Switch it off to read in peace.",
        )
        st.button("Refresh", key="refresh", help="Read everything again now")


@contextmanager
def placeholder() -> Iterator[None]:
    """Say that figures are being read while the block takes longer than a moment."""
    with st.spinner("Reading figures"):
        yield


def is_live() -> bool:
    """Say whether parts refresh by themselves; they do unless somebody paused them."""
    return bool(st.session_state.get("live", True))


def show_live(part: Callable[[], None], *, seconds: int) -> None:
    """Show a part of a page now, and every so many seconds again unless paused."""
    every = seconds if is_live() else None

    def run() -> None:
        with placeholder():
            states.run_part(part, retry_seconds=every)
        service = runtime.get_service()
        is_cached = service.cache_stats().state != "down"
        st.caption(
            describe_age(datetime.now(UTC), every=every, stale=service.stale_seconds(), is_cached=is_cached)
        )

    st.fragment(run, run_every=every)()


def describe_age(now: datetime, *, every: int | None, stale: float | None, is_cached: bool = True) -> str:
    """Return when a part was read, when it is read again, and which server did not answer.

    `stale` is the age in seconds of what stands in for the database; `is_cached` is False while
    Redis is away, which makes pages slower and no figure wrong.
    """
    parts = [format_as_of(now), f"refreshes every {every} s" if every else "paused"]
    if stale is not None:
        parts.append(
            f"the database does not answer: figures are the last known ones, {format_count(stale)} s old"
        )
    elif not is_cached:
        parts.append("the cache does not answer: figures are right, and pages take longer")
    return " · ".join(parts)
