"""Portfolios: one player's sessions, figures, ranks and quests.

Owns the page's composition. Run by Streamlit as a script for every view; the search box
is the `player` query parameter, so a player's page is a link. Only reads: looking at a
player never creates a portfolio.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal, TypedDict

import streamlit as st

from core import EnhancedDatabaseService
from core.records import Portfolio, Quest, User
from dashboard import charts, data, frames, runtime, states
from dashboard.formats import (
    escape_markdown,
    format_as_of,
    format_count,
    format_day,
    format_money,
    format_percent,
    format_rank,
    format_score,
    format_signed_money,
)

WINDOWS = (30, 90, 250, 1000)
DEFAULT_WINDOW = 90
ROWS_WITHOUT_SCROLLING = 12
ROW_PIXELS = 35
TABLE_PIXELS = (ROWS_WITHOUT_SCROLLING + 1) * ROW_PIXELS + ROW_PIXELS // 2
"""A longer table ends in half a row, which says that it scrolls."""
NAME_LETTERS = 100
CARD_PIXELS = 155
"""The least width of a figure: two fit next to each other on a phone."""


class Card(TypedDict):
    """How every figure on this page is framed."""

    border: bool
    height: Literal["stretch"]


class Neutral(TypedDict):
    """How a remark under a figure is drawn that is neither gain nor loss."""

    delta_color: Literal["off"]
    delta_arrow: Literal["off"]


CARD = Card(border=True, height="stretch")
NEUTRAL = Neutral(delta_color="off", delta_arrow="off")


def show_portfolios() -> None:
    """Show the page for what the address asks for."""
    service = runtime.get_service()
    st.title("Portfolios", anchor=False)
    name, window = choose_view()
    if not name:
        show_suggestions(service)
        return
    user = data.find_player(service, name)
    if user is None:
        show_matches(service, name)
        return
    history = data.load_history(service, user, limit=window)
    if not history:
        states.show_no_sessions(user.username)
        return
    show_player(service, user, history)


def choose_view() -> tuple[str, int]:
    """Show the search box and the window and return what they say."""
    left, right = st.columns([3, 2])
    name = left.text_input(
        "Find a player",
        key="player",
        placeholder="Type the first letters of a username or name",
        live=True,
        max_chars=NAME_LETTERS,
        bind="query-params",
    )
    window = right.segmented_control(
        "Sessions shown",
        WINDOWS,
        default=DEFAULT_WINDOW,
        required=True,
        key="sessions",
        bind="query-params",
    )
    return name.strip(), window


def show_suggestions(service: EnhancedDatabaseService) -> None:
    """Offer players to start with, or say that there are none."""
    names = data.suggest_players(service)
    if names:
        st.subheader("Start with the best of the newest session", anchor=False)
        show_choices(names)
    elif service.list_session_dates(limit=1):
        st.caption("Type a username above to see the player's sessions, ranks and quests.")
    else:
        states.show_empty_database()


def show_matches(service: EnhancedDatabaseService, name: str) -> None:
    """Offer the players whose name starts with what was typed, or say that there are none."""
    names = [user.username for user in data.search_players(service, name)]
    if not names:
        states.show_unknown_player(name)
        return
    st.subheader(f"Players starting with “{escape_markdown(name)}”", anchor=False)
    show_choices(names)
    if len(names) == data.MATCHES_LISTED:
        st.caption(f"The first {data.MATCHES_LISTED}; type more letters to narrow them down.")


def show_choices(names: Iterable[str]) -> None:
    """Show one button per player; it fills the search box, and with it the address."""
    with st.container(horizontal=True, gap="small"):
        for name in names:
            st.button(escape_markdown(name), key=f"choose-{name}", on_click=choose, args=(name,))


def choose(name: str) -> None:
    """Put a player into the search box."""
    st.session_state["player"] = name


def show_player(service: EnhancedDatabaseService, user: User, history: Sequence[Portfolio]) -> None:
    """Show everything about a player who has played."""
    latest = history[0]
    show_heading(user, latest)
    show_figures(history)
    ranks_column, record_column = st.columns(2, gap="medium")
    with ranks_column:
        show_ranks(data.load_ranks(service, user, latest.session_date))
    with record_column:
        show_record(history)
    charts_column, quests_column = st.columns([5, 3], gap="medium")
    with charts_column:
        show_charts(history)
    with quests_column:
        show_quests(data.load_quests(service, user))
    show_sessions(history)
    st.caption(
        f"{format_as_of(datetime.now(UTC))}. Figures can be up to one minute old; "
        "every time and session day is UTC."
    )


def show_heading(user: User, latest: Portfolio) -> None:
    """Say whose page it is and which session the figures are from."""
    st.header(escape_markdown(user.name or user.username), anchor=False)
    st.caption(
        f"@{escape_markdown(user.username)} · newest session {format_day(latest.session_date)} · "
        f"playing since {format_day(user.created_at.astimezone(UTC).date())}"
    )


def show_figures(history: Sequence[Portfolio]) -> None:
    """Show the newest session in four figures."""
    latest = frames.read_latest_figures(history[0])
    with st.grid(4, min_column_width=CARD_PIXELS):
        st.metric(
            "Total value",
            format_money(latest.total_value),
            delta=f"from {format_money(history[0].starting_cash)}",
            **CARD,
            **NEUTRAL,
        )
        st.metric(
            "Day change",
            format_signed_money(latest.day_change),
            delta=format_percent(latest.day_change_percent),
            **CARD,
        )
        show_part("Cash", latest.cash, percent=100 - latest.invested_percent)
        show_part("Invested", latest.invested, percent=latest.invested_percent)


def show_part(label: str, amount: Decimal, *, percent: Decimal) -> None:
    """Show a part of a portfolio's value."""
    st.metric(
        label,
        format_money(amount),
        delta=f"{percent:.0f}%",
        delta_description="of the value",
        **CARD,
        **NEUTRAL,
    )


def show_ranks(ranks: Iterable[data.PlayerRank]) -> None:
    """Show the player's rank on every board of the newest session."""
    st.subheader("Rank on each board", anchor=False)
    with st.grid(3, min_column_width=CARD_PIXELS):
        for rank in ranks:
            show_rank(rank)


def show_record(history: Sequence[Portfolio]) -> None:
    """Show what the player made of the sessions shown."""
    record = frames.summarize_history(history)
    st.subheader(f"Last {format_count(record.sessions)} sessions", anchor=False)
    with st.grid(3, min_column_width=CARD_PIXELS):
        st.metric(
            "Sessions won",
            format_count(record.won),
            delta=f"{record.won / record.sessions:.0%}",
            **CARD,
            **NEUTRAL,
        )
        st.metric("Average change", format_signed_money(record.average_change), **CARD)
        st.metric(
            "Best and worst",
            format_signed_money(record.best_change),
            delta=format_signed_money(record.worst_change),
            **CARD,
        )


def show_rank(rank: data.PlayerRank) -> None:
    """Show the player's place on one board, or that there is none."""
    entry, unit = rank.entry, rank.category.unit
    st.metric(
        rank.category.name,
        format_rank(entry.rank) if entry else "Not ranked",
        delta=format_score(entry.score, unit) if entry else "no score this session",
        **CARD,
        **NEUTRAL,
    )


def show_charts(history: Sequence[Portfolio]) -> None:
    """Show the value and the change of each session over time."""
    frame = frames.build_history_frame(history[::-1])
    st.subheader("Value at the close of each session", anchor=False)
    st.vega_lite_chart(
        charts.build_value_chart(frame),
        width="stretch",
        alt=f"Total value of the last {len(history)} sessions against the starting 10,000",
    )
    st.caption("Dashed: the $10,000 that every session starts with.")
    st.subheader("Day change", anchor=False)
    st.vega_lite_chart(
        charts.build_change_chart(frame),
        width="stretch",
        alt=f"Gain or loss of each of the last {len(history)} sessions",
    )


def show_quests(quests: Sequence[Quest]) -> None:
    """Show the active quests as cards with their progress."""
    st.subheader("Active quests", anchor=False)
    if not quests:
        st.caption("No active quest. Finished and expired quests are not listed here.")
    now = datetime.now(UTC)
    for quest in quests:
        card = frames.build_quest_card(quest, now)
        with st.container(border=True, gap="xsmall"):
            st.markdown(f"**{escape_markdown(card.title)}**")
            if card.description:
                st.caption(escape_markdown(card.description))
            st.progress(card.fraction, text=card.progress)
            facts = [f"Reward: {card.reward}" if card.reward else "", card.time_left]
            st.caption(" · ".join(escape_markdown(fact) for fact in facts if fact))


def show_sessions(history: Sequence[Portfolio]) -> None:
    """Show the sessions as a table, newest first."""
    st.subheader("Sessions", anchor=False)
    money = st.column_config.NumberColumn
    st.dataframe(
        frames.build_history_frame(history),
        hide_index=True,
        height="content" if len(history) <= ROWS_WITHOUT_SCROLLING else TABLE_PIXELS,
        row_height=ROW_PIXELS,
        alt=f"The last {len(history)} sessions, newest first",
        column_config={
            "session": st.column_config.DateColumn("Session", format="YYYY-MM-DD"),
            "value": money("Total value", format="$%,.2f"),
            "change": money("Day change ($)", format="%+,.2f"),
            "change_percent": money("Day change (%)", format="%+,.2f%%"),
            "cash": money("Cash", format="$%,.2f"),
            "invested": money("Invested", format="$%,.2f"),
        },
    )


show_portfolios()
