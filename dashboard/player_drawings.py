"""The charts and the table of a player, kept for as long as the figures are the same.

Owns how many are kept. A page draws the same player again and again, as it refreshes and as
filters change; building and converting its six charts was most of what that cost. What is
returned is shared: for showing and not for changing.
"""

from decimal import Decimal
from functools import lru_cache
from statistics import median
from typing import NamedTuple

import pyarrow as pa

from core.records import PlayerScore, Portfolio
from dashboard import charts, frames, player_charts, player_frames
from dashboard.charts import Spec
from dashboard.player_frames import Curve

PLAYERS_KEPT = 64
"""Players who are looked at at once; their charts and tables take some 100 kB each."""

SPREAD_PIXELS = 150


class Spread(NamedTuple):
    """How day changes are spread."""

    chart: Spec
    middle: Decimal


@lru_cache(PLAYERS_KEPT)
def draw_equity(curves: tuple[Curve, ...], styles: tuple[int, ...]) -> Spec:
    """Return the equity curves; `styles` are their places in `player_charts.LINES`."""
    names = [curve.name for curve in curves]
    frame = player_frames.build_curves_frame(curves)
    return charts.enclose_data(player_charts.build_equity_chart(frame, names, list(styles)))


@lru_cache(PLAYERS_KEPT)
def draw_drawdown(curve: Curve) -> Spec:
    """Return how far the equity is below its peak."""
    return charts.enclose_data(player_charts.build_drawdown_chart(player_frames.build_drawdown_frame(curve)))


@lru_cache(PLAYERS_KEPT)
def draw_changes(history: tuple[Portfolio, ...]) -> Spec:
    """Return the day changes in order; the history is given newest first."""
    return charts.enclose_data(charts.build_change_chart(frames.build_history_frame(history[::-1])))


@lru_cache(PLAYERS_KEPT)
def draw_spread(history: tuple[Portfolio, ...]) -> Spread | None:
    """Return how the day changes are spread; None when there is no spread to show."""
    changes = [row.day_change for row in history]
    bins = frames.bin_values(changes)
    if not bins:
        return None
    middle = median(changes)
    chart = charts.build_histogram(bins, unit="currency", median=middle)
    return Spread({**chart, "height": SPREAD_PIXELS}, middle)


@lru_cache(PLAYERS_KEPT)
def draw_holdings(history: tuple[Portfolio, ...]) -> Spec:
    """Return cash and what was invested at the close of each session."""
    frame = player_frames.build_holdings_frame(history)
    return charts.enclose_data(player_charts.build_holdings_chart(frame))


@lru_cache(PLAYERS_KEPT)
def draw_ranks(scores: tuple[PlayerScore, ...]) -> Spec:
    """Return the rank on one board over time."""
    return charts.enclose_data(player_charts.build_rank_chart(player_frames.build_ranks_frame(scores)))


@lru_cache(PLAYERS_KEPT)
def build_sessions_table(history: tuple[Portfolio, ...]) -> pa.Table:
    """Return one row per session, as `frames.build_history_frame` has them, as it is sent."""
    return pa.Table.from_pandas(frames.build_history_frame(history), preserve_index=False)
