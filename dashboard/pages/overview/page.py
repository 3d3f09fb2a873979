"""The script of the Overview page: the newest session with trends, leaders, biggest movers and events.

The page has no filters and refreshes by itself.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial

import streamlit as st

from core import EnhancedDatabaseService
from core.records import LeaderboardEntry, MarketEvent
from dashboard import live, runtime, states
from dashboard.elements import (
    CARD_PIXELS,
    SESSION_NOTE,
    ChangeColumn,
    build_count_column,
    build_day_column,
    show_collapsible,
    show_metric,
    show_table,
)
from dashboard.formats import (
    LAST_SESSION,
    build_player_link,
    escape_markdown,
    format_count,
    format_day,
    format_percent,
    format_quantity,
)
from dashboard.navigation import SCRIPTS
from dashboard.pages.market.tables import build_events_table, build_movers_table, build_price_columns
from dashboard.pages.overview import charts, data, tables
from dashboard.pages.overview.data import Counts, DayEvents, Market, Sessions

REFRESH_SECONDS = 30
VISIBLE_ROWS = 6
CARDS_PER_ROW = 4


def show_overview() -> None:
    """Show the Overview page or, without any session, how to load sessions."""
    service = runtime.get_service()
    live.show_heading("Overview")
    with live.loading():
        sessions = _read_sessions(service)
    if not sessions.summaries:
        states.show_no_sessions()
        return
    live.show_live(partial(_show_sections, service), seconds=REFRESH_SECONDS)
    st.caption(
        f"{SESSION_NOTE} Figures of the newest session can be one minute old, those of earlier sessions "
        "15 minutes. Refresh reads all of them again. All times and session dates are in UTC."
    )


def _read_sessions(service: EnhancedDatabaseService) -> Sessions:
    return live.read("overview-sessions", partial(data.load_sessions, service))


def _show_sections(service: EnhancedDatabaseService) -> None:
    sessions = _read_sessions(service)
    day = sessions.summaries[0].session_date
    _show_state(sessions)
    live.show_section(
        "overview-headlines",
        load=partial(data.load_counts, service),
        show=partial(_show_headlines, sessions),
    )
    returns, leaders = st.columns([5, 3], gap="medium")
    with returns:
        st.header("Returns of the last sessions", anchor=False)
        live.show_section(
            ("overview-returns", sessions.summaries[-1].session_date, day),
            load=partial(data.load_marked_events, service, sessions),
            show=partial(_show_returns, sessions),
        )
    with leaders:
        st.header("Leaders this session", anchor=False)
        _show_leaders(sessions.leaders)
    movers, events = st.columns(2, gap="medium")
    with movers:
        st.header("Biggest movers", anchor=False)
        live.show_section("overview-movers", load=partial(data.load_market, service), show=_show_movers)
    with events:
        st.header("Events of the day", anchor=False)
        live.show_section(
            ("overview-events", day), load=partial(data.load_events, service, day), show=_show_events
        )
    show_collapsible("Table of the sessions", partial(_show_table, sessions), key="sessions-table")


def _show_state(sessions: Sessions) -> None:
    finished = len(sessions.summaries) - sessions.is_open
    trends = f"Trends: {format_quantity(finished, 'finished session')}."
    day = format_day(sessions.summaries[0].session_date)
    if sessions.is_open:
        st.caption(f"Session of {day}: open, so all its figures are so far. {trends}")
    elif finished > 1:
        st.caption(f"Session of {day}: finished, compared with the session before. {trends}")
    else:
        st.caption(f"Session of {day}: finished, the first one. {trends}")


def _show_headlines(sessions: Sessions, counts: Counts) -> None:
    headlines = tables.build_headlines(sessions.summaries, seen_today=counts.seen_today, today=sessions.today)
    with st.grid(CARDS_PER_ROW, min_column_width=CARD_PIXELS):
        for headline in headlines:
            show_metric(
                headline.label,
                headline.value,
                headline.note,
                is_change=headline.is_change,
                chart_data=headline.trend or None,
                chart_type="area",
                help=headline.help,
            )
    if counts.undated_quests:
        st.caption(
            f"{format_count(counts.undated_quests)} completed quests have no known time of completion: "
            "they count in no session."
        )


def _show_returns(sessions: Sessions, events: Sequence[MarketEvent]) -> None:
    shown = len(sessions.summaries)
    st.vega_lite_chart(
        charts.build_returns_chart(sessions.summaries, events, today=sessions.today),
        width="stretch",
        alt=f"Best and median return of the last {shown} sessions; see the table below",
    )
    hollow = " Hollow points: the open session, so far." if sessions.is_open else ""
    marks = "Marks above: market events, named in the tooltip." if events else ""
    if marks or hollow:
        st.caption(f"{marks}{hollow}".strip())


def _show_leaders(leaders: Sequence[LeaderboardEntry]) -> None:
    if not leaders:
        st.caption("No player has a return in this session yet.")
        return
    for entry in leaders:
        name, link = escape_markdown(entry.username), build_player_link(entry.username, LAST_SESSION)
        st.markdown(f"{entry.rank}. [{name}]({link}) · {format_percent(entry.score)}")
    st.page_link(SCRIPTS["leaderboards"], label="Full leaderboard")


def _show_movers(market: Market) -> None:
    if not market.ticks:
        st.caption("No symbol has a price yet.")
        return
    show_table(
        build_movers_table(market.ticks, market.sparklines),
        {
            "symbol": st.column_config.LinkColumn(
                "Symbol", display_text=r"symbol=(.+)$", help="Opens the symbol's candles"
            ),
            **build_price_columns(market.ticks),
        },
        alt="Symbols with the largest change in 24 hours first",
        on_phone=("symbol", "price", "change"),
        visible_rows=VISIBLE_ROWS,
    )
    st.caption(tables.describe_movers(market, datetime.now(UTC)))
    st.page_link(SCRIPTS["market"], label="All symbols")


def _show_events(events: DayEvents) -> None:
    if not events.newest:
        st.caption("No symbol has moved far enough on this day to create an event.")
    else:
        show_table(
            build_events_table(events.newest)[["time", "title", "sentiment"]],
            {
                "time": st.column_config.DatetimeColumn("Time", format="HH:mm", timezone="UTC"),
                "title": st.column_config.TextColumn("Event", width="medium"),
                "sentiment": "Sentiment",
            },
            alt=f"{len(events.newest)} of {format_quantity(events.total, 'event')} of the day, newest first",
            visible_rows=VISIBLE_ROWS,
        )
    if len(events.newest) < events.total:
        st.caption(f"The {len(events.newest)} newest of {format_count(events.total)} events.")
    st.page_link(SCRIPTS["market"], label="All events")


def _show_table(sessions: Sessions) -> None:
    show_table(
        tables.build_sessions_table(sessions.summaries, today=sessions.today),
        {
            "session": build_day_column("Session"),
            "state": st.column_config.TextColumn("State", help="So far: the session is open"),
            "played": build_count_column("Played", help=tables.PLAYED_HELP),
            "traded": build_count_column("Traded", help=tables.TRADED_HELP),
            "players": build_count_column("Players with a score"),
            "median": ChangeColumn("Median return", unit="%", help=tables.RETURN_HELP),
            "best": ChangeColumn("Best return", unit="%", help=tables.RETURN_HELP),
            "quests": build_count_column("Quests completed", help=tables.QUESTS_HELP),
            "events": build_count_column("Events of the day", help=tables.EVENTS_HELP),
            "signed_up": build_count_column("Players", help=tables.PLAYERS_HELP),
        },
        alt=f"The last {len(sessions.summaries)} sessions, newest first",
        on_phone=("session", "played", "median"),
        on_tablet=("session", "state", "played", "traded", "median", "best"),
        visible_rows=data.SESSIONS_SHOWN,
    )


show_overview()
