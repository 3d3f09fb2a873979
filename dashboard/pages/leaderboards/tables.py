"""The tables of the Leaderboards page: rows, columns, and the click that opens a player's portfolio.

The tables are Arrow tables, which Streamlit sends as they are. Converting a pandas table to Arrow takes
longer than building its rows.
"""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

import pyarrow as pa
import streamlit as st

from core.records import LeaderboardEntry, LeaderboardSummary, PeriodEntry, PlayerScore, ScoreBin
from dashboard.categories import Category, describe_missed
from dashboard.charts import ACCENT, Bin
from dashboard.elements import build_count_column, show_table
from dashboard.formats import (
    Unit,
    format_count,
    format_money,
    format_points,
    format_score,
    format_top,
    is_zero,
)
from dashboard.navigation import SCRIPTS
from dashboard.pages.leaderboards.data import ComparedEntries

FIRST_COLUMN = "medal"
ON_PHONE = ("medal", "rank", "player", "score")
ON_TABLET = (*ON_PHONE, "moved", "change", "sessions", "trend")
VISIBLE_ROWS = 25

LARGE_LEADERBOARD = 1_000
"""If a leaderboard has this many players or more, a change of rank is also shown in percent."""

# Scores are columns of text: for a column of numbers, a screen reader reads the number without its format.
_TYPES = {
    "medal": pa.list_(pa.string()),
    "rank": pa.int64(),
    "player": pa.string(),
    "score": pa.string(),
    "value": pa.string(),
    "moved": pa.string(),
    "change": pa.string(),
    "sessions": pa.int64(),
    "trend": pa.list_(pa.float64()),
    "behind": pa.string(),
}

MEDALS = {1: "gold", 2: "silver", 3: "bronze"}
_MEDAL_COLOURS = ("#f2b93b", "#c3cad6", "#e8b48f")
"""Background colours of the medals: light enough for dark letters in the light and the dark theme."""

SORTS = {
    "rank": ("rank", "-rank"),
    "score": ("rank", "-rank"),
    "behind": ("rank", "-rank"),
    "medal": ("rank", "-rank"),
    "player": ("username", "-username"),
}
"""For each column that can be sorted: the order after the first and after the second click on its heading."""


def build_entries_table(compared: ComparedEntries, category: Category, *, best: Decimal) -> pa.Table:
    """Return one row per entry, in the given order. The column `behind` is the distance to `best`."""
    entries, unit = compared.entries, category.unit
    before = [compared.before.get(entry.user_id) for entry in entries]
    pairs = list(zip(entries, before, strict=True))
    return _build_table(
        {
            **_list_ranks(entries, compared.trends, unit, best=best),
            "moved": [
                describe_move(
                    entry.rank, row, players=compared.players, players_before=compared.players_before
                )
                for entry, row in pairs
            ],
            "change": [describe_difference(e.score, row.score, unit) if row else "" for e, row in pairs],
            **({"value": list(map(format_money, compared.values))} if compared.values else {}),
        }
    )


def build_period_table(
    entries: Sequence[PeriodEntry],
    trends: Mapping[UUID, Sequence[Decimal]],
    category: Category,
    *,
    best: Decimal,
) -> pa.Table:
    """Return one row per player of a period, in the given order."""
    return _build_table(
        {
            **_list_ranks(entries, trends, category.unit, best=best, is_mean=True),
            "sessions": [entry.sessions for entry in entries],
        }
    )


def _list_ranks(
    entries: Sequence[LeaderboardEntry | PeriodEntry],
    trends: Mapping[UUID, Sequence[Decimal]],
    unit: Unit,
    *,
    best: Decimal,
    is_mean: bool = False,
) -> dict[str, list[Any]]:
    # the mean of counts can have decimals
    unit = "number" if is_mean and unit == "count" else unit
    return {
        "medal": [[MEDALS[entry.rank]] if entry.rank in MEDALS else [] for entry in entries],
        "rank": [entry.rank for entry in entries],
        "player": [entry.username for entry in entries],
        "score": [format_score(entry.score, unit) for entry in entries],
        "trend": [[float(score) for score in trends.get(entry.user_id, ())] for entry in entries],
        "behind": [describe_gap(best - entry.score, unit) for entry in entries],
    }


def _build_table(columns: Mapping[str, list[Any]]) -> pa.Table:
    # explicit types: without them, a column without values would have no type
    return pa.table({name: pa.array(columns[name], kind) for name, kind in _TYPES.items() if name in columns})


def describe_move(rank: int, before: PlayerScore | None, *, players: int, players_before: int) -> str:
    """Write how far a rank moved: `↑ 3`, `↓ 12`, `=`, or `no rank before`.

    If both leaderboards have at least LARGE_LEADERBOARD players, adds the ranks in percent of the players:
    `↑ 80,431 · top 3%, was top 84%`.
    """
    if before is None or before.rank is None:
        return "no rank before"
    moved = before.rank - rank
    text = f"{'↑' if moved > 0 else '↓'} {format_count(abs(moved))}" if moved else "="
    if min(players, players_before) < LARGE_LEADERBOARD:
        return text
    now, then = format_top(rank, players), format_top(before.rank, players_before)
    return f"{text} · {now}" if now == then else f"{text} · {now}, was {then}"


def describe_difference(value: Decimal, before: Decimal, unit: Unit) -> str:
    """Write `value` minus `before` with its sign: `+$12.50`, `-0.30 pts`. Zero has no sign."""
    difference = value - before
    if unit == "percent":
        return format_points(difference)
    if is_zero(difference):
        return format_score(Decimal(0), unit)
    text = format_score(abs(difference), unit)
    return f"{'-' if difference < 0 else '+'}{text}"


def describe_gap(gap: Decimal, unit: Unit) -> str:
    """Write the distance of a score from the best score: `1.20 pts`, `$12.50`; empty if `gap` is 0."""
    if not gap:
        return ""
    return format_points(gap).lstrip("+") if unit == "percent" else format_score(gap, unit)


def build_bins(bins: tuple[ScoreBin, ...], unit: Unit) -> tuple[Bin, ...]:
    """Return the bins of a histogram; empty if all scores are in one bin.

    A bin for a single whole number is moved so that the number is in its middle.
    """
    if sum(item.players > 0 for item in bins) < 2:
        return ()
    shift = 0.5 if unit == "count" and bins[0].high - bins[0].low == 1 else 0.0
    return tuple(Bin(float(item.low) - shift, float(item.high) - shift, item.players) for item in bins)


def have_equal_bins(summary: LeaderboardSummary, other: LeaderboardSummary) -> bool:
    """Return whether two distributions have bins of equal width; only then can their bars be compared."""
    first, second = summary.bins[0], other.bins[0]
    return first.high - first.low == second.high - second.low


def show_players(
    table: pa.Table,
    entries: Sequence[LeaderboardEntry | PeriodEntry],
    columns: Mapping[str, Any],
    *,
    key: str,
    alt: str,
    on_sort: Callable[[str], None] | None = None,
    window: str | None = None,
) -> None:
    """Show ranked players. A click on a cell, except in the first column, opens the player's portfolio.

    `window` is the window of the portfolio. A click on a heading calls `on_sort` with the name of the column.
    """
    names = [entry.username for entry in entries]
    # the visitor clicked on the rows of the previous run; their order can differ from the order of this run
    shown = st.session_state.get(f"{key}-shown", names)
    st.session_state[f"{key}-shown"] = names

    def choose() -> None:
        chosen = st.session_state[key]["selection"].get("columns", ())
        if chosen and on_sort is not None:
            on_sort(chosen[0])

    clicked = show_table(
        table,
        columns,
        alt=alt,
        visible_rows=VISIBLE_ROWS,
        on_phone=ON_PHONE,
        on_tablet=ON_TABLET,
        key=key,
        on_select=choose,
        # "single-column" turns off sorting in the browser, which would sort the rows of this page only
        selection_mode=["single-cell", "single-column"],
        placeholder="",
    )
    username = find_clicked_player(clicked["selection"], shown)
    if username is not None:
        st.switch_page(
            SCRIPTS["portfolios"], query_params={"player": username} | ({"window": window} if window else {})
        )


def find_clicked_player(selection: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """Return the username in the row of the selected cell, or None.

    Cells of the first column are ignored, because a visitor with a keyboard selects them while moving up and
    down in the table.
    """
    rows = [row for row, column in selection.get("cells", ()) if column != FIRST_COLUMN]
    return names[rows[0]] if rows and rows[0] < len(names) else None


def build_columns(category: Category, *, is_open: bool = False, sessions: int = 1) -> dict[str, Any]:
    """Return the columns of the table of a session or, if `sessions` is above 1, of a period.

    `is_open` says that the session is not finished: the columns of moves and changes are labelled "so far".
    """
    text = st.column_config.TextColumn
    so_far = " so far" if is_open else ""
    compared = "the compared session"
    if is_open:
        compared += " (which is finished; this session is open)"
    score, explanation = category.name, category.explanation
    if sessions > 1:
        score = f"Mean {category.name.lower()}"
        explanation += f" Mean of {sessions} sessions; a session without a score counts as"
        explanation += f" {describe_missed(category)}."
    return {
        "medal": st.column_config.MultiselectColumn(
            "Medal", options=list(MEDALS.values()), color=list(_MEDAL_COLOURS), width=70
        ),
        "rank": build_count_column("Rank", width=50, alignment="left"),
        "moved": text(f"Moved{so_far}", help=f"Ranks gained or lost since {compared}"),
        "player": text(
            "Player",
            help="Click a row to open the player's portfolio. Keyboard: arrow up or down, then right.",
        ),
        "score": text(score, help=explanation, alignment="right"),
        "value": text(
            "Total value",
            help="Cash and holdings. Players with equal returns are ranked by their total value",
            alignment="right",
        ),
        "change": text(f"Change{so_far}", help=f"Score minus the score in {compared}", alignment="right"),
        "sessions": build_count_column("Sessions", width=80, help=f"Sessions with a score, of {sessions}"),
        "trend": st.column_config.LineChartColumn(
            "Trend", width=110, help="Scores of the last sessions, oldest first", color=ACCENT
        ),
        "behind": text("Behind", help="How far behind the best score", alignment="right"),
    }
