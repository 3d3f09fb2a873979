"""Parts of a page that refresh alone, and the controls that pause and hasten them.

Owns the pause and refresh buttons, how a part runs again without the rest of the page, and
what it says about its age. A part that fails shows so in its own place; filters, what is
being typed and the other parts stay as they are.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from datetime import UTC, datetime

import streamlit as st

from dashboard import runtime, states
from dashboard.formats import escape_markdown, format_as_of, format_count

SHOWN = "shown-page"

_is_first_run: ContextVar[bool] = ContextVar("is_first_run", default=False)
"""Whether the page was just opened; each run of a script has a thread, and so a context, of its own."""


def show_heading(title: str) -> None:
    """Show a page's title with the pause and refresh controls beside it."""
    _is_first_run.set(st.session_state.get(SHOWN) != title)
    if _is_first_run.get():
        st.session_state[SHOWN] = title
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


def placeholder() -> AbstractContextManager[None]:
    """Say that figures are being read, while a page that was just opened has none to show.

    From its second run on a page shows the figures of before until there are new ones, faded when
    it takes longer than a moment; saying so as well would start one more thread in each run.
    """
    return st.spinner("Reading figures") if _is_first_run.get() else nullcontext()


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
        cache = service.cache_stats()
        bypass = escape_markdown(cache.reason or "") if cache.state == "down" else None
        st.caption(describe_age(datetime.now(UTC), every=every, stale=service.stale_seconds(), bypass=bypass))

    st.fragment(run, run_every=every)()


def describe_age(now: datetime, *, every: int | None, stale: float | None, bypass: str | None = None) -> str:
    """Return when a part was read, when it is read again, and which server is not used.

    `stale` is the age in seconds of what stands in for the database; `bypass` is why Redis is not
    used, which makes pages slower and no figure wrong.
    """
    parts = [format_as_of(now), f"refreshes every {every} s" if every else "paused"]
    if stale is not None:
        parts.append(
            f"the database does not answer: figures are the last known ones, {format_count(stale)} s old"
        )
    elif bypass is not None:
        reason = f" ({bypass})" if bypass else ""
        parts.append(f"the cache is not used{reason}: figures are right, and pages take longer")
    return " · ".join(parts)
