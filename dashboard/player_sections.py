"""The sections of the portfolios page about what a player did over time.

Owns each section's composition; the page decides which there are and in which order.
"""

from collections.abc import Sequence
from decimal import Decimal

import streamlit as st

from core.records import PlayerScore, Portfolio, User
from dashboard import frames, player_drawings, player_frames
from dashboard.formats import (
    Category,
    escape_markdown,
    format_count,
    format_day,
    format_percent,
    format_rank,
    format_signed_money,
)
from dashboard.player_data import Player
from dashboard.player_frames import Curve

ROWS_WITHOUT_SCROLLING = 12
ROW_PIXELS = 35
TABLE_PIXELS = (ROWS_WITHOUT_SCROLLING + 1) * ROW_PIXELS + ROW_PIXELS // 2
"""A longer table ends in half a row, which says that it scrolls."""
CARD_PIXELS = 155


def show_equity(curves: Sequence[Curve], styles: Sequence[int]) -> None:
    """Show the player's equity with the others, and how far it is below its peak."""
    own = curves[0]
    st.subheader("Equity", anchor=False)
    st.vega_lite_chart(
        player_drawings.draw_equity(tuple(curves), tuple(styles)),
        width="stretch",
        alt=f"Equity over {len(own.days)} sessions: " + ", ".join(_describe_end(curve) for curve in curves),
    )
    st.caption(
        "Every session starts with \\$10,000: a curve is that and all gains since. Market average: all "
        "symbols bought alike each morning and sold in the evening. Best: who leads the newest session."
    )
    deepest = player_frames.find_deepest(own)
    st.subheader("Drawdown", anchor=False)
    st.vega_lite_chart(
        player_drawings.draw_drawdown(own),
        width="stretch",
        alt=f"Distance of the equity to its peak; the deepest is {format_percent(deepest.percent)}",
    )
    if deepest.percent:
        st.caption(f"Deepest: {format_percent(deepest.percent)} on {format_day(deepest.day)}.")
    else:
        st.caption("The equity was never below its peak.")


def _describe_end(curve: Curve) -> str:
    gain = curve.equity[-1] - player_frames.STARTING_CASH if curve.equity else Decimal(0)
    return f"{curve.name} {format_signed_money(gain)}"


def show_changes(history: tuple[Portfolio, ...]) -> None:
    """Show the day changes in order, and how they are spread."""
    st.subheader("Day change", anchor=False)
    st.vega_lite_chart(
        player_drawings.draw_changes(history),
        width="stretch",
        alt=f"Gain or loss of each of the last {len(history)} sessions",
    )
    spread = player_drawings.draw_spread(history)
    if spread is None:
        return
    st.vega_lite_chart(spread.chart, width="stretch", alt=f"Histogram of {len(history)} day changes")
    st.caption(f"How day changes are spread. Dashed: the median, {format_signed_money(spread.middle)}.")


def show_holdings(history: tuple[Portfolio, ...]) -> None:
    """Show cash and what was invested at the close of each session."""
    st.subheader("Cash and invested", anchor=False)
    st.vega_lite_chart(
        player_drawings.draw_holdings(history),
        width="stretch",
        alt=f"Cash and invested value at the close of the last {len(history)} sessions",
    )


def show_rank_history(scores: tuple[PlayerScore, ...], category: Category) -> None:
    """Show the player's rank on one board over time."""
    if not scores:
        st.caption(f"No score for {category.name.lower()} in these sessions.")
        return
    best = min(row.rank for row in scores if row.rank is not None)
    st.vega_lite_chart(
        player_drawings.draw_ranks(scores),
        width="stretch",
        alt=f"Rank by {category.name.lower()} in {len(scores)} sessions, the best {format_rank(best)}",
    )
    st.caption(f"Best: {format_rank(best)}, in {format_count(len(scores))} sessions with a score.")


def show_side_by_side(players: Sequence[Player]) -> None:
    """Show two players' records next to each other."""
    st.subheader("Side by side", anchor=False)
    for column, player in zip(st.columns(len(players), gap="medium"), players, strict=True):
        with column, st.container(border=True):
            st.markdown(f"**{escape_markdown(player.user.name or player.user.username)}**")
            show_record(player)


def show_record(player: Player) -> None:
    """Show what one player made of the sessions shown."""
    record = frames.summarize_history(player.history)
    curve = player_frames.build_curve(
        player.user.username, player.history, since=player.history[-1].session_date
    )
    figures = (
        ("Total gain", format_signed_money(curve.equity[-1] - player_frames.STARTING_CASH)),
        ("Average change", format_signed_money(record.average_change)),
        ("Sessions won", f"{format_count(record.won)} of {format_count(record.sessions)}"),
        ("Best session", format_signed_money(record.best_change)),
        ("Worst session", format_signed_money(record.worst_change)),
        ("Deepest drawdown", format_percent(player_frames.find_deepest(curve).percent)),
    )
    with st.grid(3, min_column_width=110):
        for label, value in figures:
            st.metric(label, value)


def show_profile(user: User) -> None:
    """Show the profile and the preferences, folded until somebody asks."""
    with st.expander("Profile and preferences"):
        st.markdown(
            "\n".join(
                f"- {escape_markdown(label)}: {escape_markdown(text)}"
                for label, text in player_frames.list_profile(user)
            )
        )


def show_sessions(history: tuple[Portfolio, ...]) -> None:
    """Show the sessions as a table, newest first."""
    st.subheader("Sessions", anchor=False)
    money = st.column_config.NumberColumn
    st.dataframe(
        player_drawings.build_sessions_table(history),
        hide_index=True,
        height="content" if len(history) <= ROWS_WITHOUT_SCROLLING else TABLE_PIXELS,
        row_height=ROW_PIXELS,
        alt=f"The last {len(history)} sessions, newest first",
        column_config={
            "session": st.column_config.DateColumn("Session", format="YYYY-MM-DD"),
            "value": money("Total value", format="dollar"),
            "change": money("Day change ($)", format="%+,.2f"),
            "change_percent": money("Day change (%)", format="%+,.2f%%"),
            "cash": money("Cash", format="dollar"),
            "invested": money("Invested", format="dollar"),
        },
    )
