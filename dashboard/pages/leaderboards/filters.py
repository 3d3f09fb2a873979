"""The filters of the Leaderboards page, and the control for the page of the table.

When a visitor changes a filter, the table returns to its first page.
"""

from collections.abc import Sequence
from datetime import date
from functools import partial

import streamlit as st

from core import EnhancedDatabaseService
from dashboard import data as shared_data
from dashboard import filters, live
from dashboard.categories import Category
from dashboard.formats import format_day
from dashboard.pages.leaderboards import data
from dashboard.pages.leaderboards.data import Selection
from dashboard.pages.leaderboards.tables import SORTS

ROWS = ("10", "25", "50", "100")
DEFAULT_ROWS = "25"
PERIODS = {"Session": 1, "7 sessions": 7, "30 sessions": 30}
PREVIOUS = "Session before"
ONLY_FOR_SESSION = "Not used for several sessions. Select the period “Session” to use it."
RUNNING_TOTAL = "Not used for this category: its scores already add up from session to session."
ORDER_CHANGED = "order-changed"
"""A key of Streamlit's session state.

A click on a column heading sets it, so that the whole page runs again.
"""

FILTERS_PER_ROW, FILTER_PIXELS = 4, 200
FILTERS = {
    "category": None,
    "day": None,
    "against": PREVIOUS,
    "period": "Session",
    "find": "",
    "order": "Best first",
    "top": DEFAULT_ROWS,
}
"""The default of each filter by its key."""


def show_filters(service: EnhancedDatabaseService, sessions: Sequence[date], newest: date) -> Selection:
    """Show the filters and return their values. Warns about unknown values in the address."""
    days = {f"Newest ({newest.isoformat()})": newest, **{day.isoformat(): day for day in sessions}}
    # for `st.grid`, Streamlit sends fewer elements to the browser than for several rows of `st.columns`
    with st.grid(FILTERS_PER_ROW, min_column_width=FILTER_PIXELS, gap="small"):
        category_cell = st.container()
        day = days[
            filters.select_option(
                "Session",
                days,
                key="day",
                noun="session",
                describe=lambda name: format_day(days[name]),
                on_change=reset_page,
            )
        ]
        with category_cell:
            category = _select_category(service, day)
        compared_cell = st.container()
        period = filters.select_segment(
            "Period",
            list(PERIODS),
            default="Session",
            key="period",
            noun="period",
            disabled_because=RUNNING_TOTAL if category.is_running_total else None,
            on_change=reset_page,
        )
        sessions_shown = 1 if category.is_running_total else PERIODS[period]
        unused = ONLY_FOR_SESSION if sessions_shown > 1 else None
        with compared_cell:
            compared_day = _select_compared_day(service, category, day, sessions, disabled_because=unused)
        prefix = filters.show_prefix_search(key="find", on_change=reset_page)
        order = filters.select_option(
            "Order", data.ORDERS, key="order", noun="order", disabled_because=unused, on_change=reset_page
        )
        rows = filters.select_segment(
            "Players shown",
            ROWS,
            default=DEFAULT_ROWS,
            key="top",
            noun="number of players shown",
            describe=lambda count: f"{count} players",
            on_change=reset_page,
        )
    return Selection(
        category=category,
        day=day,
        sessions=sessions_shown,
        compared_day=compared_day,
        rows=int(rows),
        order=data.ORDERS[order],
        prefix=prefix,
    )


def _select_category(service: EnhancedDatabaseService, day: date) -> Category:
    found = live.read(("leaderboards-categories", day), partial(shared_data.list_categories, service, day))
    categories = {item.name: item for item in found}
    filters.translate_parameter("category", {item.key: item.name for item in categories.values()})
    return categories[
        filters.select_option("Category", categories, key="category", noun="category", on_change=reset_page)
    ]


def _select_compared_day(
    service: EnhancedDatabaseService,
    category: Category,
    day: date,
    sessions: Sequence[date],
    *,
    disabled_because: str | None,
) -> date | None:
    """Show the filter "Compare with" and return the selected session; None if no earlier session exists."""
    previous = live.read(
        ("leaderboards-previous", category.key, day),
        partial(data.find_previous_session, service, category.key, day),
    )
    options = {PREVIOUS: previous, **{other.isoformat(): other for other in sessions if other != day}}
    return options[
        filters.select_option(
            "Compare with",
            options,
            key="against",
            noun="session to compare with",
            disabled_because=disabled_because,
            on_change=reset_page,
        )
    ]


def sort_by(column: str) -> None:
    """Set the order of all players after a click on the heading of a column.

    A second click reverses the order. A column that is not in SORTS is ignored.
    """
    orders = {order: name for name, order in data.ORDERS.items()}
    if column not in SORTS:
        return
    first, second = (orders[order] for order in SORTS[column])
    is_again = st.session_state.get("order", FILTERS["order"]) == first
    filters.write_to_address({name: default for name, default in FILTERS.items() if name != "order"})
    st.session_state["order"] = second if is_again else first
    st.session_state[ORDER_CHANGED] = True
    if st.session_state.get("page", 1) != 1:
        st.session_state["page"] = 1


def reset_page() -> None:
    """Return to the first page of the table."""
    if st.session_state.get("page", 1) != 1:
        # setting `page` makes Streamlit restore an old address; this call puts the filters' values into it
        filters.write_to_address(FILTERS)
        st.session_state["page"] = 1


def get_page() -> int:
    """Return the page number that the visitor selected, or that the address has; 1 if there is none."""
    asked = st.session_state.get("page") or filters.find_parameter("page") or "1"
    text = str(asked)
    return max(1, int(text)) if text.isdecimal() and len(text) < 10 else 1


def select_page(pages: int) -> None:
    """Show the control that selects a page of the table. Shows nothing for a single page."""
    if pages <= 1:
        return
    unknown = filters.find_unknown("page", [str(number) for number in range(1, pages + 1)])
    # the leaderboard can have fewer pages than when the visitor selected one
    if st.session_state.get("page", 1) > pages:
        st.session_state["page"] = 1
    number = st.pagination(pages, key="page", bind="query-params")
    if unknown:
        filters.show_unknown("page", unknown, instead=f"page {number}")
