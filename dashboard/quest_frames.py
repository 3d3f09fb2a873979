"""Quest records turned into tables, figures and the funnel.

Owns what is added up and computed for display; pure functions of their arguments.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec
import pandas as pd

from core.records import PlayerQuest, Quest, QuestPace, QuestTotals
from dashboard.charts import ACCENT, BASELINE
from dashboard.formats import format_count, format_money, format_time_left
from dashboard.frames import build_player_link
from dashboard.market_frames import name_key

Spec = dict[str, Any]

STEPS = ("Completed", "Halfway", "Started", "Not started")
"""How far a quest came, the furthest first."""

_STEP_COLOURS = (ACCENT, "#9a9cf5", "#c5c6fa", BASELINE)
"""One accent fading out with the distance to the target."""

_ROW_PIXELS = 40
_FRAME_PIXELS = 100
"""The legend and the axis, which the height of a chart includes."""
_NARROW_LABELS = 110
_FUNNEL_TOOLTIPS = [
    {"field": "type", "type": "nominal", "title": "Type"},
    {"field": "step", "type": "nominal", "title": "Came to"},
    {"field": "quests", "type": "nominal", "title": "Quests"},
]


class QuestSummary(msgspec.Struct, frozen=True):
    """All quests in figures; `completed_percent` is of those that are over, None without any."""

    given: int
    active: int
    completed: int
    expired: int
    expiring: int
    completed_percent: Decimal | None


class Funnel(msgspec.Struct, frozen=True):
    """How many quests of a type came how far; each step is part of the one before."""

    type: str
    given: int
    started: int
    halfway: int
    completed: int
    active: int


class Reward(msgspec.Struct, frozen=True):
    """What quests of one kind of reward paid, and what they still can."""

    kind: str
    earned: Decimal
    open: Decimal
    completed: int
    active: int


def summarize_quests(totals: Sequence[QuestTotals]) -> QuestSummary:
    """Return the sums over all types."""
    given, active = sum(row.given for row in totals), sum(row.active for row in totals)
    completed = sum(row.completed for row in totals)
    over = given - active
    return QuestSummary(
        given=given,
        active=active,
        completed=completed,
        expired=over - completed,
        expiring=sum(row.expiring for row in totals),
        completed_percent=Decimal(completed) / over * 100 if over else None,
    )


def build_funnels(totals: Iterable[QuestTotals]) -> tuple[Funnel, ...]:
    """Return a funnel per type, whatever the reward, the largest first."""
    by_type: dict[str, list[QuestTotals]] = {}
    for row in totals:
        by_type.setdefault(row.type, []).append(row)
    funnels = [
        Funnel(
            type=key,
            given=sum(row.given for row in rows),
            started=sum(row.started for row in rows),
            halfway=sum(row.halfway for row in rows),
            completed=sum(row.completed for row in rows),
            active=sum(row.active for row in rows),
        )
        for key, rows in by_type.items()
    ]
    return tuple(sorted(funnels, key=lambda funnel: (-funnel.given, funnel.type)))


def build_rewards(totals: Iterable[QuestTotals]) -> tuple[Reward, ...]:
    """Return the sums per kind of reward, in alphabetical order; quests without one are left out."""
    by_kind: dict[str, list[QuestTotals]] = {}
    for row in totals:
        if row.reward_type is not None:
            by_kind.setdefault(row.reward_type, []).append(row)
    return tuple(
        Reward(
            kind=kind,
            earned=sum((row.earned for row in rows), Decimal(0)),
            open=sum((row.open for row in rows), Decimal(0)),
            completed=sum(row.completed for row in rows),
            active=sum(row.active for row in rows),
        )
        for kind, rows in sorted(by_kind.items())
    )


def format_amount(amount: Decimal, kind: str) -> str:
    """Write how much of a reward: cash as money, anything else as a count."""
    return format_money(amount) if kind.upper() == "CASH" else format_count(amount)


def build_funnel_frame(funnels: Sequence[Funnel]) -> pd.DataFrame:
    """Return one row per type: how many were given, and the share that came to each step in percent."""
    return pd.DataFrame(
        {
            "type": [name_key(funnel.type) for funnel in funnels],
            "given": [funnel.given for funnel in funnels],
            "active": [funnel.active for funnel in funnels],
            "started": [funnel.started / funnel.given * 100 for funnel in funnels],
            "halfway": [funnel.halfway / funnel.given * 100 for funnel in funnels],
            "completed": [funnel.completed / funnel.given * 100 for funnel in funnels],
        }
    )


def build_funnel_chart(funnels: Sequence[Funnel]) -> Spec:
    """Return one bar per type, divided by how far its quests came."""
    y_axis = {"title": None, "ticks": False, "labelLimit": _NARROW_LABELS, "labelOverlap": False}
    return {
        "data": {"values": [row for funnel in funnels for row in _list_steps(funnel)]},
        "height": len(funnels) * _ROW_PIXELS + _FRAME_PIXELS,
        "mark": {"type": "bar", "cornerRadius": 2, "height": {"band": 0.6}},
        "encoding": {
            "y": {"field": "type", "type": "nominal", "sort": None, "axis": y_axis},
            "x": {
                "field": "share",
                "type": "quantitative",
                "stack": "zero",
                "scale": {"domain": [0, 1]},
                "axis": {"title": None, "format": ".0%", "tickCount": 4},
            },
            "color": {
                "field": "step",
                "type": "nominal",
                "scale": {"domain": list(STEPS), "range": list(_STEP_COLOURS)},
                "legend": {"title": None, "orient": "top", "columns": 2},
            },
            "order": {"field": "place", "type": "ordinal"},
            "tooltip": _FUNNEL_TOOLTIPS,
        },
    }


def _list_steps(funnel: Funnel) -> list[Spec]:
    reached = (funnel.completed, funnel.halfway, funnel.started, funnel.given)
    counts = [upper - lower for lower, upper in zip((0, *reached), reached, strict=False)]
    return [
        {
            "type": name_key(funnel.type),
            "step": step,
            "place": place,
            "share": count / funnel.given,
            "quests": f"{format_count(count)} of {format_count(funnel.given)} ({count / funnel.given:.0%})",
        }
        for place, (step, count) in enumerate(zip(STEPS, counts, strict=True))
    ]


def build_expiring_frame(quests: Sequence[PlayerQuest], now: datetime) -> pd.DataFrame:
    """Return one row per quest: player (link), title, progress in percent, what is left of its time."""
    return pd.DataFrame(
        {
            "player": [build_player_link(item.username) for item in quests],
            "title": [item.quest.title for item in quests],
            "progress": [measure_progress(item.quest) for item in quests],
            "left": [format_time_left(item.quest.expires_at, now) for item in quests],
        }
    )


def build_pace_frame(paces: Sequence[QuestPace]) -> pd.DataFrame:
    """Return one row per title: players, mean progress and age, and days to go at that pace."""
    return pd.DataFrame(
        {
            "title": [pace.title for pace in paces],
            "players": [pace.players for pace in paces],
            "progress": [float(pace.progress_percent) for pace in paces],
            "age": [float(pace.age_days) for pace in paces],
            "to_go": [_estimate_days(pace) for pace in paces],
        }
    )


def _estimate_days(pace: QuestPace) -> float | None:
    if not pace.progress_percent:
        return None
    return float((100 - pace.progress_percent) / pace.progress_percent * pace.age_days)


def build_player_frame(quests: Sequence[Quest], now: datetime) -> pd.DataFrame:
    """Return one row per quest of a player, in the order given."""
    return pd.DataFrame(
        {
            "title": [quest.title for quest in quests],
            "status": [name_key(quest.status) for quest in quests],
            "progress": [measure_progress(quest) for quest in quests],
            "reward": [_write_reward(quest) for quest in quests],
            "given": [quest.created_at for quest in quests],
            "left": [
                format_time_left(quest.expires_at, now) if quest.status == "ACTIVE" else ""
                for quest in quests
            ],
        }
    )


def measure_progress(quest: Quest) -> float:
    """Return how far a quest is, in percent of its target, at most 100."""
    return min(float(quest.current_progress / quest.target_value) * 100, 100.0)


def _write_reward(quest: Quest) -> str:
    if quest.reward_type is None or quest.reward_value is None:
        return name_key(quest.reward_type) if quest.reward_type else ""
    return f"{format_amount(quest.reward_value, quest.reward_type)} {quest.reward_type.lower()}"
