"""The headline metrics, the returns chart and the table of the overview; pure functions."""

from collections.abc import Callable, Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Any

import msgspec
import pandas as pd

from core.records import SessionSummary
from dashboard.charts import ACCENT, BASELINE, MARGIN, PERCENT_LABEL, Spec, build_day_axis
from dashboard.formats import Number, format_count, format_day, format_percent, format_points, is_zero

_LABELS = 5


class Headline(msgspec.Struct, frozen=True):
    """A metric with a note and its values in the last sessions, oldest first.

    `is_change` says that the note is a gain or a loss.
    """

    label: str
    value: str
    note: str | None
    trend: tuple[float, ...]
    is_change: bool = False


def build_headlines(
    sessions: Sequence[SessionSummary], *, active: int, is_today: bool
) -> tuple[Headline, ...]:
    """Return the headlines of the newest of at least one session, given newest first.

    Active players are those with a score; `active` is the number of players seen since that day began.
    """
    return (
        _build_count("Players", sessions, lambda session: session.signed_up),
        _build_active(sessions, active=active, is_today=is_today),
        _build_percent("Median return", sessions, lambda session: session.median_return),
        _build_percent("Best return", sessions, lambda session: session.best_return),
        _build_count("Events of the day", sessions, lambda session: session.events),
        _build_quests(sessions),
    )


def list_completed(sessions: Sequence[SessionSummary]) -> list[int]:
    """Return the quests completed in each session after the oldest, oldest first.

    A session without this leaderboard counts together with the one after it.
    """
    totals = [s.quests_completed for s in reversed(sessions) if s.quests_completed is not None]
    # deleted players lower the total, but no session completes less than nothing
    return [max(after - before, 0) for before, after in pairwise(totals)]


def _build_active(sessions: Sequence[SessionSummary], *, active: int, is_today: bool) -> Headline:
    newest = sessions[0]
    when = "today" if is_today else f"on {newest.session_date.day} {newest.session_date:%b}"
    return Headline(
        label=f"Active {when}",
        value=format_count(newest.players),
        note=f"{format_count(active)} seen {'today' if is_today else 'since'}",
        trend=_build_trend([session.players for session in sessions]),
    )


def _build_quests(sessions: Sequence[SessionSummary]) -> Headline:
    completed, total = list_completed(sessions), sessions[0].quests_completed
    return Headline(
        label="Quests completed",
        value=format_count(completed[-1]) if completed else "-",
        note=None if total is None else f"{format_count(total)} in total",
        trend=tuple(float(count) for count in completed),
    )


def _build_count(
    label: str, sessions: Sequence[SessionSummary], get_value: Callable[[SessionSummary], int]
) -> Headline:
    values = [get_value(session) for session in sessions]
    note = None if len(values) < 2 else f"{values[0] - values[1]:+,d}"
    return Headline(label, format_count(values[0]), note, _build_trend(values))


def _build_percent(
    label: str,
    sessions: Sequence[SessionSummary],
    get_value: Callable[[SessionSummary], Decimal | None],
) -> Headline:
    values = [get_value(session) for session in sessions]
    trend = _build_trend([value for value in values if value is not None])
    value = "-" if values[0] is None else format_percent(values[0])
    if len(values) < 2 or values[0] is None or values[1] is None:
        return Headline(label, value, None, trend, is_change=True)
    moved = values[0] - values[1]
    return Headline(label, value, format_points(moved), trend, is_change=not is_zero(moved))


def _build_trend(newest_first: Sequence[Number]) -> tuple[float, ...]:
    return tuple(float(value) for value in reversed(newest_first))


def build_sessions_table(sessions: Sequence[SessionSummary]) -> pd.DataFrame:
    """Return one row per session, in the order given."""
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
    """Return the best and the median return of each session, given newest first."""
    days = [session.session_date.isoformat() for session in reversed(sessions)]
    y_axis = {"title": None, "format": "+,.2~f", "labelExpr": PERCENT_LABEL, "tickCount": 5}
    return {
        "data": {"values": [row for session in reversed(sessions) for row in _list_returns(session)]},
        "height": 280,
        "padding": MARGIN,
        "mark": {"type": "line", "point": {"filled": True, "size": 40}, "strokeWidth": 2},
        "encoding": {
            "x": build_day_axis(days, labels=_LABELS),
            "y": {"field": "value", "type": "quantitative", "axis": y_axis},
            "color": _build_scale([ACCENT, BASELINE]),
            "strokeDash": _build_scale([[1, 0], [6, 4]]),
            "tooltip": [
                {"field": "session", "type": "nominal", "title": "Session"},
                {"field": "series", "type": "nominal", "title": "Return"},
                {"field": "percent", "type": "nominal", "title": "In percent"},
            ],
        },
    }


def _build_scale(values: list[Any]) -> Spec:
    return {
        "field": "series",
        "type": "nominal",
        "scale": {"domain": ["Best", "Median"], "range": values},
        # equal legends of all scales merge into one
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
