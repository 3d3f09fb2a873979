"""Overview: the newest session in figures, each with its trend.

Owns the page's composition; it has no filters. Run by Streamlit as a script for every
view; its figures refresh alone.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from functools import partial

import streamlit as st

from core import EnhancedDatabaseService
from core.records import SessionSummary
from dashboard import charts, frames, insight_data, live, market_frames, overview_frames, runtime, states
from dashboard.formats import escape_markdown, format_day, format_percent

FIGURES_SECONDS = 30
ROW_PIXELS = 38
ROWS_WITHOUT_SCROLLING = 6
TABLE_PIXELS = (ROWS_WITHOUT_SCROLLING + 1) * ROW_PIXELS + ROW_PIXELS // 2
"""A longer table ends in half a row, which says that it scrolls."""
CARD_PIXELS = 155
CARDS_IN_A_ROW = 3


def show_overview() -> None:
    """Show the newest session, or how to get one."""
    service = runtime.get_service()
    live.show_heading("Overview")
    with live.placeholder():
        sessions = insight_data.list_sessions(service)
    if not sessions:
        states.show_empty_database()
        return
    live.show_live(partial(show_figures, service), seconds=FIGURES_SECONDS)
    st.caption(
        "The newest session can be up to one minute old, earlier ones a quarter of an hour. "
        "Every time and session day is UTC."
    )


def show_figures(service: EnhancedDatabaseService) -> None:
    """Show everything that refreshes."""
    sessions = insight_data.list_sessions(service)
    day = sessions[0].session_date
    st.caption(
        f"Session of {format_day(day)}; changes are against the session before, "
        f"trends go over the last {len(sessions)}."
    )
    show_headlines(service, sessions)
    returns, leaders = st.columns([5, 3], gap="medium")
    with returns:
        show_returns(sessions)
    with leaders:
        show_leaders(service, day)
    movers, events = st.columns(2, gap="medium")
    with movers:
        show_movers(service)
    with events:
        show_events(service, day)
    with st.expander("The sessions as a table"):
        show_sessions(sessions)


def show_headlines(service: EnhancedDatabaseService, sessions: Sequence[SessionSummary]) -> None:
    """Show the figures of the newest session with their trends."""
    day = sessions[0].session_date
    headlines = overview_frames.build_headlines(
        sessions,
        active=insight_data.count_active(service, day),
        is_today=day == datetime.now(UTC).date(),
    )
    with st.grid(CARDS_IN_A_ROW, min_column_width=CARD_PIXELS):
        for headline in headlines:
            st.metric(
                headline.label,
                headline.value,
                delta=headline.change,
                delta_color=headline.tone,
                delta_arrow="auto" if headline.tone == "normal" else "off",
                chart_data=headline.trend or None,
                chart_type="area",
                border=True,
                height="stretch",
            )


def show_returns(sessions: Sequence[SessionSummary]) -> None:
    """Show the best and the median return of the last sessions."""
    st.subheader("Returns of the last sessions", anchor=False)
    st.vega_lite_chart(
        charts.enclose_data(overview_frames.build_returns_chart(sessions)),
        width="stretch",
        alt=f"Best and median return of the last {len(sessions)} sessions; the table of sessions has them",
    )


def show_leaders(service: EnhancedDatabaseService, day: date) -> None:
    """Show who is ahead; the name is a link to the player's portfolio."""
    st.subheader("Ahead in this session", anchor=False)
    leaders = insight_data.list_leaders(service, day)
    if not leaders:
        st.caption("Nobody has a return in this session yet.")
        return
    for entry in leaders:
        link = frames.build_player_link(entry.username)
        st.markdown(
            f"{entry.rank}. [{escape_markdown(entry.username)}]({link}) · {format_percent(entry.score)}"
        )
    st.page_link("views/leaderboards.py", label="All of the leaderboard")


def show_movers(service: EnhancedDatabaseService) -> None:
    """Show the symbols that moved furthest in 24 hours."""
    st.subheader("Biggest movers", anchor=False)
    ticks = insight_data.list_prices(service)
    if not ticks:
        st.caption("No symbol has a price.")
        return
    st.dataframe(
        market_frames.build_movers_frame(ticks, insight_data.list_sparklines(service)),
        hide_index=True,
        height="content" if len(ticks) <= ROWS_WITHOUT_SCROLLING else TABLE_PIXELS,
        row_height=ROW_PIXELS,
        placeholder="-",
        alt="The symbols by how far they moved in 24 hours",
        column_config={
            "symbol": st.column_config.LinkColumn(
                "Symbol", display_text=r"symbol=(.+)$", help="Opens the symbol's candles"
            ),
            "price": st.column_config.NumberColumn("Price", format=market_frames.choose_price_format(ticks)),
            "change": st.column_config.NumberColumn("24 h change", format="%+,.2f%%"),
            "course": st.column_config.LineChartColumn("Course"),
        },
    )
    st.page_link("views/market.py", label="All of the market")


def show_events(service: EnhancedDatabaseService, day: date) -> None:
    """Show what happened on the day of the session."""
    st.subheader("Events of the day", anchor=False)
    events = insight_data.list_day_events(service, day)
    if not events:
        st.caption("No symbol has moved far enough on this day to make an event.")
    else:
        frame = market_frames.build_events_frame(events)[["time", "title", "sentiment"]]
        st.dataframe(
            frame,
            hide_index=True,
            height="content" if len(events) <= ROWS_WITHOUT_SCROLLING else TABLE_PIXELS,
            row_height=ROW_PIXELS,
            alt=f"The newest {len(events)} events of the day",
            column_config={
                "time": st.column_config.DatetimeColumn("Time", format="HH:mm", timezone="UTC"),
                "title": st.column_config.TextColumn("Event", width="medium"),
                "sentiment": "Sentiment",
            },
        )
    st.page_link("views/market.py", label="All events")


def show_sessions(sessions: Sequence[SessionSummary]) -> None:
    """Show the figures behind the trends."""
    count = st.column_config.NumberColumn
    st.dataframe(
        overview_frames.build_sessions_frame(sessions),
        hide_index=True,
        height="content",
        placeholder="-",
        alt=f"The last {len(sessions)} sessions, newest first",
        column_config={
            "session": st.column_config.DateColumn("Session", format="YYYY-MM-DD"),
            "players": count("On the board", format="%,d"),
            "median": count("Median return", format="%+,.2f%%"),
            "best": count("Best return", format="%+,.2f%%"),
            "quests": count("Quests completed in all", format="%,d"),
            "events": count("Events", format="%,d"),
            "signed_up": count("Players in all", format="%,d"),
        },
    )


show_overview()
