"""Leaderboards: who is ahead in a category, in a session or over several.

Owns the page's composition: figures, table, neighbours and distribution. Run by Streamlit
as a script for every view; each filter is a query parameter, so each view is a link. The
board refreshes alone.
"""

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from functools import partial

import pyarrow as pa
import streamlit as st

from core import EnhancedDatabaseService
from core.records import BoardSummary, LeaderboardEntry, PeriodEntry
from dashboard import charts, data, downloads, live, parameters, runtime, standings_data, states
from dashboard import standings_frames as frames
from dashboard.board_filters import choose_page, choose_view
from dashboard.board_tables import show_table
from dashboard.formats import (
    Category,
    escape_markdown,
    format_count,
    format_day,
    format_rank,
    format_score,
)
from dashboard.standings_data import View

CARD_PIXELS = 155
BOARD_SECONDS = 30


def show_leaderboards() -> None:
    """Show the page for what the address asks for."""
    service = runtime.get_service()
    live.show_heading("Leaderboards")
    with live.placeholder():
        sessions = data.list_sessions(service, linked=parameters.find_day("day"))
    if not sessions:
        states.show_empty_database()
        return
    newest = data.find_newest_board_day(service) or sessions[0]
    view = choose_view(service, sessions, newest)
    live.show_live(partial(show_board, service, view, newest), seconds=BOARD_SECONDS)
    st.caption("Scores can be up to two minutes old; every time and session day is UTC.")


def show_board(service: EnhancedDatabaseService, view: View, newest: date) -> None:
    """Show everything that refreshes: the board of the session or of the period."""
    if data.find_newest_board_day(service) not in (None, newest):
        # a session has begun since: the filters have to offer it
        st.rerun()
    if view.sessions > 1:
        show_period(service, view)
    else:
        show_session(service, view)


def show_session(service: EnhancedDatabaseService, view: View) -> None:
    """Show the board of one session beside the one that it is compared with."""
    summary = standings_data.find_summary(service, view.category, view.day)
    if summary is None:
        states.show_empty_board(view.category.name, format_day(view.day))
        return
    other = standings_data.find_summary(service, view.category, view.versus) if view.versus else None
    show_figures(summary, other, view.category)
    table, distribution = st.columns([13, 6], gap="medium")
    with table:
        show_ranking(service, view, summary)
    with distribution:
        show_distribution(summary, other, view.category)


def show_figures(summary: BoardSummary, other: BoardSummary | None, category: Category) -> None:
    """Show the board in four figures, each against the other session."""
    unit = category.unit
    against = (
        f"; changes are against {format_day(other.session_date)}" if other else ", the first on this board"
    )
    st.caption(f"Session of {format_day(summary.session_date)}{against}.")
    shared = f" and {format_count(summary.leaders - 1)} more" if summary.leaders > 1 else ""
    moved = [
        frames.describe_difference(value, before, unit) if before is not None else "first session"
        for value, before in (
            (summary.median, other.median if other else None),
            (summary.worst, other.worst if other else None),
        )
    ]
    joined = f"{summary.players - other.players:+,}" if other else "first session"
    with st.grid(4, min_column_width=CARD_PIXELS):
        show_figure("Players on the board", format_count(summary.players), joined)
        leader = escape_markdown(summary.leader) + shared
        show_figure("Best score", format_score(summary.best, unit), leader)
        show_figure("Median score", format_score(summary.median, unit), moved[0])
        show_figure("Lowest score", format_score(summary.worst, unit), moved[1])


def show_figure(label: str, value: str, remark: str) -> None:
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


def show_ranking(service: EnhancedDatabaseService, view: View, summary: BoardSummary) -> None:
    """Show one page of the board, the page control and, for one player, who stands around."""
    total = standings_data.count_players(service, view, summary)
    board = st.container()
    number = choose_page(-(-total // view.rows))
    entries = standings_data.load_entries(service, view, number)
    with board:
        show_ranking_heading(view, total, number)
        if entries:
            show_table(
                load_table(service, view, entries, best=summary.best),
                entries,
                view.category,
                key="board",
                alt=f"Ranked players by {view.category.name.lower()}",
                score=view.category.name,
            )
        else:
            states.show_no_match(view.prefix)
    show_around(service, view, entries, summary)


def load_table(
    service: EnhancedDatabaseService, view: View, entries: tuple[LeaderboardEntry, ...], *, best: Decimal
) -> pa.Table:
    """Return the table of entries; as long as they are the same, what it compares with is kept."""
    shown = tuple((entry.user_id, entry.rank, entry.score, entry.username) for entry in entries)
    return runtime.get_recent().get_or_load(
        (service, "table", view.category.key, view.day, view.versus, best, shown),
        lambda: frames.build_page_frame(standings_data.compare_entries(service, view, entries), best=best),
    )


def show_ranking_heading(view: View, total: int, number: int) -> None:
    """Say which places the table shows, and offer all of them as a file."""
    first, last = (number - 1) * view.rows + 1, min(number * view.rows, total)
    by = view.category.name.lower()
    bound = "+" if view.prefix and total >= standings_data.MATCHES_COUNTED else ""
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        if view.prefix:
            title = f"{format_count(total)}{bound} by {by} starting with “{escape_markdown(view.prefix)}”"
        elif number == 1 and view.order == "rank":
            title = f"Top {format_count(last)} by {by}"
        else:
            title = f"{format_count(first)} to {format_count(last)} of {format_count(total)} by {by}"
        st.subheader(title, anchor=False)
        st.link_button(
            "Download CSV",
            downloads.build_leaderboard_address(view.category.key, view.day),
            help="All rows of this session's board",
        )


def show_around(
    service: EnhancedDatabaseService,
    view: View,
    entries: tuple[LeaderboardEntry, ...],
    summary: BoardSummary,
) -> None:
    """Show who stands above and below the one player that was searched for."""
    found = standings_data.find_around(service, view, entries)
    if found is None:
        return
    player, around = found
    st.subheader(f"Around {escape_markdown(player.username)}, {format_rank(player.rank)}", anchor=False)
    show_table(
        load_table(service, view, around, best=summary.best),
        around,
        view.category,
        key="around",
        alt=f"Players ranked next to {player.username}",
        score=view.category.name,
    )


def show_distribution(summary: BoardSummary, other: BoardSummary | None, category: Category) -> None:
    """Show how the scores of the whole board are spread, before the other session's."""
    st.subheader("How scores are spread", anchor=False)
    bins = frames.shape_bins(summary.bins, category.unit)
    if not bins:
        st.caption("All scores are the same: there is no distribution to show.")
        return
    is_comparable = other is not None and frames.share_width(summary, other)
    before = frames.shape_bins(other.bins, category.unit) if other and is_comparable else ()
    size = format_count(summary.players)
    st.vega_lite_chart(
        charts.build_histogram(bins, unit=category.unit, median=summary.median, before=before),
        width="stretch",
        alt=f"Histogram of {size} scores for {category.name.lower()}",
    )
    outlined = f" Outlined: {format_day(other.session_date)}." if other and before else ""
    st.caption(
        f"{category.explanation} Dashed: the median of {size} players, "
        f"{format_score(summary.median, category.unit)}.{outlined}"
    )


def show_period(service: EnhancedDatabaseService, view: View) -> None:
    """Show the best players by their mean over several sessions."""
    with st.spinner("Adding up the sessions"):
        board = standings_data.load_period(service, view)
    if not board.entries:
        states.show_empty_board(view.category.name, format_day(view.day))
        return
    sessions, listed = format_count(len(board.days)), format_count(len(board.entries))
    st.subheader(f"Best mean {view.category.name.lower()} of {sessions} sessions", anchor=False)
    entries = frames.filter_names(board.entries, view.prefix)
    if entries:
        show_period_page(service, view, entries, best=board.entries[0].score)
    else:
        states.show_no_match(view.prefix)
    st.caption(
        f"{describe_days(board.days)}. The best {listed} of {format_count(board.players)} players, at most "
        "five minutes old; a session without a score counts as nothing. A single session's board "
        "lists everybody."
    )


def show_period_page(
    service: EnhancedDatabaseService, view: View, found: Sequence[PeriodEntry], *, best: Decimal
) -> None:
    """Show one page of a period and the page control."""
    table = st.container()
    number = choose_page(-(-len(found) // view.rows))
    entries = found[(number - 1) * view.rows : number * view.rows]
    trends = standings_data.load_trends(service, view, [entry.user_id for entry in entries])
    with table:
        show_table(
            frames.build_period_frame(entries, trends, best=best),
            entries,
            view.category,
            key="period-board",
            alt=f"Ranked players by mean {view.category.name.lower()} over several sessions",
            score=f"Mean {view.category.name.lower()}",
        )


def describe_days(days: tuple[date, ...]) -> str:
    """Return the first and the last of the sessions, given newest first."""
    return f"{format_day(days[-1])} to {format_day(days[0])}"


show_leaderboards()
