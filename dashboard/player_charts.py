"""The charts of one player, as Vega-Lite in plain dictionaries.

Owns how they look, in the manner of `charts`: sessions stand next to each other and are
labelled in UTC. Lines are told apart by their dashes as well as by their colours.
"""

from typing import Any

import pandas as pd

from dashboard.charts import ACCENT, BASELINE, LOSS, STARTING_CASH, Spec, build_day_axis, build_hover_points
from dashboard.formats import format_count, format_day, format_money, format_percent

RIVAL = "#d97706"
BEST = "#0891b2"
LINES = ((ACCENT, [1, 0]), (BASELINE, [6, 4]), (BEST, [2, 2]), (RIVAL, [8, 2]))
"""The player, the market, the best player, the rival: colour and dashes."""

POINTS_DRAWN = 45
"""So many sessions have points of their own; more would be a band without a line."""

_MONEY_AXIS: Spec = {"title": None, "format": "$,.0f", "minExtent": 54}


def build_equity_chart(frame: pd.DataFrame, names: list[str], styles: list[int]) -> Spec:
    """Return equity curves; `styles` are the places in LINES of the names given."""
    rows = [
        {
            "day": row["session"].isoformat(),
            "name": row["name"],
            "value": row["value"],
            "session": format_day(row["session"]),
            "money": format_money(row["value"]),
        }
        for row in frame.to_dict("records")
    ]
    colours, dashes = [LINES[n][0] for n in styles], [LINES[n][1] for n in styles]
    legend = {"orient": "top", "title": None, "labelLimit": 140, "symbolStrokeWidth": 2, "columns": 2}
    legend |= {"symbolType": "stroke", "symbolSize": 300, "symbolFillColor": "transparent"}
    lines: Spec = {
        "mark": {"type": "line", "strokeWidth": 2, "point": frame["session"].nunique() < 3},
        "encoding": {
            "x": _day_scale(frame),
            "y": {
                "field": "value",
                "type": "quantitative",
                "scale": {"zero": False, "nice": True},
                "axis": {**_MONEY_AXIS, "tickCount": 5},
            },
            "color": {
                "field": "name",
                "type": "nominal",
                "scale": {"domain": names, "range": colours},
                "legend": legend,
            },
            "strokeDash": {
                "field": "name",
                "type": "nominal",
                "scale": {"domain": names, "range": dashes},
                "legend": legend,
            },
            "tooltip": _tooltips(name="Curve", session="Session", money="Equity"),
        },
    }
    rule: Spec = {
        "data": {"values": [{}]},
        "mark": {"type": "rule", "color": BASELINE, "opacity": 0.6, "size": 1, "aria": False},
        "encoding": {"y": {"datum": STARTING_CASH, "type": "quantitative"}},
    }
    encoding = lines["encoding"]
    points = build_hover_points("value", tooltip=encoding["tooltip"], name="equity")
    points["encoding"] |= {"x": encoding["x"], "color": encoding["color"]}
    return {"data": {"values": rows}, "height": 300, "layer": [rule, lines, points]}


def build_drawdown_chart(frame: pd.DataFrame) -> Spec:
    """Return how far the equity is below its peak, as an area hanging from zero."""
    rows = [
        {
            "day": row["session"].isoformat(),
            "drawdown": row["drawdown"],
            "session": format_day(row["session"]),
            "percent": format_percent(row["drawdown"]),
        }
        for row in frame.to_dict("records")
    ]
    axis = {
        "title": None,
        "format": ",.2~f",
        "labelExpr": "datum.label + '%'",
        "tickCount": 3,
        "minExtent": 54,
    }
    area: Spec = {
        "mark": {"type": "area", "color": LOSS, "opacity": 0.35, "line": {"color": LOSS, "strokeWidth": 1.5}},
        "encoding": {"y": {"field": "drawdown", "type": "quantitative", "axis": axis}},
    }
    tooltip = _tooltips(session="Session", percent="Below the peak")
    points = build_hover_points("drawdown", tooltip=tooltip, name="fall")
    points["mark"]["color"] = LOSS
    days = {"x": _day_scale(frame)}
    return {"data": {"values": rows}, "height": 110, "encoding": days, "layer": [area, points]}


def build_holdings_chart(frame: pd.DataFrame) -> Spec:
    """Return cash and what is invested at the close of each session, stacked."""
    rows = [
        {
            "day": row["session"].isoformat(),
            "part": row["part"],
            "value": row["value"],
            "session": format_day(row["session"]),
            "money": format_money(row["value"]),
        }
        for row in frame.to_dict("records")
    ]
    return {
        "data": {"values": rows},
        "height": 170,
        "mark": {"type": "bar"},
        "encoding": {
            "x": _day_scale(frame),
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
            "tooltip": _tooltips(session="Session", part="Part", money="Value"),
        },
    }


def build_rank_chart(frame: pd.DataFrame) -> Spec:
    """Return the rank in each session, the first rank at the top."""
    rows = [
        {
            "day": row["session"].isoformat(),
            "rank": row["rank"],
            "session": format_day(row["session"]),
            "place": f"#{format_count(row['rank'])}",
        }
        for row in frame.to_dict("records")
    ]
    return {
        "data": {"values": rows},
        "height": 170,
        "mark": {
            "type": "line",
            "color": ACCENT,
            "strokeWidth": 2,
            "point": {"size": 24, "fill": ACCENT, "stroke": ACCENT} if len(rows) <= POINTS_DRAWN else False,
        },
        "encoding": {
            "x": _day_scale(frame),
            "y": {
                "field": "rank",
                "type": "quantitative",
                "scale": {"reverse": True, "zero": False, "domainMin": 1},
                "axis": {"title": None, "format": ",.0f", "tickMinStep": 1, "tickCount": 4, "minExtent": 54},
            },
            "tooltip": _tooltips(session="Session", place="Rank"),
        },
    }


def _day_scale(frame: pd.DataFrame) -> Spec:
    days = sorted({day.isoformat() for day in frame["session"]})
    return build_day_axis(days)


def _tooltips(**titles: str) -> list[dict[str, Any]]:
    return [{"field": field, "type": "nominal", "title": title} for field, title in titles.items()]
