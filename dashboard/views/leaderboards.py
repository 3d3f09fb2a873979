"""Leaderboards: who is ahead in a category and session.

Owns the page's composition: filters, figures, table and distribution. Run by Streamlit
as a script for every view; each filter is a query parameter, so each view is a link.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime

import streamlit as st

from core import EnhancedDatabaseService
from core.records import LeaderboardEntry
from dashboard import charts, data, frames, parameters, runtime, states
from dashboard.formats import (
    Category,
    escape_markdown,
    format_as_of,
    format_count,
    format_day,
    format_rank,
    format_score,
)

LIMITS = (10, 25, 50, 100)
DEFAULT_LIMIT = 25
ROW_PIXELS = 38
ROWS_WITHOUT_SCROLLING = 25
TABLE_PIXELS = (ROWS_WITHOUT_SCROLLING + 1) * ROW_PIXELS + ROW_PIXELS // 2
"""A longer table ends in half a row, which says that it scrolls."""
CARD_PIXELS = 155

SCORE_FORMATS = {
    "percent": "%+,.2f%%",
    "currency": "$%,.2f",
    "count": "%,d",
    "number": "%,.2f",
}
GAP_FORMATS = {**SCORE_FORMATS, "percent": "%,.2f pts"}


def show_leaderboards() -> None:
    """Show the page for what the address asks for."""
    service = runtime.get_service()
    st.title("Leaderboards", anchor=False)
    sessions = data.list_sessions(service, linked=parameters.find_day("day"))
    if not sessions:
        states.show_empty_database()
        return
    newest = data.find_newest_board_day(service, sessions) or sessions[0]
    category, day, limit = choose_view(service, sessions, newest)
    entries = data.load_board(service, category=category.key, day=day)
    if entries:
        show_board(entries, category, limit)
    else:
        states.show_empty_board(category.name, format_day(day))
    st.caption(
        f"{format_as_of(datetime.now(UTC))}. Scores can be up to two minutes old; "
        "every time and session day is UTC."
    )


def choose_view(
    service: EnhancedDatabaseService, sessions: Sequence[date], newest: date
) -> tuple[Category, date, int]:
    """Show the filters and return what they say; unknown values in the link are named."""
    newest_name = f"Newest ({newest.isoformat()})"
    days = {newest_name: newest, **{day.isoformat(): day for day in sessions}}
    unknown_day = parameters.find_unknown("day", days)
    left, middle, right = st.columns([3, 3, 4])
    day = days[middle.selectbox("Session", list(days), key="day", bind="query-params")]
    categories = {item.name: item for item in data.list_categories(service, day)}
    parameters.translate_parameter("category", {c.key: c.name for c in categories.values()})
    unknown_category = parameters.find_unknown("category", categories)
    unknown_limit = parameters.find_unknown("top", [str(limit) for limit in LIMITS])
    name = left.selectbox("Category", list(categories), key="category", bind="query-params")
    limit = right.segmented_control(
        "Players shown",
        LIMITS,
        default=DEFAULT_LIMIT,
        required=True,
        key="top",
        bind="query-params",
    )
    if unknown_category:
        parameters.show_unknown("category", unknown_category, instead=name)
    if unknown_day:
        parameters.show_unknown("session", unknown_day, instead=format_day(day))
    if unknown_limit:
        parameters.show_unknown("view of the top", unknown_limit, instead=f"the top {limit}")
    return categories[name], day, limit


def show_board(entries: Sequence[LeaderboardEntry], category: Category, limit: int) -> None:
    """Show the figures, the table and the distribution of a board that has entries."""
    summary = frames.summarize_board(entries, shown=limit)
    show_figures(summary, category, day=entries[0].session_date)
    table, distribution = st.columns([5, 3], gap="medium")
    with table:
        st.subheader(f"Top {summary.shown} by {category.name.lower()}", anchor=False)
        show_table(entries[:limit], category)
    with distribution:
        show_distribution(entries, category, summary)


def show_figures(summary: frames.BoardSummary, category: Category, *, day: date) -> None:
    """Show the board in three figures."""
    with st.grid(3, min_column_width=CARD_PIXELS):
        show_figure("Players on the board", describe_size(summary), remark=format_day(day))
        show_figure(
            "Best score",
            format_score(summary.best, category.unit),
            remark=escape_markdown(summary.leader)
            + (f" and {format_count(summary.leaders - 1)} more" if summary.leaders > 1 else ""),
        )
        show_figure(
            f"Median of the {summary.shown} shown",
            format_score(summary.median_shown, category.unit),
            remark=f"{format_score(summary.median, category.unit)} of all",
        )


def describe_size(summary: frames.BoardSummary) -> str:
    """Return how many players a board has; of a long one, only its head is read."""
    more = "+" if summary.players >= data.BOARD_LIMIT else ""
    return f"{format_count(summary.players)}{more}"


def show_figure(label: str, value: str, *, remark: str) -> None:
    """Show one figure with a remark that is neither gain nor loss."""
    st.metric(
        label,
        value,
        delta=remark,
        delta_color="off",
        delta_arrow="off",
        border=True,
        height="stretch",
    )


def show_table(entries: Sequence[LeaderboardEntry], category: Category) -> None:
    """Show the ranked players; the name is a link to the player's portfolio."""
    st.dataframe(
        frames.build_board_frame(entries),
        hide_index=True,
        height="content" if len(entries) <= ROWS_WITHOUT_SCROLLING else TABLE_PIXELS,
        row_height=ROW_PIXELS,
        placeholder="",
        alt=f"Ranked players by {category.name.lower()}",
        column_config={
            "medal": st.column_config.ImageColumn("", width=44, alignment="right"),
            "rank": st.column_config.NumberColumn("Rank", format="%,d", width=64, alignment="left"),
            "player": st.column_config.LinkColumn(
                "Player",
                display_text=r"player=(.+)$",
                alignment="left",
                help="Opens the player's portfolio",
            ),
            "score": st.column_config.NumberColumn(
                category.name, format=SCORE_FORMATS[category.unit], help=category.explanation
            ),
            "behind": st.column_config.NumberColumn("Behind the leader", format=GAP_FORMATS[category.unit]),
        },
    )


def show_distribution(
    entries: Sequence[LeaderboardEntry], category: Category, summary: frames.BoardSummary
) -> None:
    """Show how the scores of the whole board are spread."""
    st.subheader("How scores are spread", anchor=False)
    bins = frames.bin_scores(entries)
    if not bins:
        st.caption("All scores are the same, or there are too few for a distribution.")
        return
    size, last = describe_size(summary), entries[summary.shown - 1]
    st.vega_lite_chart(
        charts.build_histogram(bins, unit=category.unit, median=summary.median),
        width="stretch",
        alt=f"Histogram of {size} scores for {category.name.lower()}",
    )
    st.caption(
        f"{category.explanation} Dashed: the median of {size} players, "
        f"{format_score(summary.median, category.unit)}. "
        f"{format_rank(last.rank)} needs {format_score(last.score, category.unit)}."
    )


show_leaderboards()
