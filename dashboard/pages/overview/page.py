"""Overview: the newest session with its trends, leaders, movers and events.

Run by Streamlit as a script for every view. Has no filters; everything refreshes alone. The newest session
is at most a minute old, earlier sessions a quarter of an hour.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock
from functools import partial

import streamlit as st

from core import EnhancedDatabaseService
from core.records import LeaderboardEntry, MarketEvent, SessionSummary, Sparkline, Tick
from dashboard import live, runtime, states
from dashboard.charts import enclose_data
from dashboard.elements import CARD_PIXELS, show_metric, show_table
from dashboard.formats import KNOWN_CATEGORIES, build_player_link, escape_markdown, format_day, format_percent
from dashboard.navigation import SCRIPTS
from dashboard.pages.market.data import list_sparklines
from dashboard.pages.market.tables import build_events_table, build_movers_table, build_price_columns
from dashboard.pages.overview import tables

REFRESH_SECONDS = 30
SESSIONS_SHOWN = 14
"""Sessions of a trend: two weeks of trading fit into a small chart."""

EVENTS_SHOWN = 20
LEADERS_SHOWN = 5
VISIBLE_ROWS = 6
CARDS_PER_ROW = 3


def show_overview() -> None:
    """Show the newest session, or how to get one."""
    service = runtime.get_service()
    live.show_heading("Overview")
    with live.loading():
        sessions = _read_sessions(service)
    if not sessions:
        states.show_no_sessions()
        return
    live.show_live(partial(_show_session, service), seconds=REFRESH_SECONDS)
    st.caption(
        "The newest session can be up to one minute old, earlier sessions up to 15 minutes. "
        "All times and session dates are in UTC."
    )


def _read_sessions(service: EnhancedDatabaseService) -> tuple[SessionSummary, ...]:
    return live.read("overview-sessions", partial(service.get_session_summaries, limit=SESSIONS_SHOWN))


def _show_session(service: EnhancedDatabaseService) -> None:
    sessions = _read_sessions(service)
    day = sessions[0].session_date
    st.caption(
        f"Session of {format_day(day)}, compared with the session before. Trends: {len(sessions)} sessions."
    )
    live.show_section(
        ("overview-headlines", day),
        load=lambda: service.count_active_players(_begin_day(day)),
        show=lambda active: _show_headlines(sessions, active),
    )
    returns, leaders = st.columns([5, 3], gap="medium")
    with returns:
        st.subheader("Returns of the last sessions", anchor=False)
        st.vega_lite_chart(
            enclose_data(tables.build_returns_chart(sessions)),
            width="stretch",
            alt=f"Best and median return of the last {len(sessions)} sessions; see the table below",
        )
    with leaders:
        st.subheader("Leaders this session", anchor=False)
        live.show_section(
            ("overview-leaders", day),
            load=lambda: service.get_leaderboard(KNOWN_CATEGORIES[0].key, day, LEADERS_SHOWN),
            show=_show_leaders,
        )
    movers, events = st.columns(2, gap="medium")
    with movers:
        st.subheader("Biggest movers", anchor=False)
        live.show_section(
            "overview-movers",
            load=lambda: (service.get_latest_market_data(), list_sparklines(service)),
            show=lambda found: _show_movers(*found),
        )
    with events:
        st.subheader("Events of the day", anchor=False)
        live.show_section(
            ("overview-events", day), load=lambda: _list_events(service, day), show=_show_events
        )
    with st.expander("Table of the sessions"):
        _show_sessions(sessions)


def _show_headlines(sessions: Sequence[SessionSummary], active: int) -> None:
    day = sessions[0].session_date
    headlines = tables.build_headlines(
        sessions,
        active=active,
        is_today=day == datetime.now(UTC).date(),
    )
    with st.grid(CARDS_PER_ROW, min_column_width=CARD_PIXELS):
        for headline in headlines:
            show_metric(
                headline.label,
                headline.value,
                headline.note,
                is_change=headline.is_change,
                chart_data=headline.trend or None,
                chart_type="area",
            )


def _show_leaders(leaders: Sequence[LeaderboardEntry]) -> None:
    if not leaders:
        st.caption("No player has a return in this session yet.")
        return
    for entry in leaders:
        name, link = escape_markdown(entry.username), build_player_link(entry.username)
        st.markdown(f"{entry.rank}. [{name}]({link}) · {format_percent(entry.score)}")
    st.page_link(SCRIPTS["leaderboards"], label="Full leaderboard")


def _show_movers(ticks: Sequence[Tick], sparklines: Sequence[Sparkline]) -> None:
    if not ticks:
        st.caption("No symbol has a price yet.")
        return
    show_table(
        build_movers_table(ticks, sparklines),
        {
            "symbol": st.column_config.LinkColumn(
                "Symbol", display_text=r"symbol=(.+)$", help="Opens the symbol's candles"
            ),
            **build_price_columns(ticks),
        },
        alt="Symbols with the largest change in 24 hours first",
        visible_rows=VISIBLE_ROWS,
        placeholder="-",
    )
    st.page_link(SCRIPTS["market"], label="All symbols")


def _list_events(service: EnhancedDatabaseService, day: date) -> tuple[MarketEvent, ...]:
    start = _begin_day(day)
    return service.list_market_events(EVENTS_SHOWN, since=start, until=start + timedelta(days=1))


def _show_events(events: Sequence[MarketEvent]) -> None:
    if not events:
        st.caption("No symbol has moved far enough on this day to create an event.")
    else:
        show_table(
            build_events_table(events)[["time", "title", "sentiment"]],
            {
                "time": st.column_config.DatetimeColumn("Time", format="HH:mm", timezone="UTC"),
                "title": st.column_config.TextColumn("Event", width="medium"),
                "sentiment": "Sentiment",
            },
            alt=f"The newest {len(events)} events of the day",
            visible_rows=VISIBLE_ROWS,
        )
    st.page_link(SCRIPTS["market"], label="All events")


def _show_sessions(sessions: Sequence[SessionSummary]) -> None:
    number = st.column_config.NumberColumn
    show_table(
        tables.build_sessions_table(sessions),
        {
            "session": st.column_config.DateColumn("Session", format="YYYY-MM-DD"),
            "players": number("Players with a score", format="%,d"),
            "median": number("Median return", format="%+,.2f%%"),
            "best": number("Best return", format="%+,.2f%%"),
            "quests": number("Quests completed (total)", format="%,d"),
            "events": number("Events", format="%,d"),
            "signed_up": number("Players (total)", format="%,d"),
        },
        alt=f"The last {len(sessions)} sessions, newest first",
        visible_rows=SESSIONS_SHOWN,
        placeholder="-",
    )


def _begin_day(day: date) -> datetime:
    return datetime.combine(day, clock(0), UTC)


show_overview()
