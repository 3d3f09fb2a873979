"""The tables of the leaderboards page: their rows, their columns, and the click that opens a player.

Arrow tables, because that is what a page sends: converting pandas costs more than building the rows.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pyarrow as pa
import streamlit as st

from core.records import LeaderboardEntry, LeaderboardSummary, PeriodEntry, PlayerScore, ScoreBin
from dashboard.charts import ACCENT, Bin
from dashboard.elements import show_table
from dashboard.formats import Category, Unit, format_count, format_points, format_score
from dashboard.navigation import SCRIPTS
from dashboard.pages.leaderboards.data import ComparedEntries

FIRST_COLUMN = "medal"
VISIBLE_ROWS = 25

LEADERBOARDS_KEPT = 64
"""Recently shown distributions, some kilobytes each: many visitors look at the same leaderboards."""

_TYPES = {
    "medal": pa.string(),
    "rank": pa.int64(),
    "moved": pa.string(),
    "player": pa.string(),
    "score": pa.float64(),
    "change": pa.float64(),
    "sessions": pa.int64(),
    "trend": pa.list_(pa.float64()),
    "behind": pa.float64(),
}

_SCORES = {"percent": "%+,.2f%%", "currency": "dollar", "count": "%,d", "number": "%,.2f"}
_DIFFERENCES = {"percent": "%+,.2f pts", "currency": "%+,.2f", "count": "%+,d", "number": "%+,.2f"}
_GAPS = {**_SCORES, "percent": "%,.2f pts"}

_MEDAL_COLOURS = {
    1: ("#f2b93b", "#a9740a", "gold"),
    2: ("#c3cad6", "#6b7485", "silver"),
    3: ("#d99a6c", "#8c4f24", "bronze"),
}


def _draw_medal(rank: int) -> str:
    fill, edge, name = _MEDAL_COLOURS[rank]
    svg = (
        "<svg xmlns='http://www.w3.org/2000/svg' width='64' height='64' viewBox='0 0 32 32'>"
        f"<title>{name} medal</title>"
        "<path d='M9 2h6l3 9-5 3z' fill='#6d70f2'/><path d='M23 2h-6l-3 9 5 3z' fill='#4f46e5'/>"
        f"<circle cx='16' cy='20' r='10' fill='{fill}' stroke='{edge}' stroke-width='1.5'/>"
        f"<text x='16' y='24.6' text-anchor='middle' font-family='sans-serif' font-size='13' "
        f"font-weight='700' fill='{edge}'>{rank}</text></svg>"
    )
    return f"data:image/svg+xml,{quote(svg)}"


MEDALS = {rank: _draw_medal(rank) for rank in _MEDAL_COLOURS}
"""Images as data URLs: an emoji is an empty box where no emoji font is installed."""


def build_entries_table(compared: ComparedEntries, *, best: Decimal) -> pa.Table:
    """Return one row per entry, in the order given; `behind` is the distance to the best score."""
    entries = compared.entries
    before = [compared.before.get(entry.user_id) for entry in entries]
    return _build_table(
        {
            **_list_ranks(entries, compared.trends, best=best),
            "moved": [describe_move(e.rank, row) for e, row in zip(entries, before, strict=True)],
            "change": [
                float(e.score - row.score) if row else None for e, row in zip(entries, before, strict=True)
            ],
        }
    )


def build_period_table(
    entries: Sequence[PeriodEntry], trends: Mapping[UUID, Sequence[Decimal]], *, best: Decimal
) -> pa.Table:
    """Return one row per player of a period, in the order given."""
    return _build_table(
        {**_list_ranks(entries, trends, best=best), "sessions": [entry.sessions for entry in entries]}
    )


def _list_ranks(
    entries: Sequence[LeaderboardEntry | PeriodEntry],
    trends: Mapping[UUID, Sequence[Decimal]],
    *,
    best: Decimal,
) -> dict[str, list[Any]]:
    return {
        "medal": [MEDALS.get(entry.rank) for entry in entries],
        "rank": [entry.rank for entry in entries],
        "player": [entry.username for entry in entries],
        "score": [float(entry.score) for entry in entries],
        "trend": [[float(score) for score in trends.get(entry.user_id, ())] for entry in entries],
        "behind": [float(best - entry.score) or None for entry in entries],
    }


def _build_table(columns: Mapping[str, list[Any]]) -> pa.Table:
    # explicit types, so that columns without a value keep their type
    return pa.table({name: pa.array(columns[name], kind) for name, kind in _TYPES.items() if name in columns})


def describe_move(rank: int, before: PlayerScore | None) -> str:
    """Write how far a rank moved: `↑ 3`, `↓ 12`, `=`, or `new` without an earlier score."""
    if before is None or before.rank is None:
        return "new"
    moved = before.rank - rank
    if not moved:
        return "="
    return f"{'↑' if moved > 0 else '↓'} {format_count(abs(moved))}"


def describe_difference(value: Decimal, before: Decimal, unit: Unit) -> str:
    """Write the difference of two scores with its sign: `+$12.50`, `-0.30 pts`."""
    difference = value - before
    if unit == "percent":
        return format_points(difference)
    text = format_score(abs(difference), unit).lstrip("+")
    return f"{'-' if difference < 0 else '+'}{text}"


@lru_cache(LEADERBOARDS_KEPT)
def build_bins(bins: tuple[ScoreBin, ...], unit: Unit) -> tuple[Bin, ...]:
    """Return the bins of a histogram; none when all scores are in one bin.

    A bin of one whole number is centred on it.
    """
    if sum(item.players > 0 for item in bins) < 2:
        return ()
    shift = 0.5 if unit == "count" and bins[0].high - bins[0].low == 1 else 0.0
    return tuple(Bin(float(item.low) - shift, float(item.high) - shift, item.players) for item in bins)


def have_equal_bins(summary: LeaderboardSummary, other: LeaderboardSummary) -> bool:
    """Return whether two distributions have bins of the same width, so that their heights compare."""
    first, second = summary.bins[0], other.bins[0]
    return first.high - first.low == second.high - second.low


def filter_by_name(entries: Sequence[PeriodEntry], prefix: str) -> Sequence[PeriodEntry]:
    """Return the entries whose username starts with a prefix, ignoring case."""
    wanted = prefix.casefold()
    return [entry for entry in entries if entry.username.casefold().startswith(wanted)]


def show_players(
    table: pa.Table,
    entries: Sequence[LeaderboardEntry | PeriodEntry],
    category: Category,
    *,
    key: str,
    alt: str,
    score: str,
) -> None:
    """Show ranked players; a click on a cell, except in the first column, opens the player."""
    names = [entry.username for entry in entries]
    # the click was on the rows of the last run, whose order may differ from this one
    shown = st.session_state.get(f"{key}-shown", names)
    st.session_state[f"{key}-shown"] = names
    clicked = show_table(
        table,
        _build_columns(category, score=score),
        alt=alt,
        visible_rows=VISIBLE_ROWS,
        key=key,
        on_select="rerun",
        selection_mode="single-cell",
        placeholder="",
    )
    username = find_clicked_player(clicked["selection"], shown)
    if username is not None:
        st.switch_page(SCRIPTS["portfolios"], query_params={"player": username})


def find_clicked_player(selection: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """Return the username in the row of the selected cell, or None.

    The first column does not count: keyboard focus enters there and moves up and down.
    """
    rows = [row for row, column in selection.get("cells", ()) if column != FIRST_COLUMN]
    return names[rows[0]] if rows and rows[0] < len(names) else None


def _build_columns(category: Category, *, score: str) -> dict[str, Any]:
    number, unit = st.column_config.NumberColumn, category.unit
    return {
        "medal": st.column_config.ImageColumn("", width=40, alignment="right"),
        "rank": number("Rank", format="%,d", width=60, alignment="left"),
        "moved": st.column_config.TextColumn(
            "Moved", width=70, help="Ranks gained or lost since the compared session"
        ),
        "player": st.column_config.TextColumn(
            "Player",
            help="Click a row to open the player's portfolio. Keyboard: arrow up or down, then right.",
        ),
        "score": number(score, format=_SCORES[unit], help=category.explanation),
        "change": number(
            "Change", format=_DIFFERENCES[unit], help="Score minus that of the compared session"
        ),
        "sessions": number("Sessions", format="%,d", width=80, help="Sessions with a score"),
        "trend": st.column_config.LineChartColumn(
            "Trend", width=120, help="Scores of the last sessions, oldest first", color=ACCENT
        ),
        "behind": number("Behind the leader", format=_GAPS[unit]),
    }
