"""Live parts: parts of a page that refresh by themselves, their sections, and the controls of a page.

A live part is one Streamlit fragment: it runs again without the rest of the page, and it shows when its
values were read. It consists of sections. Each section has two functions: `load` only reads from the service,
and `show` only calls Streamlit. If `load` fails, the section shows its last known value with a note; other
sections are not affected. While a section fails, the page tries again every five seconds. An example:

    def show_overview() -> None:
        service = runtime.get_service()
        live.show_heading("Overview")
        sessions = live.read("overview-sessions", lambda: service.get_session_summaries(limit=14))
        live.show_live(partial(_show_session, service, sessions), seconds=30)

    def _show_session(service, sessions) -> None:
        day = sessions[0].session_date
        live.show_section(
            ("overview-events", day), load=partial(data.load_events, service, day), show=_show_events
        )

The key holds the name of the section and every parameter of `load`, because all visitors of the process share
the last known values. Filters and text that a visitor is typing are kept when a part runs again.
"""

import math
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

import streamlit as st

from dashboard import runtime, states
from dashboard.formats import escape_markdown, format_as_of
from dashboard.server import sign_in

T = TypeVar("T")

SHOWN_PAGE = "shown-page"
SEEN_UPDATES = "seen-updates"

RETRY_AGE_FRACTION = 0.8
"""A retry reads a value again only if the value is older than this fraction of the refresh interval.

A value whose last read failed is always read again.
"""


@dataclass
class _Run:
    """The state of one run of a page, or of one run of a live part."""

    is_first: bool = False
    """Whether the page was just opened."""
    is_retry: bool = False
    """Whether the page runs again because a read failed; see RETRY_AGE_FRACTION."""
    is_update: bool = False
    """Whether the page runs again because the health has changed."""
    interval: int | None = None
    """Seconds between two refreshes of the current live part; None if the page is paused."""
    is_failing: bool = False
    oldest: datetime | None = None
    """When the oldest of the values shown without a note was read; None if there is no such value."""
    parts: int = 0


_run: ContextVar[_Run | None] = ContextVar("run", default=None)


def show_heading(title: str) -> None:
    """Show the title of a page and, beside it, the switch that pauses the page and the Refresh button."""
    updates = runtime.get_updates()
    _run.set(
        _Run(
            is_first=st.session_state.get(SHOWN_PAGE) != title,
            is_retry=bool(st.session_state.pop(states.RETRYING, False)),
            is_update=st.session_state.get(SEEN_UPDATES, updates) != updates,
        )
    )
    st.session_state[SHOWN_PAGE], st.session_state[SEEN_UPDATES] = title, updates
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
        st.button(
            "Refresh",
            key="refresh",
            help="Reads everything again now, also sums that are otherwise kept for up to 15 minutes",
            on_click=runtime.read_again,
        )


def loading() -> AbstractContextManager[None]:
    """Return a context manager that shows a spinner during the first run of a page.

    Later runs need no spinner: the browser shows the old content until the new content arrives. Without a
    spinner, Streamlit also starts one thread fewer.
    """
    return st.spinner("Loading") if _get_run().is_first else nullcontext()


def is_live() -> bool:
    """Return whether live parts refresh by themselves: False if the visitor has paused the page."""
    return bool(st.session_state.get("live", True))


def read(key: Hashable, load: Callable[[], T]) -> T:
    """Return a value that the whole page needs, such as the options of a filter.

    If `load` fails, returns the last known value and shows no note. Raises the error if no value is known.
    """
    run = _get_run()
    reading = runtime.get_reader().read(key, load)
    run.is_failing |= reading.error is not None
    run.oldest = min(reading.read_at, run.oldest or reading.read_at)
    return reading.value


def show_section(key: Hashable, *, load: Callable[[], T], show: Callable[[T], None]) -> None:
    """Show a section of a page: call `show` with the value of `load`.

    If `load` fails, shows the last known value with a note below; without a known value, shows only an error.
    `key` holds the name of the section and every parameter of `load`. `load` must not call Streamlit, because
    it runs in another thread. It is not called while the database does not answer.
    """
    run = _get_run()

    def show_reading() -> None:
        reading = runtime.get_reader().read(key, load, max_age_seconds=_find_max_age(run))
        show(reading.value)
        if reading.error is None:
            run.oldest = min(reading.read_at, run.oldest or reading.read_at)
        else:
            run.is_failing = True
            st.caption(
                describe_last_known(
                    reading.read_at,
                    now=datetime.now(UTC),
                    cause=states.describe_cause(reading.error),
                    is_live=run.interval is not None,
                )
            )

    # not `run.is_failing |= ...`: Python would read the old value first, and overwrite what the section has
    # set
    if not states.run_part(show_reading, is_live=run.interval is not None):
        run.is_failing = True


def show_live(part: Callable[[], None], *, seconds: int) -> None:
    """Show a live part now, and again every `seconds` if the page is not paused."""
    interval = seconds if is_live() else None
    whole = page = _get_run()
    page.parts += 1
    is_first_part = page.parts == 1

    def show() -> None:
        # the first call is a part of the page's run; each later call is a run of this live part only
        nonlocal page
        run, page = replace(page, interval=interval, oldest=None), _Run(interval=interval)
        _run.set(run)
        with loading():
            # not `run.is_failing |= ...`: Python would read the old value first, and overwrite what the
            # sections have set
            if not states.run_part(part, is_live=interval is not None):
                run.is_failing = True
        cache = runtime.get_service().cache_stats()
        visitor = sign_in.find_visitor()
        reason = cache.reason if visitor is not None and visitor.sees_reasons else None
        bypass = escape_markdown(reason or "") if cache.state == "down" and is_first_part else None
        # if every read failed, show no time for the whole part: the note of each section gives the age of its
        # value
        read_at = run.oldest or (None if run.is_failing else datetime.now(UTC))
        st.caption(describe_age(read_at, interval=interval, bypass=bypass))
        if interval is not None and run.is_failing:
            states.retry_page()

    st.fragment(show, run_every=interval)()
    # the rest of the page does not belong to this live part: it continues with the state of the page's run
    _run.set(whole)


def describe_age(read_at: datetime | None, *, interval: int | None, bypass: str | None = None) -> str:
    """Return the line below a live part: when its values were read, its interval, and if Redis is bypassed.

    `read_at` is None if every read failed. `bypass` is None if Redis is used; otherwise it is the reason for
    the bypass, or an empty text if the visitor is not allowed to see the reason.
    """
    parts = [format_as_of(read_at)] if read_at else []
    parts.append(f"refreshes every {interval} s" if interval else "paused")
    if bypass is not None:
        reason = f" ({bypass})" if bypass else ""
        parts.append(f"the cache is not used{reason}: values are correct, but pages take longer")
    text = " · ".join(parts)
    return f"{text[0].upper()}{text[1:]}"


def describe_last_known(read_at: datetime, *, now: datetime, cause: str, is_live: bool) -> str:
    """Return the note below a last known value: when it was read, why it is old, and when the next try is."""
    moment = f"{read_at:%H:%M:%S} UTC" if read_at.date() == now.date() else format_as_of(read_at)[6:]
    retry = f"next try in {states.RETRY_SECONDS} s" if is_live else "Refresh tries again"
    return f"Last known values of {moment}; {cause}; {retry}"


def _find_max_age(run: _Run) -> float:
    """Return how old, in seconds, a known value may be for this run to use it without a new read."""
    if run.is_update and not is_live():
        # a paused page runs only to update its health line, and keeps its values
        return math.inf
    return (run.interval or 0) * RETRY_AGE_FRACTION if run.is_retry else 0.0


def _get_run() -> _Run:
    """Return the current run. Creates one outside a page, for example in a test of one section."""
    run = _run.get()
    if run is None:
        run = _Run()
        _run.set(run)
    return run
