"""Boards turned into tables: pages of a session, of a period, and who was chosen in one.

Owns the shape of these tables; pure functions of their arguments. Arrow tables, because they
are what a page sends: turning pandas into them costs more than building them.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any
from uuid import UUID

import pyarrow as pa

from core.records import BoardSummary, PeriodEntry, PlayerScore, ScoreBin
from dashboard.formats import Unit, format_count, format_points, format_score
from dashboard.frames import Bin
from dashboard.medals import MEDALS
from dashboard.standings_data import Page

FIRST_COLUMN = "medal"

BOARDS_KEPT = 64
"""Distributions shaped lately: those of the boards that many look at, some kilobytes each."""

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


def build_page_frame(page: Page, *, best: Decimal) -> pa.Table:
    """Return one row per entry, in the order given.

    Columns: medal (image or none), rank, moved (text), player, score, change (against the
    session compared with), trend (scores, oldest first), behind (distance to the best score,
    nothing for who has it).
    """
    entries = page.entries
    before = [page.before.get(entry.user_id) for entry in entries]
    return _build_table(
        {
            "medal": [MEDALS.get(entry.rank) for entry in entries],
            "rank": [entry.rank for entry in entries],
            "moved": [describe_move(e.rank, row) for e, row in zip(entries, before, strict=True)],
            "player": [entry.username for entry in entries],
            "score": [float(entry.score) for entry in entries],
            "change": [
                float(e.score - row.score) if row else None for e, row in zip(entries, before, strict=True)
            ],
            "trend": _list_trends([entry.user_id for entry in entries], page.trends),
            "behind": [_gap(best - entry.score) for entry in entries],
        }
    )


def build_period_frame(
    entries: Sequence[PeriodEntry], trends: Mapping[UUID, Sequence[Decimal]], *, best: Decimal
) -> pa.Table:
    """Return one row per player of a period: medal, rank, player, score, sessions, trend, behind."""
    return _build_table(
        {
            "medal": [MEDALS.get(entry.rank) for entry in entries],
            "rank": [entry.rank for entry in entries],
            "player": [entry.username for entry in entries],
            "score": [float(entry.score) for entry in entries],
            "sessions": [entry.sessions for entry in entries],
            "trend": _list_trends([entry.user_id for entry in entries], trends),
            "behind": [_gap(best - entry.score) for entry in entries],
        }
    )


def _build_table(columns: dict[str, list[Any]]) -> pa.Table:
    # with types, so that a page on which nobody has moved or has a medal is no other table
    return pa.table({name: pa.array(values, _TYPES[name]) for name, values in columns.items()})


def describe_move(rank: int, before: PlayerScore | None) -> str:
    """Write how far a rank moved: `↑ 3`, `↓ 12`, `=`, or `new` for who had no score before."""
    if before is None or before.rank is None:
        return "new"
    moved = before.rank - rank
    if not moved:
        return "="
    return f"{'↑' if moved > 0 else '↓'} {format_count(abs(moved))}"


def describe_difference(value: Decimal, before: Decimal, unit: Unit) -> str:
    """Write how much a score is above another, with its sign: `+$12.50`, `-0.30 pts`."""
    difference = value - before
    if unit == "percent":
        return format_points(difference)
    text = format_score(abs(difference), unit).lstrip("+")
    return f"{'-' if difference < 0 else '+'}{text}"


@lru_cache(BOARDS_KEPT)
def shape_bins(bins: tuple[ScoreBin, ...], unit: Unit) -> tuple[Bin, ...]:
    """Return bins as a chart draws them; none when there is no spread to show.

    The bin of one whole number is drawn around it.
    """
    if sum(item.players > 0 for item in bins) < 2:
        return ()
    shift = 0.5 if unit == "count" and bins[0].high - bins[0].low == 1 else 0.0
    return tuple(Bin(float(item.low) - shift, float(item.high) - shift, item.players) for item in bins)


def share_width(summary: BoardSummary, other: BoardSummary | None) -> bool:
    """Say whether two distributions have bins of one width, so that their heights compare."""
    if other is None:
        return False
    first, second = summary.bins[0], other.bins[0]
    return first.high - first.low == second.high - second.low


def filter_names(entries: Sequence[PeriodEntry], prefix: str) -> Sequence[PeriodEntry]:
    """Return the entries whose username begins with a prefix, in any case."""
    wanted = prefix.casefold()
    return [entry for entry in entries if entry.username.casefold().startswith(wanted)]


def find_chosen(selection: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """Return who was chosen in a table that showed these names, if anybody.

    Not by a cell of the first column: the keyboard's focus enters there, and moves up and down.
    """
    rows = [row for row, column in selection.get("cells", ()) if column != FIRST_COLUMN]
    return names[rows[0]] if rows and rows[0] < len(names) else None


def _list_trends(players: Sequence[UUID], trends: Mapping[UUID, Sequence[Decimal]]) -> list[list[float]]:
    return [[float(score) for score in trends.get(user_id, ())] for user_id in players]


def _gap(points: Decimal) -> float | None:
    return float(points) if points else None
