"""Records turned into tables and figures that a page can show.

Owns the shape of every table and what is computed for display (averages, what is
invested); pure functions of their arguments. Money becomes float only here, where
nothing is added up any more.
"""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from urllib.parse import quote

import msgspec
import numpy as np
import pandas as pd

from core.records import Portfolio, Quest
from dashboard.formats import format_count, format_money, format_time_left

HISTOGRAM_BINS = 24
MINIMUM_BINNED_SCORES = 5
"""Fewer scores say more as a table than as a distribution."""


class Bin(msgspec.Struct, frozen=True):
    """How many scores lie in [low, high)."""

    low: float
    high: float
    players: int


class LatestFigures(msgspec.Struct, frozen=True):
    """A player's newest session in figures; `invested` is value less cash."""

    total_value: Decimal
    day_change: Decimal
    day_change_percent: Decimal
    cash: Decimal
    invested: Decimal
    invested_percent: Decimal


class Record(msgspec.Struct, frozen=True):
    """What a player did over the sessions shown; averages and best are day changes."""

    sessions: int
    won: int
    average_change: Decimal
    best_change: Decimal
    worst_change: Decimal


class QuestCard(msgspec.Struct, frozen=True):
    """An active quest as a card shows it; `fraction` is from 0 to 1."""

    title: str
    description: str
    fraction: float
    progress: str
    reward: str
    time_left: str


def build_player_link(username: str) -> str:
    """Return the address of a player's portfolio page, relative to any page."""
    return f"portfolios?player={quote(username, safe='')}"


def bin_values(values: Sequence[Decimal]) -> tuple[Bin, ...]:
    """Return equally wide bins over all values; none when there is no spread to show."""
    scores = np.array([float(value) for value in values])
    if len(scores) < MINIMUM_BINNED_SCORES or scores.min() == scores.max():
        return ()
    counts, edges = np.histogram(scores, bins=_choose_edges(scores))
    return tuple(
        Bin(low=float(low), high=float(high), players=int(count))
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    )


def _choose_edges(scores: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> list[float]:
    low, high = float(scores.min()), float(scores.max())
    if high - low < HISTOGRAM_BINS and not np.mod(scores, 1).any():
        # whole numbers close together: one bin for each, around it
        return [value - 0.5 for value in range(int(low), int(high) + 2)]
    return [float(edge) for edge in np.linspace(low, high, HISTOGRAM_BINS + 1)]


def build_history_frame(history: Sequence[Portfolio]) -> pd.DataFrame:
    """Return one row per session in the order given: figures as floats."""
    return pd.DataFrame(
        {
            "session": [row.session_date for row in history],
            "value": [float(row.total_value) for row in history],
            "change": [float(row.day_change) for row in history],
            "change_percent": [float(row.day_change_percent) for row in history],
            "cash": [float(row.current_cash) for row in history],
            "invested": [float(row.total_value - row.current_cash) for row in history],
        }
    )


def read_latest_figures(portfolio: Portfolio) -> LatestFigures:
    """Return the figures of one session; a worthless portfolio has nothing invested."""
    invested = portfolio.total_value - portfolio.current_cash
    share = invested / portfolio.total_value * 100 if portfolio.total_value else Decimal(0)
    return LatestFigures(
        total_value=portfolio.total_value,
        day_change=portfolio.day_change,
        day_change_percent=portfolio.day_change_percent,
        cash=portfolio.current_cash,
        invested=invested,
        invested_percent=share,
    )


def summarize_history(history: Sequence[Portfolio]) -> Record:
    """Return the record over at least one session."""
    changes = [row.day_change for row in history]
    return Record(
        sessions=len(changes),
        won=sum(change > 0 for change in changes),
        average_change=sum(changes, Decimal(0)) / len(changes),
        best_change=max(changes),
        worst_change=min(changes),
    )


def build_quest_card(quest: Quest, now: datetime) -> QuestCard:
    """Return what the card of an active quest says."""
    done, target = quest.current_progress, quest.target_value
    fraction = float(done / target) if target > 0 else 1.0
    return QuestCard(
        title=quest.title,
        description=quest.description or "",
        fraction=min(max(fraction, 0.0), 1.0),
        progress=f"{_plain(done)} of {_plain(target)}",
        reward=_describe_reward(quest),
        time_left=format_time_left(quest.expires_at, now),
    )


def _plain(value: Decimal) -> str:
    return format_count(value) if value == value.to_integral_value() else f"{value:,.2f}"


def _describe_reward(quest: Quest) -> str:
    kind, value = (quest.reward_type or "").replace("_", " ").lower(), quest.reward_value
    if value is None:
        return kind.capitalize()
    amount = format_money(value) if kind == "cash" else _plain(value)
    return f"{amount} {kind}".strip()
