"""Sessions in figures turned into headline figures with their trends.

Owns what each figure of the overview says; pure functions of their arguments.
"""

from collections.abc import Callable, Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Any, Literal

import msgspec
import pandas as pd

from core.records import SessionSummary
from dashboard.charts import ACCENT, BASELINE, MARGIN, PERCENT_LABEL, choose_labels
from dashboard.formats import Number, format_count, format_day, format_percent, format_points, is_zero

Spec = dict[str, Any]

_LABELS = 5


class Headline(msgspec.Struct, frozen=True):
    """One figure with its change since the session before, and its course, oldest first.

    `change` is None without a session before. `tone` is normal for what is good or bad.
    """

    label: str
    value: str
    change: str | None
    trend: tuple[float, ...]
    tone: Literal["normal", "off"]


def build_headlines(
    sessions: Sequence[SessionSummary], *, active: int, is_today: bool
) -> tuple[Headline, ...]:
    """Return the figures of the newest of at least one session; `sessions` are newest first.

    Active is who has a score; `active` counts who was seen since the newest session's day began.
    """
    return (
        _count("Players", sessions, lambda session: session.signed_up),
        _active(sessions, active=active, is_today=is_today),
        _percent("Median return", sessions, lambda session: session.median_return),
        _percent("Best return", sessions, lambda session: session.best_return),
        _count("Events of the day", sessions, lambda session: session.events),
        _quests(sessions),
    )


def list_finished(sessions: Sequence[SessionSummary]) -> list[int]:
    """Return how many quests were completed in each session since the oldest, oldest first.

    A session without a board of quests counts with the one after it.
    """
    totals = [s.quests_completed for s in reversed(sessions) if s.quests_completed is not None]
    # players that left take theirs with them: no session completes less than nothing
    return [max(after - before, 0) for before, after in pairwise(totals)]


def _active(sessions: Sequence[SessionSummary], *, active: int, is_today: bool) -> Headline:
    newest = sessions[0]
    when = "today" if is_today else f"on {newest.session_date.day} {newest.session_date:%b}"
    return Headline(
        label=f"Active {when}",
        value=format_count(newest.players),
        change=f"{format_count(active)} seen {'today' if is_today else 'since'}",
        trend=_trend([session.players for session in sessions]),
        tone="off",
    )


def _quests(sessions: Sequence[SessionSummary]) -> Headline:
    finished, total = list_finished(sessions), sessions[0].quests_completed
    return Headline(
        label="Quests completed",
        value=format_count(finished[-1]) if finished else "-",
        change=None if total is None else f"{format_count(total)} in all",
        trend=tuple(float(count) for count in finished),
        tone="off",
    )


def _count(label: str, sessions: Sequence[SessionSummary], read: Callable[[SessionSummary], int]) -> Headline:
    values = [read(session) for session in sessions]
    change = None if len(values) < 2 else f"{values[0] - values[1]:+,d}"
    return Headline(label, format_count(values[0]), change, _trend(values), "off")


def _percent(
    label: str, sessions: Sequence[SessionSummary], read: Callable[[SessionSummary], Decimal | None]
) -> Headline:
    values = [read(session) for session in sessions]
    known = [value for value in values if value is not None]
    value = "-" if values[0] is None else format_percent(values[0])
    if len(values) < 2 or values[0] is None or values[1] is None:
        return Headline(label, value, None, _trend(known), "normal")
    moved = values[0] - values[1]
    return Headline(label, value, format_points(moved), _trend(known), "off" if is_zero(moved) else "normal")


def _trend(newest_first: Sequence[Number]) -> tuple[float, ...]:
    return tuple(float(value) for value in reversed(newest_first))


def build_sessions_frame(sessions: Sequence[SessionSummary]) -> pd.DataFrame:
    """Return one row per session in the order given."""
    return pd.DataFrame(
        {
            "session": [session.session_date for session in sessions],
            "players": [session.players for session in sessions],
            "median": [_float(session.median_return) for session in sessions],
            "best": [_float(session.best_return) for session in sessions],
            "quests": [_float(session.quests_completed) for session in sessions],
            "events": [session.events for session in sessions],
            "signed_up": [session.signed_up for session in sessions],
        }
    )


def build_returns_chart(sessions: Sequence[SessionSummary]) -> Spec:
    """Return best and median return of each session, newest given first."""
    days = [session.session_date.isoformat() for session in reversed(sessions)]
    y_axis = {"title": None, "format": "+,.2~f", "labelExpr": PERCENT_LABEL, "tickCount": 5}
    return {
        "data": {"values": [row for session in reversed(sessions) for row in _list_returns(session)]},
        "height": 280,
        "padding": MARGIN,
        "mark": {"type": "line", "point": {"filled": True, "size": 40}, "strokeWidth": 2},
        "encoding": {
            "x": {"field": "day", "type": "ordinal", "scale": {"type": "band"}, "axis": _day_axis(days)},
            "y": {"field": "value", "type": "quantitative", "axis": y_axis},
            "color": _series_scale([ACCENT, BASELINE]),
            "strokeDash": _series_scale([[1, 0], [6, 4]]),
            "tooltip": [
                {"field": "session", "type": "nominal", "title": "Session"},
                {"field": "series", "type": "nominal", "title": "Return"},
                {"field": "percent", "type": "nominal", "title": "In percent"},
            ],
        },
    }


def _day_axis(days: Sequence[str]) -> Spec:
    return {
        "title": None,
        "grid": False,
        "values": choose_labels(days, count=_LABELS),
        "labelExpr": "utcFormat(toDate(datum.value), '%-d %b %Y')",
        "labelAngle": 0,
        "labelOverlap": True,
        "labelFlush": False,
    }


def _series_scale(values: list[Any]) -> Spec:
    return {
        "field": "series",
        "type": "nominal",
        "scale": {"domain": ["Best", "Median"], "range": values},
        # the same for every scale, or there would be several
        "legend": {"title": None, "orient": "top", "symbolType": "stroke"},
    }


def _list_returns(session: SessionSummary) -> list[Spec]:
    values = {"Best": session.best_return, "Median": session.median_return}
    return [
        {
            "day": session.session_date.isoformat(),
            "session": format_day(session.session_date),
            "series": series,
            "value": float(value),
            "percent": format_percent(value),
        }
        for series, value in values.items()
        if value is not None
    ]


def _float(value: Number | None) -> float | None:
    return None if value is None else float(value)
