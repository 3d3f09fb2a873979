"""The filters of the leaderboards page.

Owns the widgets and their query parameters, and what is said about a link that asks for
something that is not there. A changed filter starts again at the first page.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import date

import streamlit as st

from core import EnhancedDatabaseService
from dashboard import data, parameters, standings_data
from dashboard.formats import Category, format_day
from dashboard.standings_data import View

ROWS = (10, 25, 50, 100)
DEFAULT_ROWS = 25
PERIODS = {"Session": 1, "Last 7": 7, "Last 30": 30}
BEFORE = "Session before"
NAME_LETTERS = 50
FILTERS_A_ROW, FILTER_PIXELS = 4, 200
FILTERS = {
    "category": None,
    "day": None,
    "against": BEFORE,
    "period": "Session",
    "find": "",
    "order": "Best first",
    "top": str(DEFAULT_ROWS),
    "live": True,
}
"""Each filter's key and what it says unless somebody chose."""


def choose_view(service: EnhancedDatabaseService, sessions: Sequence[date], newest: date) -> View:
    """Show the filters and return what they say; unknown values in the link are named."""
    newest_name = f"Newest ({newest.isoformat()})"
    days = {newest_name: newest, **{day.isoformat(): day for day in sessions}}
    orders = standings_data.ORDERS
    # one grid: of rows of columns, each column would be one more thing to send
    with st.grid(FILTERS_A_ROW, min_column_width=FILTER_PIXELS, gap="small"):
        shown_first = st.container()
        day = days[_choose("Session", days, key="day", what="session", describe=_describe_day(days))]
        categories = {item.name: item for item in data.list_categories(service, day)}
        parameters.translate_parameter("category", {c.key: c.name for c in categories.values()})
        with shown_first:
            category = categories[_choose("Category", categories, key="category", what="category")]
        compared = st.container()
        count = PERIODS[_choose_segment("Period", list(PERIODS), "Session", key="period", what="period")]
        with compared:
            versus = choose_versus(service, category, day, sessions, disabled=count > 1)
        prefix = choose_prefix()
        order = _choose("Order", orders, key="order", what="order", disabled=count > 1)
        numbers = [str(number) for number in ROWS]
        rows = int(
            _choose_segment(
                "Players shown", numbers, str(DEFAULT_ROWS), key="top", what="number of players shown"
            )
        )
    return View(
        category=category,
        day=day,
        sessions=count,
        versus=versus,
        rows=rows,
        order=orders[order],
        prefix=prefix,
    )


def choose_versus(
    service: EnhancedDatabaseService,
    category: Category,
    day: date,
    sessions: Sequence[date],
    *,
    disabled: bool,
) -> date | None:
    """Show which session to compare with and return it; None before the first one."""
    before = standings_data.find_session_before(service, category.key, day)
    options = {BEFORE: before, **{other.isoformat(): other for other in sessions if other != day}}
    return options[
        _choose("Compare with", options, key="against", what="session to compare with", disabled=disabled)
    ]


def choose_prefix() -> str:
    """Show the search and return what was typed."""
    typed = st.text_input(
        "Find a player",
        key="find",
        placeholder="First letters of a username",
        live=True,
        max_chars=NAME_LETTERS,
        bind="query-params",
        on_change=restart,
    )
    return (typed or "").strip()


def restart() -> None:
    """Go back to the first page."""
    if st.session_state.get("page", 1) != 1:
        # what is a default by itself, such as the first category, leaves the address as it is drawn
        parameters.keep_choices(FILTERS)
        st.session_state["page"] = 1


def choose_page(pages: int) -> int:
    """Show the page control when there is more than one page, and return the page's number."""
    if pages <= 1:
        return 1
    asked = parameters.find_parameter("page")
    unknown = asked if asked and asked not in map(str, range(1, pages + 1)) else None
    # a page that is gone, because the board has become shorter
    if st.session_state.get("page", 1) > pages:
        st.session_state["page"] = pages
    number = st.pagination(pages, key="page", bind="query-params")
    if unknown:
        parameters.show_unknown("page", unknown, instead=f"page {number}")
    return number


def _choose(
    label: str,
    options: Mapping[str, object],
    *,
    key: str,
    what: str,
    describe: Callable[[str], str] = str,
    disabled: bool = False,
) -> str:
    unknown = parameters.find_unknown(key, options)
    with _cell(needed=unknown is not None):
        chosen: str = st.selectbox(
            label, list(options), key=key, bind="query-params", on_change=restart, disabled=disabled
        )
        if unknown:
            parameters.show_unknown(what, unknown, instead=describe(chosen))
    return chosen


def _choose_segment(label: str, options: Sequence[str], default: str, *, key: str, what: str) -> str:
    unknown = parameters.find_unknown(key, options)
    with _cell(needed=unknown is not None):
        chosen: str = st.segmented_control(
            label,
            options,
            default=default,
            required=True,
            key=key,
            wrap=True,
            bind="query-params",
            on_change=restart,
        )
        if unknown:
            parameters.show_unknown(what, unknown, instead=chosen)
    return chosen


def _cell(*, needed: bool) -> AbstractContextManager[object]:
    """Keep what belongs together in one cell of a grid; a lone widget is one already."""
    return st.container() if needed else nullcontext()


def _describe_day(days: Mapping[str, date]) -> Callable[[str], str]:
    return lambda name: format_day(days[name])
