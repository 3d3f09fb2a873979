"""Sums, tables and the progress chart of quests; pure functions."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from decimal import Decimal

import msgspec
import pandas as pd

from core.records import PlayerQuest, Quest, QuestPace, QuestTotals
from dashboard.charts import ACCENT, BASELINE, Spec
from dashboard.formats import build_player_link, format_count, format_key, format_reward, format_time_left

STEPS = {"Completed": ACCENT, "Halfway": "#9a9cf5", "Started": "#c5c6fa", "Not started": BASELINE}
"""How far a quest came, the furthest first: the accent colour fades with the distance to the target."""

_BAR_PIXELS = 40
_FRAME_PIXELS = 100
"""Height of the legend and the axis."""
_LABEL_PIXELS = 110


class QuestSummary(msgspec.Struct, frozen=True):
    """The sums of all quests; `completed_percent` is of the ended ones, None without any."""

    given: int
    active: int
    completed: int
    expired: int
    expiring: int
    completed_percent: Decimal | None


class Progress(msgspec.Struct, frozen=True):
    """How many quests of a type reached each step; each step includes those further on."""

    type: str
    given: int
    started: int
    halfway: int
    completed: int
    active: int


class Reward(msgspec.Struct, frozen=True):
    """What quests with one kind of reward have paid and can still pay."""

    kind: str
    earned: Decimal
    open: Decimal
    completed: int
    active: int


def summarize_quests(totals: Sequence[QuestTotals]) -> QuestSummary:
    """Return the sums over all types."""
    given, active = sum(row.given for row in totals), sum(row.active for row in totals)
    completed = sum(row.completed for row in totals)
    ended = given - active
    return QuestSummary(
        given=given,
        active=active,
        completed=completed,
        expired=ended - completed,
        expiring=sum(row.expiring for row in totals),
        completed_percent=Decimal(completed) / ended * 100 if ended else None,
    )


def list_progress(totals: Iterable[QuestTotals]) -> tuple[Progress, ...]:
    """Return the progress of each type, whatever its rewards, the type with most quests first."""
    progress = [
        Progress(
            type=key,
            given=sum(row.given for row in rows),
            started=sum(row.started for row in rows),
            halfway=sum(row.halfway for row in rows),
            completed=sum(row.completed for row in rows),
            active=sum(row.active for row in rows),
        )
        for key, rows in _group(totals, lambda row: row.type).items()
    ]
    return tuple(sorted(progress, key=lambda item: (-item.given, item.type)))


def list_rewards(totals: Iterable[QuestTotals]) -> tuple[Reward, ...]:
    """Return the sums of each kind of reward in alphabetical order, without quests that have none."""
    return tuple(
        Reward(
            kind=kind,
            earned=sum((row.earned for row in rows), Decimal(0)),
            open=sum((row.open for row in rows), Decimal(0)),
            completed=sum(row.completed for row in rows),
            active=sum(row.active for row in rows),
        )
        for kind, rows in sorted(_group(totals, lambda row: row.reward_type).items())
    )


def _group(
    totals: Iterable[QuestTotals], get_key: Callable[[QuestTotals], str | None]
) -> dict[str, list[QuestTotals]]:
    groups: dict[str, list[QuestTotals]] = {}
    for row in totals:
        key = get_key(row)
        if key is not None:
            groups.setdefault(key, []).append(row)
    return groups


def build_progress_table(progress: Sequence[Progress]) -> pd.DataFrame:
    """Return one row per type; the steps in percent of the quests given."""
    return pd.DataFrame(
        {
            "type": [format_key(item.type) for item in progress],
            "given": [item.given for item in progress],
            "active": [item.active for item in progress],
            "started": [item.started / item.given * 100 for item in progress],
            "halfway": [item.halfway / item.given * 100 for item in progress],
            "completed": [item.completed / item.given * 100 for item in progress],
        }
    )


def build_progress_chart(progress: Sequence[Progress]) -> Spec:
    """Return one bar per type, divided by how far its quests came."""
    y_axis = {"title": None, "ticks": False, "labelLimit": _LABEL_PIXELS, "labelOverlap": False}
    return {
        "data": {"values": [row for item in progress for row in _list_steps(item)]},
        "height": len(progress) * _BAR_PIXELS + _FRAME_PIXELS,
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
                "scale": {"domain": list(STEPS), "range": list(STEPS.values())},
                "legend": {"title": None, "orient": "top", "columns": 2},
            },
            "order": {"field": "place", "type": "ordinal"},
            "tooltip": [
                {"field": "type", "type": "nominal", "title": "Type"},
                {"field": "step", "type": "nominal", "title": "Progress"},
                {"field": "quests", "type": "nominal", "title": "Quests"},
            ],
        },
    }


def _list_steps(item: Progress) -> list[Spec]:
    reached = (item.completed, item.halfway, item.started, item.given)
    counts = [upper - lower for lower, upper in zip((0, *reached), reached, strict=False)]
    return [
        {
            "type": format_key(item.type),
            "step": step,
            "place": place,
            "share": count / item.given,
            "quests": f"{format_count(count)} of {format_count(item.given)} ({count / item.given:.0%})",
        }
        for place, (step, count) in enumerate(zip(STEPS, counts, strict=True))
    ]


def build_expiring_table(quests: Sequence[PlayerQuest], now: datetime) -> pd.DataFrame:
    """Return one row per quest: player (link), title, progress in percent, time left."""
    return pd.DataFrame(
        {
            "player": [build_player_link(item.username) for item in quests],
            "title": [item.quest.title for item in quests],
            "progress": [measure_progress(item.quest) * 100 for item in quests],
            "left": [format_time_left(item.quest.expires_at, now) for item in quests],
        }
    )


def build_pace_table(paces: Sequence[QuestPace]) -> pd.DataFrame:
    """Return one row per title: players, mean progress and age, days to go at that pace."""
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


def build_player_table(quests: Sequence[Quest], now: datetime) -> pd.DataFrame:
    """Return one row per quest of a player, in the order given."""
    return pd.DataFrame(
        {
            "title": [quest.title for quest in quests],
            "status": [format_key(quest.status) for quest in quests],
            "progress": [measure_progress(quest) * 100 for quest in quests],
            "reward": [
                format_reward(quest.reward_type, quest.reward_value) if quest.reward_type else ""
                for quest in quests
            ],
            "given": [quest.created_at for quest in quests],
            "left": [
                format_time_left(quest.expires_at, now) if quest.status == "ACTIVE" else ""
                for quest in quests
            ],
        }
    )


def measure_progress(quest: Quest) -> float:
    """Return the progress of a quest as a part of its target, from 0 to 1."""
    if quest.target_value <= 0:
        return 1.0
    return min(max(float(quest.current_progress / quest.target_value), 0.0), 1.0)
