"""Leaderboards: the players of a category, ranked in one session or over several.

Run by Streamlit as a script for every view. The leaderboard refreshes alone.
"""

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from functools import partial

import pyarrow as pa
import streamlit as st

from core import EnhancedDatabaseService
from core.records import LeaderboardEntry, LeaderboardSummary, PeriodEntry
from dashboard import charts, filters, live, runtime, states
from dashboard.data import find_newest_leaderboard_day
from dashboard.elements import CARD_PIXELS, show_metric
from dashboard.formats import Category, escape_markdown, format_count, format_day, format_rank, format_score
from dashboard.pages.leaderboards import data, download, tables
from dashboard.pages.leaderboards.data import Selection
from dashboard.pages.leaderboards.filters import select_page, show_filters

REFRESH_SECONDS = 30


def show_leaderboards() -> None:
    """Show the page for the values in the address."""
    service = runtime.get_service()
    live.show_heading("Leaderboards")
    with live.loading():
        sessions = data.list_sessions(service, linked=filters.find_day("day"))
    if not sessions:
        states.show_no_sessions()
        return
    newest = find_newest_leaderboard_day(service) or sessions[0]
    selection = show_filters(service, sessions, newest)
    live.show_live(partial(_show_leaderboard, service, selection, newest), seconds=REFRESH_SECONDS)
    st.caption("Scores can be up to two minutes old. All times and session dates are in UTC.")


def _show_leaderboard(service: EnhancedDatabaseService, selection: Selection, newest: date) -> None:
    if find_newest_leaderboard_day(service) not in (None, newest):
        # a new session has begun: the filters must offer it
        st.rerun()
    if selection.sessions > 1:
        _show_period(service, selection)
    else:
        _show_session(service, selection)


def _show_session(service: EnhancedDatabaseService, selection: Selection) -> None:
    category = selection.category
    summary = data.find_summary(service, category, selection.day)
    if summary is None:
        _show_no_scores(selection)
        return
    compared_day = selection.compared_day
    other = data.find_summary(service, category, compared_day) if compared_day else None
    _show_summary(summary, other, category)
    table, distribution = st.columns([13, 6], gap="medium")
    with table:
        _show_entries(service, selection, summary)
    with distribution:
        _show_distribution(summary, other, category)


def _show_no_scores(selection: Selection) -> None:
    states.show_empty(
        "empty-leaderboard",
        "No scores on this leaderboard",
        f"No player has a score for **{escape_markdown(selection.category.name)}** in the session of "
        f"**{format_day(selection.day)}**. Choose another session or category above.",
    )


def _show_no_match(prefix: str) -> None:
    states.show_empty(
        "no-match",
        f"No player here starts with “{escape_markdown(prefix)}”",
        "Check the spelling, type fewer letters, or choose another session or category: only players "
        "with a score are on a leaderboard.",
    )


def _show_summary(summary: LeaderboardSummary, other: LeaderboardSummary | None, category: Category) -> None:
    compared = f"compared with {format_day(other.session_date)}" if other else "the first one with scores"
    st.caption(f"Session of {format_day(summary.session_date)}, {compared}.")
    leader = escape_markdown(summary.leader)
    if summary.leaders > 1:
        leader += f" and {format_count(summary.leaders - 1)} more"

    def show_score(label: str, score: Decimal, before: Decimal | None) -> None:
        note = (
            tables.describe_difference(score, before, category.unit)
            if before is not None
            else "first session"
        )
        show_metric(label, format_score(score, category.unit), note)

    with st.grid(4, min_column_width=CARD_PIXELS):
        joined = f"{summary.players - other.players:+,}" if other else "first session"
        show_metric("Players", format_count(summary.players), joined)
        show_metric("Best score", format_score(summary.best, category.unit), leader)
        show_score("Median score", summary.median, other.median if other else None)
        show_score("Lowest score", summary.worst, other.worst if other else None)


def _show_entries(
    service: EnhancedDatabaseService, selection: Selection, summary: LeaderboardSummary
) -> None:
    total = data.count_players(service, selection, summary)
    table = st.container()
    page = select_page(-(-total // selection.rows))
    entries = data.list_entries(service, selection, page)
    with table:
        _show_entries_heading(selection, total, page)
        if entries:
            _show_ranked(service, selection, entries, best=summary.best, key="board", alt="Ranked players")
        else:
            _show_no_match(selection.prefix)
    neighbours = data.find_neighbours(service, selection, entries)
    if neighbours:
        player, around = neighbours
        st.subheader(f"Around {escape_markdown(player.username)}, {format_rank(player.rank)}", anchor=False)
        alt = f"Players ranked next to {player.username}"
        _show_ranked(service, selection, around, best=summary.best, key="around", alt=alt)


def _show_ranked(
    service: EnhancedDatabaseService,
    selection: Selection,
    entries: tuple[LeaderboardEntry, ...],
    *,
    best: Decimal,
    key: str,
    alt: str,
) -> None:
    category = selection.category
    shown = tuple((entry.user_id, entry.rank, entry.score, entry.username) for entry in entries)

    def build() -> pa.Table:
        return tables.build_entries_table(data.compare_entries(service, selection, entries), best=best)

    # built again only when an entry has changed
    table = runtime.get_cache().get_or_load(
        (service, "table", category.key, selection.day, selection.compared_day, best, shown), build
    )
    alt = f"{alt} by {category.name.lower()}"
    tables.show_players(table, entries, category, key=key, alt=alt, score=category.name)


def _show_entries_heading(selection: Selection, total: int, page: int) -> None:
    first, last = (page - 1) * selection.rows + 1, min(page * selection.rows, total)
    by = selection.category.name.lower()
    more = "+" if selection.prefix and total >= data.MATCHES_COUNTED else ""
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        if selection.prefix:
            prefix = escape_markdown(selection.prefix)
            title = f"{format_count(total)}{more} by {by} starting with “{prefix}”"
        elif page == 1 and selection.order == "rank":
            title = f"Top {format_count(last)} by {by}"
        else:
            title = f"{format_count(first)} to {format_count(last)} of {format_count(total)} by {by}"
        st.subheader(title, anchor=False)
        st.link_button(
            "Download CSV",
            download.build_link(selection.category.key, selection.day),
            help="All entries of this session's leaderboard",
        )


def _show_distribution(
    summary: LeaderboardSummary, other: LeaderboardSummary | None, category: Category
) -> None:
    st.subheader("Score distribution", anchor=False)
    bins = tables.build_bins(summary.bins, category.unit)
    if not bins:
        st.caption("All scores are equal, so there is no distribution.")
        return
    is_comparable = other is not None and tables.have_equal_bins(summary, other)
    before = tables.build_bins(other.bins, category.unit) if other and is_comparable else ()
    players = format_count(summary.players)
    st.vega_lite_chart(
        charts.build_histogram(bins, unit=category.unit, median=summary.median, before=before),
        width="stretch",
        alt=f"Histogram of {players} scores for {category.name.lower()}",
    )
    outline = f" Outline: {format_day(other.session_date)}." if other and before else ""
    st.caption(
        f"{category.explanation} Dashed line: median "
        f"({format_score(summary.median, category.unit)}, {players} players).{outline}"
    )


def _show_period(service: EnhancedDatabaseService, selection: Selection) -> None:
    category = selection.category.name.lower()
    with st.spinner("Adding up the sessions"):
        period = data.load_period(service, selection)
    if not period.entries:
        _show_no_scores(selection)
        return
    sessions, listed = format_count(len(period.days)), format_count(len(period.entries))
    st.subheader(f"Best mean {category} of {sessions} sessions", anchor=False)
    entries = tables.filter_by_name(period.entries, selection.prefix)
    if entries:
        _show_period_page(service, selection, entries, best=period.entries[0].score)
    else:
        _show_no_match(selection.prefix)
    st.caption(
        f"{format_day(period.days[-1])} to {format_day(period.days[0])}. The best {listed} of "
        f"{format_count(period.players)} players, at most five minutes old. A session without a score counts "
        "as 0. The leaderboard of a single session lists all players."
    )


def _show_period_page(
    service: EnhancedDatabaseService, selection: Selection, found: Sequence[PeriodEntry], *, best: Decimal
) -> None:
    category = selection.category.name.lower()
    container = st.container()
    page = select_page(-(-len(found) // selection.rows))
    entries = found[(page - 1) * selection.rows : page * selection.rows]
    trends = data.load_trends(service, selection, [entry.user_id for entry in entries])
    with container:
        tables.show_players(
            tables.build_period_table(entries, trends, best=best),
            entries,
            selection.category,
            key="period-board",
            alt=f"Ranked players by mean {category} over several sessions",
            score=f"Mean {category}",
        )


show_leaderboards()
