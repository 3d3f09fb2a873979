"""The tables of the leaderboards page, in which a click opens the player.

Owns their columns and the way from a chosen row to the player's page, in the same tab.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import streamlit as st

from core.records import LeaderboardEntry, PeriodEntry
from dashboard import standings_frames as frames
from dashboard.formats import Category

ROW_PIXELS = 38
ROWS_WITHOUT_SCROLLING = 25
TABLE_PIXELS = (ROWS_WITHOUT_SCROLLING + 1) * ROW_PIXELS + ROW_PIXELS // 2
"""A longer table ends in half a row, which says that it scrolls."""

PLAYER_PAGE = "views/portfolios.py"

_SCORES = {
    "percent": "%+,.2f%%",
    "currency": "dollar",
    "count": "%,d",
    "number": "%,.2f",
}
_DIFFERENCES = {**_SCORES, "percent": "%+,.2f pts", "currency": "%+,.2f", "count": "%+,d", "number": "%+,.2f"}
_GAPS = {**_SCORES, "percent": "%,.2f pts"}


def show_table(
    table: pa.Table,
    entries: Sequence[LeaderboardEntry | PeriodEntry],
    category: Category,
    *,
    key: str,
    alt: str,
    score: str,
) -> None:
    """Show ranked players; choosing a cell, but for the first column's, opens that row's player."""
    names = [entry.username for entry in entries]
    # a row was chosen in what was shown then, which need not be the order of now
    shown = st.session_state.get(f"{key}-shown", names)
    st.session_state[f"{key}-shown"] = names
    chosen = st.dataframe(
        table,
        key=key,
        on_select="rerun",
        selection_mode="single-cell",
        hide_index=True,
        height="content" if table.num_rows <= ROWS_WITHOUT_SCROLLING else TABLE_PIXELS,
        row_height=ROW_PIXELS,
        placeholder="",
        alt=alt,
        column_config=build_columns(category, score=score),
    )
    open_chosen(chosen["selection"], shown)


def open_chosen(selection: Mapping[str, Any], names: Sequence[str]) -> None:
    """Go to the page of the player whose row was chosen among these names, if any."""
    username = frames.find_chosen(selection, names)
    if username is not None:
        st.switch_page(PLAYER_PAGE, query_params={"player": username})


def build_columns(category: Category, *, score: str) -> dict[str, Any]:
    """Return how each column of a board's table is headed and written."""
    number, unit = st.column_config.NumberColumn, category.unit
    return {
        "medal": st.column_config.ImageColumn("", width=40, alignment="right"),
        "rank": number("Rank", format="%,d", width=60, alignment="left"),
        "moved": st.column_config.TextColumn(
            "Moved", width=70, help="Ranks gained or lost against the session compared with"
        ),
        "player": st.column_config.TextColumn(
            "Player",
            help="Choose a row to open the player's portfolio; by keyboard: arrows up and down, then right",
        ),
        "score": number(score, format=_SCORES[unit], help=category.explanation),
        "change": number("Change", format=_DIFFERENCES[unit], help="Score against the session compared with"),
        "sessions": number("Sessions", format="%,d", width=80, help="Sessions with a score"),
        "trend": st.column_config.LineChartColumn(
            "Trend", width=120, help="Scores of the last sessions, oldest first", color="#6366f1"
        ),
        "behind": number("Behind the leader", format=_GAPS[unit]),
    }
