"""The charts of the portfolios page, as Vega-Lite in plain dictionaries.

Each chart is kept as long as its records are equal, because a page draws the same player repeatedly.
The dictionaries are shared: do not modify them. Lines differ in dashes as well as in colour.
"""

from collections.abc import Iterable, Sequence
from datetime import date
from decimal import Decimal
from functools import lru_cache
from statistics import median
from typing import Any, NamedTuple

from core.records import PlayerScore, Portfolio
from dashboard.charts import (
    ACCENT,
    AXIS_PIXELS,
    BASELINE,
    GAIN,
    LOSS,
    Spec,
    bin_values,
    build_day_axis,
    build_histogram,
    enclose_data,
)
from dashboard.formats import format_count, format_day, format_money, format_percent, format_signed_money
from dashboard.pages.portfolios.tables import PLAYERS_KEPT, STARTING_CASH, Curve, list_drawdowns

RIVAL = "#d97706"
BEST = "#0891b2"
LINES = ((ACCENT, [1, 0]), (BASELINE, [6, 4]), (BEST, [2, 2]), (RIVAL, [8, 2]))
"""Colour and dashes of the player, the market, the best player and the rival."""

RANK_POINTS = 45
"""Up to this many sessions each rank has a point; more points would hide the line."""

CHANGES_PIXELS = 150

_MONEY_AXIS: Spec = {"title": None, "format": "$,.0f", "minExtent": AXIS_PIXELS}


class Distribution(NamedTuple):
    """The histogram of day changes and their median."""

    chart: Spec
    median: Decimal


@lru_cache(PLAYERS_KEPT)
def build_equity_chart(curves: tuple[Curve, ...], styles: tuple[int, ...]) -> Spec:
    """Return the equity curves; `styles` are their places in `LINES`."""
    rows = [
        {
            **_describe_day(day),
            "name": curve.name,
            "value": float(value),
            "money": format_money(value),
        }
        for curve in curves
        for day, value in zip(curve.days, curve.equity, strict=True)
    ]
    days = {day for curve in curves for day in curve.days}
    names = [curve.name for curve in curves]
    legend = {"orient": "top", "title": None, "labelLimit": 140, "symbolStrokeWidth": 2, "columns": 2}
    legend |= {"symbolType": "stroke", "symbolSize": 300, "symbolFillColor": "transparent"}

    def scale(values: list[Any]) -> Spec:
        scale = {"domain": names, "range": values}
        return {"field": "name", "type": "nominal", "scale": scale, "legend": legend}

    encoding: Spec = {
        "x": _build_days(days),
        "y": {
            "field": "value",
            "type": "quantitative",
            "scale": {"zero": False, "nice": True},
            "axis": {**_MONEY_AXIS, "tickCount": 5},
        },
        "color": scale([LINES[style][0] for style in styles]),
        "strokeDash": scale([LINES[style][1] for style in styles]),
        "tooltip": _build_tooltips(name="Curve", session="Session", money="Equity"),
    }
    lines: Spec = {
        # one or two sessions make no visible line
        "mark": {"type": "line", "strokeWidth": 2, "point": len(days) < 3},
        "encoding": encoding,
    }
    start: Spec = {
        "data": {"values": [{}]},
        "mark": {"type": "rule", "color": BASELINE, "opacity": 0.6, "size": 1, "aria": False},
        "encoding": {"y": {"datum": float(STARTING_CASH), "type": "quantitative"}},
    }
    points = _build_hover_points("value", tooltip=encoding["tooltip"], name="equity")
    points["encoding"] |= {"x": encoding["x"], "color": encoding["color"]}
    return enclose_data({"data": {"values": rows}, "height": 300, "layer": [start, lines, points]})


@lru_cache(PLAYERS_KEPT)
def build_drawdown_chart(curve: Curve) -> Spec:
    """Return the drawdown as an area that hangs from zero."""
    rows = [
        {
            **_describe_day(drawdown.day),
            "drawdown": float(drawdown.percent),
            "percent": format_percent(drawdown.percent),
        }
        for drawdown in list_drawdowns(curve)
    ]
    axis: Spec = {"title": None, "format": ",.2~f", "labelExpr": "datum.label + '%'"}
    axis |= {"tickCount": 3, "minExtent": AXIS_PIXELS}
    area: Spec = {
        "mark": {"type": "area", "color": LOSS, "opacity": 0.35, "line": {"color": LOSS, "strokeWidth": 1.5}},
        "encoding": {"y": {"field": "drawdown", "type": "quantitative", "axis": axis}},
    }
    tooltip = _build_tooltips(session="Session", percent="Below the peak")
    points = _build_hover_points("drawdown", tooltip=tooltip, name="fall")
    points["mark"]["color"] = LOSS
    encoding = {"x": _build_days(curve.days)}
    return enclose_data(
        {"data": {"values": rows}, "height": 110, "encoding": encoding, "layer": [area, points]}
    )


@lru_cache(PLAYERS_KEPT)
def build_changes_chart(history: tuple[Portfolio, ...]) -> Spec:
    """Return the day changes as bars, green for gain and red for loss; the history is newest first."""
    rows = [
        {
            **_describe_day(row.session_date),
            "change": float(row.day_change),
            "money": format_money(row.total_value),
            "moved": f"{format_signed_money(row.day_change)} ({format_percent(row.day_change_percent)})",
        }
        for row in reversed(history)
    ]
    return enclose_data(
        {
            "data": {"values": rows},
            "height": 130,
            "mark": {"type": "bar", "cornerRadiusEnd": 1},
            "encoding": {
                "x": _build_days(row.session_date for row in history),
                "y": {
                    "field": "change",
                    "type": "quantitative",
                    "axis": {**_MONEY_AXIS, "tickCount": 3},
                },
                "color": {"condition": {"test": "datum.change < 0", "value": LOSS}, "value": GAIN},
                "tooltip": _build_tooltips(session="Session", money="Value", moved="Day change"),
            },
        }
    )


@lru_cache(PLAYERS_KEPT)
def build_distribution(history: tuple[Portfolio, ...]) -> Distribution | None:
    """Return the distribution of day changes; None when there is none to show."""
    changes = [row.day_change for row in history]
    bins = bin_values(changes)
    if not bins:
        return None
    middle = median(changes)
    chart = build_histogram(bins, unit="currency", median=middle)
    return Distribution({**chart, "height": CHANGES_PIXELS}, middle)


@lru_cache(PLAYERS_KEPT)
def build_holdings_chart(history: tuple[Portfolio, ...]) -> Spec:
    """Return cash and invested value at the close of each session, stacked; the history is newest first."""
    rows = [
        {
            **_describe_day(row.session_date),
            "part": part,
            "value": float(value),
            "money": format_money(value),
        }
        for row in reversed(history)
        for part, value in (("Cash", row.current_cash), ("Invested", row.total_value - row.current_cash))
    ]
    return enclose_data(
        {
            "data": {"values": rows},
            "height": 170,
            "mark": {"type": "bar"},
            "encoding": {
                "x": _build_days(row.session_date for row in history),
                "y": {
                    "field": "value",
                    "type": "quantitative",
                    "axis": {**_MONEY_AXIS, "minExtent": 64, "tickCount": 4},
                },
                "color": {
                    "field": "part",
                    "type": "nominal",
                    "scale": {"domain": ["Cash", "Invested"], "range": [BASELINE, ACCENT]},
                    "legend": {"orient": "top", "title": None},
                },
                "tooltip": _build_tooltips(session="Session", part="Part", money="Value"),
            },
        }
    )


@lru_cache(PLAYERS_KEPT)
def build_rank_chart(scores: tuple[PlayerScore, ...]) -> Spec:
    """Return the rank in each session, rank 1 at the top."""
    rows = [
        {
            **_describe_day(row.session_date),
            "rank": row.rank,
            "place": None if row.rank is None else f"#{format_count(row.rank)}",
        }
        for row in scores
    ]
    point = {"size": 24, "fill": ACCENT, "stroke": ACCENT} if len(rows) <= RANK_POINTS else False
    axis = {"title": None, "format": ",.0f", "tickMinStep": 1, "tickCount": 4, "minExtent": AXIS_PIXELS}
    return enclose_data(
        {
            "data": {"values": rows},
            "height": 170,
            "mark": {"type": "line", "color": ACCENT, "strokeWidth": 2, "point": point},
            "encoding": {
                "x": _build_days(row.session_date for row in scores),
                "y": {
                    "field": "rank",
                    "type": "quantitative",
                    "scale": {"reverse": True, "zero": False, "domainMin": 1},
                    "axis": axis,
                },
                "tooltip": _build_tooltips(session="Session", place="Rank"),
            },
        }
    )


def _describe_day(day: date) -> Spec:
    return {"day": day.isoformat(), "session": format_day(day)}


def _build_days(days: Iterable[date]) -> Spec:
    return build_day_axis(sorted({day.isoformat() for day in days}))


def _build_tooltips(**titles: str) -> list[Spec]:
    return [{"field": field, "type": "nominal", "title": title} for field, title in titles.items()]


def _build_hover_points(y: str, *, tooltip: Sequence[Spec], name: str) -> Spec:
    """Return points that show the session under the pointer, each with its tooltip.

    A line or an area is a single mark, whose tooltip would always show its first session.
    """
    nearest = {
        "type": "point",
        "on": "pointerover",
        "nearest": True,
        "encodings": ["x"],
        "clear": "pointerout",
    }
    return {
        "params": [{"name": name, "select": nearest}],
        # not filled, or the legend would show points instead of dashed lines
        "mark": {"type": "point", "filled": False, "size": 60, "strokeWidth": 3, "aria": False},
        "encoding": {
            "y": {"field": y, "type": "quantitative"},
            "opacity": {"condition": {"param": name, "value": 1, "empty": False}, "value": 0},
            "tooltip": tooltip,
        },
    }
