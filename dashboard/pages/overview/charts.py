"""The chart of the Overview page: the returns of the last sessions, with marks for market events.

Pure functions that return Vega-Lite dictionaries.
"""

from collections.abc import Sequence
from datetime import date
from typing import Any

from core.records import MarketEvent, SessionSummary
from dashboard.charts import (
    ACCENT,
    BASELINE,
    LEGEND,
    MARGIN,
    PERCENT_LABEL,
    Spec,
    build_day_axis,
    build_event_marks,
)
from dashboard.formats import format_day, format_percent

HEIGHT = 280

_LABELS = 5
_SERIES, _COLOURS = ("Best", "Median"), (ACCENT, BASELINE)


def build_returns_chart(
    sessions: Sequence[SessionSummary], events: Sequence[MarketEvent], *, today: date
) -> Spec:
    """Return the chart of the best and the median return of each session. `sessions` are newest first.

    Lines connect the finished sessions (before `today`). An open session has hollow points without a line. A
    mark at the top stands for the market events of a session's day.
    """
    newest_last = tuple(reversed(sessions))
    finished = [session for session in newest_last if session.session_date < today]
    still_open = newest_last[len(finished) :]
    days = [session.session_date.isoformat() for session in newest_last]
    x = build_day_axis(days, labels=_LABELS)
    lines = _build_layer(
        finished, x, {"type": "line", "point": {"filled": True, "size": 40}, "strokeWidth": 2}
    )
    lines["encoding"]["strokeDash"] = _build_scale([[1, 0], [6, 4]])
    layers = [lines]
    if still_open:
        hollow = {"type": "point", "filled": False, "size": 70, "strokeWidth": 2}
        points = _build_layer(still_open, x, hollow, note=" (so far)")
        # no scale: with its own scale, this layer would add a second legend
        points["encoding"]["color"] = {"field": "colour", "type": "nominal", "scale": None}
        layers.append(points)
    layers += build_event_marks(events, days)
    # independent scales: with shared scales, the event marks would add a second legend
    resolve = {"scale": dict.fromkeys(("color", "shape", "strokeDash"), "independent")}
    return {"height": HEIGHT, "padding": MARGIN, "layer": layers, "resolve": resolve}


def _build_layer(sessions: Sequence[SessionSummary], x: Spec, mark: Spec, *, note: str = "") -> Spec:
    y_axis = {"title": None, "format": "+,.2~f", "labelExpr": PERCENT_LABEL, "tickCount": 5}
    rows = [row for session in sessions for row in _list_returns(session, note)]
    return {
        "data": {"values": rows},
        "mark": mark,
        "encoding": {
            "x": x,
            "y": {"field": "value", "type": "quantitative", "axis": y_axis},
            "color": _build_scale(list(_COLOURS)),
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
        "scale": {"domain": list(_SERIES), "range": values},
        # the same legend for each scale: Vega-Lite merges equal legends into one
        "legend": LEGEND,
    }


def _list_returns(session: SessionSummary, note: str) -> list[Spec]:
    returns = (session.best_return, session.median_return)
    return [
        {
            "day": session.session_date.isoformat(),
            "session": f"{format_day(session.session_date)}{note}",
            "series": series,
            "colour": colour,
            "value": float(value),
            "percent": format_percent(value),
        }
        for series, colour, value in zip(_SERIES, _COLOURS, returns, strict=True)
        if value is not None
    ]
