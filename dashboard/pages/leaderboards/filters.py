"""The filters of the leaderboards page and their query parameters.

A changed filter returns to the first page of the table.
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
ORDER_CHANGED = "order-changed"
"""Key in the session state; set by a click in the table, after which the whole page has to run again."""

FILTERS_PER_ROW, FILTER_PIXELS = 4, 200
FILTERS = {
    "category": None,
    "day": None,
    "against": PREVIOUS,
    "period": "Session",
    "find": "",
    "order": "Best first",
    "top": DEFAULT_ROWS,
    "live": True,
}
"""The key of each filter and its default."""


def show_filters(service: EnhancedDatabaseService, sessions: Sequence[date], newest: date) -> Selection:
    """Show the filters and return their values; report unknown values in the address."""
    days = {f"Newest ({newest.isoformat()})": newest, **{day.isoformat(): day for day in sessions}}
    # a single grid: rows of columns would send one more element per column
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
            disabled=category.is_running_total,
            on_change=reset_page,
        )
        sessions_shown = 1 if category.is_running_total else PERIODS[period]
        is_period = sessions_shown > 1
        with compared_cell:
            compared_day = _select_compared_day(service, category, day, sessions, disabled=is_period)
        prefix = filters.enter_prefix(key="find", on_change=reset_page)
        order = filters.select_option(
            "Order", data.ORDERS, key="order", noun="order", disabled=is_period, on_change=reset_page
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
    disabled: bool,
) -> date | None:
    """Show the choice of the session to compare with and return it; None when there is no earlier one."""
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
            disabled=disabled,
            on_change=reset_page,
        )
    ]


def sort_by(column: str) -> None:
    """Sort all players by a column, in reverse on the second click; ignore columns that cannot be sorted."""
    orders = {order: name for name, order in data.ORDERS.items()}
    if column not in SORTS:
        return
    first, second = (orders[order] for order in SORTS[column])
    is_again = st.session_state.get("order", FILTERS["order"]) == first
    filters.keep_in_address({name: default for name, default in FILTERS.items() if name != "order"})
    st.session_state["order"] = second if is_again else first
    st.session_state[ORDER_CHANGED] = True
    if st.session_state.get("page", 1) != 1:
        st.session_state["page"] = 1


def reset_page() -> None:
    """Return to the first page of the table."""
    if st.session_state.get("page", 1) != 1:
        # the address lacks values that a widget shows by default, such as the first category
        filters.keep_in_address(FILTERS)
        st.session_state["page"] = 1


def get_page() -> int:
    """Return the number of the page that the visitor chose, or that the address names."""
    asked = st.session_state.get("page") or filters.find_parameter("page") or "1"
    text = str(asked)
    return max(1, int(text)) if text.isdecimal() and len(text) < 10 else 1


def select_page(pages: int) -> None:
    """Show the page control if there are several pages."""
    if pages <= 1:
        return
    unknown = filters.find_unknown("page", [str(number) for number in range(1, pages + 1)])
    # the leaderboard may have fewer pages now
    if st.session_state.get("page", 1) > pages:
        st.session_state["page"] = 1
    number = st.pagination(pages, key="page", bind="query-params")
    if unknown:
        filters.show_unknown("page", unknown, instead=f"page {number}")
