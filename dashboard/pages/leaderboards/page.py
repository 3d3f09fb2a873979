"""The script of the Leaderboards page: the players of a category, ranked in one session or over several.

The leaderboard refreshes by itself; the filters do not.
"""

from datetime import date
from decimal import Decimal
from functools import partial

import streamlit as st

from core import EnhancedDatabaseService
from dashboard import charts, filters, live, runtime, states
from dashboard.categories import Category, describe_missed
from dashboard.data import find_newest_leaderboard_day
from dashboard.elements import CARD_PIXELS, SESSION_NOTE, show_metric
from dashboard.formats import (
    LAST_SESSION,
    escape_markdown,
    format_change,
    format_count,
    format_day,
    format_quantity,
    format_rank_of,
    format_score,
)
from dashboard.pages.leaderboards import data, download, tables
from dashboard.pages.leaderboards.data import ComparedEntries, Page, PeriodPage, Selection, Summaries
from dashboard.pages.leaderboards.filters import ORDER_CHANGED, get_page, select_page, show_filters, sort_by

REFRESH_SECONDS = 30

_WITHOUT_SORT = """<style>
[data-testid=stDataFrameColumnMenu] [role=menu] > [role=menuitem]:is(:nth-child(2), :nth-child(3)) {
    display: none;
}
</style>"""
"""Hides the sort items in a column's menu: they would sort one page only.

A click on a heading sorts all pages.
"""


def show_leaderboards() -> None:
    """Show the Leaderboards page for the filters in the address."""
    service = runtime.get_service()
    live.show_heading("Leaderboards")
    with live.loading():
        sessions = _read_sessions(service)
    if not sessions:
        states.show_no_sessions()
        return
    newest = _find_newest(service) or sessions[0]
    with filters.collapse_filters():
        selection = show_filters(service, sessions, newest)
    st.html(_WITHOUT_SORT)
    live.show_live(partial(_show_leaderboard, service, selection, newest), seconds=REFRESH_SECONDS)
    running = " This category is a running total, so it has no mean of several sessions."
    st.caption(
        f"{SESSION_NOTE} Scores can be up to two minutes old. All times and session dates are in UTC."
        + (running if selection.category.is_running_total else "")
    )


def _read_sessions(service: EnhancedDatabaseService) -> tuple[date, ...]:
    linked = filters.find_day("day")
    return live.read(("leaderboards-sessions", linked), partial(data.list_sessions, service, linked=linked))


def _find_newest(service: EnhancedDatabaseService) -> date | None:
    return live.read("leaderboards-newest", partial(find_newest_leaderboard_day, service))


def _show_leaderboard(service: EnhancedDatabaseService, selection: Selection, newest: date) -> None:
    is_new = _find_newest(service) not in (None, newest)
    if st.session_state.pop(ORDER_CHANGED, False) or is_new:
        # run the whole page again, so that the filters show the new order or the new session
        st.rerun()
    page = get_page()
    if selection.sessions > 1:
        live.show_section(
            ("leaderboards-period", selection, page),
            load=partial(data.load_period_page, service, selection, page),
            show=partial(_show_period, selection),
        )
        return
    summaries = partial(
        live.show_section,
        ("leaderboards-summaries", selection.category, selection.day, selection.compared_day),
        load=partial(data.load_summaries, service, selection),
    )
    summaries(show=partial(_show_summaries, selection))
    table, distribution = st.columns([3, 1], gap="medium")
    with table:
        live.show_section(
            ("leaderboards-page", selection, page),
            load=partial(data.load_page, service, selection, page),
            show=partial(_show_entries, selection, LAST_SESSION if selection.day == newest else None),
        )
    with distribution:
        summaries(show=partial(_show_distribution, selection.category))


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
        f"No player on this leaderboard starts with “{escape_markdown(prefix)}”",
        "Only players with a score are on a leaderboard. Check the spelling, type fewer letters, or choose "
        "another session or category.",
    )


def _show_summaries(selection: Selection, summaries: Summaries) -> None:
    summary, other, category = summaries.shown, summaries.compared, selection.category
    if summary is None:
        _show_no_scores(selection)
        return
    so_far = " so far" if summaries.is_open else ""
    compared = f"compared with {format_day(other.session_date)}" if other else "the first one with scores"
    state = "open, so all its figures are so far" if summaries.is_open else "finished"
    st.caption(f"Session of {format_day(summary.session_date)}: {state}; {compared}.")
    leader = escape_markdown(summary.leader)
    if summary.leaders > 1:
        leader += f" and {format_count(summary.leaders - 1)} more"

    def show_score(label: str, score: Decimal, before: Decimal | None, meaning: str) -> None:
        note = (
            f"{tables.describe_difference(score, before, category.unit)}{so_far}"
            if before is not None
            else "first session"
        )
        show_metric(label, format_score(score, category.unit), note, help=explain(meaning))

    def explain(meaning: str) -> str:
        return f"{meaning} {category.explanation} Up to two minutes old."

    with st.grid(4, min_column_width=CARD_PIXELS):
        joined = f"{format_change(summary.players - other.players)}{so_far}" if other else "first session"
        show_metric(
            "Players with a score",
            format_count(summary.players),
            joined,
            help="All players on this leaderboard in the session shown. Up to two minutes old.",
        )
        show_metric(
            "Best score",
            format_score(summary.best, category.unit),
            leader,
            help=explain("The highest score of the session shown."),
        )
        show_score(
            "Median score",
            summary.median,
            other.median if other else None,
            "Half of the players of the session shown have a higher score.",
        )
        show_score(
            "Lowest score",
            summary.worst,
            other.worst if other else None,
            "The lowest score of the session shown.",
        )


def _show_entries(selection: Selection, window: str | None, page: Page | None) -> None:
    if page is None:
        # the summary above already says that no player has a score
        return
    _show_entries_heading(selection, page)
    if page.rows.entries:
        _show_ranked(selection, page.rows, page, window, key="board", alt="Ranked players")
        st.caption("A row opens the player's portfolio, which says where the return comes from.")
    else:
        _show_no_match(selection.prefix)
    select_page(page.pages)
    if page.player is not None and page.around is not None:
        name, rank = page.player.username, format_rank_of(page.player.rank, page.rows.players)
        st.header(f"Around {escape_markdown(name)}, {rank}", anchor=False)
        alt = f"Players ranked next to {page.player.username}"
        _show_ranked(selection, page.around, page, window, key="around", alt=alt)


def _show_ranked(
    selection: Selection, rows: ComparedEntries, page: Page, window: str | None, *, key: str, alt: str
) -> None:
    category = selection.category
    cache_key = ("table", category.key, page.best, rows.entries, rows.players, rows.players_before)
    # cached: a refresh without a changed entry does not build the table again
    table = runtime.get_cache().get_or_load(
        (*cache_key, selection.day, selection.compared_day),
        lambda: tables.build_entries_table(rows, category, best=page.best),
    )
    tables.show_players(
        table,
        rows.entries,
        tables.build_columns(category, is_open=page.is_open),
        # the order is part of the key: in a new order, Streamlit shows a new table without a selected heading
        key=f"{key}-{selection.order}",
        alt=f"{alt} by {category.name.lower()}",
        on_sort=sort_by if key == "board" else None,
        window=window,
    )


def _show_entries_heading(selection: Selection, page: Page) -> None:
    first, last = (page.number - 1) * selection.rows + 1, min(page.number * selection.rows, page.total)
    by, total = escape_markdown(selection.category.name.lower()), format_count(page.total)
    if selection.prefix:
        more = "+" if page.total >= data.MATCHES_COUNTED else ""
        title = f"{total}{more} by {by} starting with “{escape_markdown(selection.prefix)}”"
    elif page.number == 1 and selection.order == "rank":
        title = f"Top {format_count(last)} by {by}"
    else:
        title = f"{format_count(first)} to {format_count(last)} of {total} by {by}"
    _show_heading(selection, title)


def _show_heading(selection: Selection, title: str) -> None:
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.header(title, anchor=False)
        st.link_button("Download CSV", download.build_link(selection), help=download.describe(selection))


def _show_distribution(category: Category, summaries: Summaries) -> None:
    summary, other = summaries.shown, summaries.compared
    if summary is None:
        return
    st.header("Score distribution", anchor=False)
    bins = tables.build_bins(summary.bins, category.unit)
    if not bins:
        st.caption("All scores are equal, so there is no distribution.")
        return
    is_comparable = other is not None and tables.have_equal_bins(summary, other)
    before = tables.build_bins(other.bins, category.unit) if other and is_comparable else ()
    st.vega_lite_chart(
        charts.build_histogram(bins, unit=category.unit, median=summary.median, before=before),
        width="stretch",
        alt=f"Histogram of {format_quantity(summary.players, 'score')} for {category.name.lower()}",
    )
    outline = f" Outline: {format_day(other.session_date)}." if other and before else ""
    st.caption(
        f"{category.explanation} Dashed line: median "
        f"({format_score(summary.median, category.unit)}, "
        f"{format_quantity(summary.players, 'player')}).{outline}"
    )


def _show_period(selection: Selection, page: PeriodPage) -> None:
    period = page.period
    if not period.entries:
        _show_no_scores(selection)
        return
    sessions = len(period.days)
    score = escape_markdown(selection.category.name.lower())
    _show_heading(selection, f"Best mean {score} of {format_quantity(sessions, 'session')}")
    if page.entries:
        _show_period_entries(selection, page, best=period.entries[0].score)
    else:
        _show_no_match(selection.prefix)
    select_page(page.pages)
    so_far = "; the last session is open, so the means are so far" if page.is_open else ""
    st.caption(
        f"{format_day(period.days[-1])} to {format_day(period.days[0])}{so_far}. The best "
        f"{format_count(len(period.entries))} of {format_count(period.players)} players, "
        "at most five minutes old. A session without a score counts as "
        f"{escape_markdown(describe_missed(selection.category))}. The leaderboard of a single session lists "
        "all players."
    )


def _show_period_entries(selection: Selection, page: PeriodPage, *, best: Decimal) -> None:
    category, sessions = selection.category, len(page.period.days)
    tables.show_players(
        tables.build_period_table(page.entries, page.trends, category, best=best),
        page.entries,
        tables.build_columns(category, sessions=selection.sessions if sessions < 2 else sessions),
        key="period-board",
        alt=f"Ranked players by mean {category.name.lower()} over several sessions",
    )


show_leaderboards()
