"""Portfolios: one player's sessions, figures, ranks and quests.

Owns the page's composition. Run by Streamlit as a script for every view; the search box
is the `player` query parameter, so a player's page is a link. Only reads: looking at a
player never creates a portfolio. What the player did refreshes alone.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import partial
from typing import Literal, TypedDict

import streamlit as st

from core import EnhancedDatabaseService
from core.records import Portfolio, Quest, User
from dashboard import data, frames, live, parameters, player_data, player_frames, runtime, states
from dashboard import player_sections as sections
from dashboard.formats import (
    escape_markdown,
    format_count,
    format_day,
    format_money,
    format_percent,
    format_rank,
    format_score,
    format_signed_money,
    is_zero,
)
from dashboard.player_data import Player
from dashboard.player_search import choose_view, find_rival, show_matches, show_suggestions

CARD_PIXELS = 155
"""The least width of a figure: two fit next to each other on a phone."""

PLAYER_SECONDS = 30


class Card(TypedDict):
    """How every figure on this page is framed."""

    border: bool
    height: Literal["stretch"]


class Tone(TypedDict):
    """How a remark under a figure is drawn."""

    delta_color: Literal["off", "normal"]
    delta_arrow: Literal["off", "auto"]


CARD = Card(border=True, height="stretch")
NEUTRAL = Tone(delta_color="off", delta_arrow="off")
"""Neither gain nor loss."""


def show_portfolios() -> None:
    """Show the page for what the address asks for."""
    service = runtime.get_service()
    live.show_heading("Portfolios")
    name, rival_name, window = choose_view()
    if not name:
        show_suggestions(service)
        return
    with live.placeholder():
        user = data.find_player(service, name)
    if user is None:
        show_matches(service, name, key="player")
        return
    rival = find_rival(service, rival_name, besides=user) if rival_name else None
    live.show_live(partial(show_sessions, service, user, rival, window), seconds=PLAYER_SECONDS)
    st.caption(
        "Sessions are as of now, the best player up to two minutes old; every time and session day is UTC."
    )


def show_sessions(service: EnhancedDatabaseService, user: User, rival: User | None, window: int) -> None:
    """Show everything that refreshes: what the player did, beside the rival if there is one."""
    history = data.load_history(service, user, limit=window)
    if not history:
        states.show_no_sessions(user.username)
        return
    other = player_data.find_history(service, rival, limit=window) if rival else None
    if rival and other is None:
        states.show_no_sessions(rival.username)
    show_player(service, Player(user, history), other)


def show_player(service: EnhancedDatabaseService, player: Player, rival: Player | None) -> None:
    """Show everything about a player who has played."""
    user, history = player.user, player.history
    show_heading(user, history[0])
    show_figures(history)
    if rival is not None:
        sections.show_side_by_side((player, rival))
    ranks_column, record_column = st.columns(2, gap="medium")
    with ranks_column:
        show_ranks(data.load_ranks(service, user, history[0].session_date))
    with record_column:
        show_record(history)
    charts_column, side_column = st.columns([5, 3], gap="medium")
    with charts_column:
        show_performance(service, player, rival)
        sections.show_changes(history)
    with side_column:
        show_quests(data.load_quests(service, user))
        show_rank_history(service, player)
        sections.show_holdings(history)
    sections.show_sessions(history)
    sections.show_profile(user)


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
            **choose_tone(latest.day_change_percent),
        )
        show_part("Cash", latest.cash, percent=100 - latest.invested_percent)
        show_part("Invested", latest.invested, percent=latest.invested_percent)


def choose_tone(change: Decimal) -> Tone:
    """Return how a change is drawn: nothing is no gain."""
    return NEUTRAL if is_zero(change) else Tone(delta_color="normal", delta_arrow="auto")


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
            **choose_tone(record.worst_change),
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


def show_performance(service: EnhancedDatabaseService, player: Player, rival: Player | None) -> None:
    """Show the player's equity against the market, the best player and the rival."""
    days = [row.session_date for row in player.history][::-1]
    market = player_frames.build_market_curve(player_data.load_market(service, player.history), days)
    curves, styles = [build_curve(player, since=days[0])], [0]
    if market.days:
        curves, styles = [*curves, market], [*styles, 1]
    best = player_data.find_best(service, player.history, besides=player.user)
    for style, other in ((2, best), (3, rival)):
        if other is None or (style == 2 and rival and other.user.id == rival.user.id):
            continue
        curve = build_curve(other, since=days[0], label="Best" if style == 2 else "")
        if curve.days:
            curves, styles = [*curves, curve], [*styles, style]
    sections.show_equity(curves, styles)


def build_curve(player: Player, *, since: date, label: str = "") -> player_frames.Curve:
    """Return a player's equity since a session, named by the player."""
    name = f"{label}: {player.user.username}" if label else player.user.username
    return player_frames.build_curve(name, player.history, since=since)


def show_rank_history(service: EnhancedDatabaseService, player: Player) -> None:
    """Show the rank over time on the board that is chosen."""
    st.subheader("Rank over time", anchor=False)
    categories = {item.name: item for item in data.list_categories(service, player.history[0].session_date)}
    unknown = parameters.find_unknown("board", categories)
    chosen = st.selectbox("Board", list(categories), key="board", bind="query-params")
    if unknown:
        parameters.show_unknown("board", unknown, instead=chosen)
    category = categories[chosen]
    scores = player_data.load_ranks_over_time(service, player.user, category, player.history)
    sections.show_rank_history(scores, category)


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


show_portfolios()
