"""Chart specifications in Vega-Lite, as plain dictionaries.

Owns how a chart looks; pure functions from figures to a dictionary that never touch
Streamlit. Dictionaries, because a chart library's objects cost 5 to 50 times the
server's time. Sessions stand next to each other, without gaps for weekends, and are
labelled in UTC: a browser's time zone must not move one to the day before.
"""

from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any

import pandas as pd

from dashboard.formats import (
    Unit,
    format_day,
    format_money,
    format_percent,
    format_score,
    format_signed_money,
)
from dashboard.frames import Bin

Spec = dict[str, Any]

ACCENT = "#6366f1"
GAIN = "#22a565"
LOSS = "#e5484d"
BASELINE = "#8b93a7"
"""One accent, and green and red for gain and loss only; readable on light and on dark."""

STARTING_CASH = 10_000

FEW_SESSIONS = 3
"""So few sessions make no visible line: they are drawn as points too."""

_AXIS_FORMATS: dict[Unit, str] = {
    "percent": "+,.2~f",
    "currency": "$,.0f",
    "count": ",.0f",
    "number": ",.4~g",
}
_ENCLOSED = ("data", "mark", "encoding", "params", "layer")
_DAY_LABELS = 6
HISTOGRAMS_KEPT = 64
"""Histograms drawn lately: those of the boards that many look at, some kilobytes each."""

MARGIN: Spec = {"top": 8, "right": 24}
"""Room for labels that reach over the ends of their axis, without which they are cut off."""

PERCENT_LABEL = "datum.value === 0 ? '0%' : datum.label + '%'"
"""How an axis of percentages with signs is labelled: zero has none."""

_MONEY_AXIS: Spec = {"title": None, "format": "$,.0f", "minExtent": 54}
"""`minExtent` gives charts below each other the same left edge."""


@lru_cache(HISTOGRAMS_KEPT)
def build_histogram(
    bins: tuple[Bin, ...], *, unit: Unit, median: Decimal, before: tuple[Bin, ...] = ()
) -> Spec:
    """Return the distribution of a board's scores with a rule at the median.

    `before` is another distribution in bins of the same width, drawn as an outline. Who asks for
    the same again gets the same dictionary: it is for showing and not for changing.
    """
    bars: Spec = {
        # in the layer: what stands at the top, Streamlit turns into pandas and Arrow on each run
        "data": {"values": [_bin_row(item, unit) for item in bins]},
        # not a bar: with both edges given, a bar in a layer is drawn without a height
        "mark": {"type": "rect", "color": ACCENT, "x2Offset": -1.5, "cornerRadius": 2},
        "encoding": {
            "x": {
                "field": "low",
                "type": "quantitative",
                "axis": _score_axis(unit),
                "scale": {"zero": False},
            },
            "x2": {"field": "high"},
            "y": {"field": "players", "type": "quantitative", "axis": _count_axis()},
            "y2": {"datum": 0},
            "tooltip": [
                {"field": "range", "type": "nominal", "title": "Score"},
                {"field": "players", "type": "quantitative", "title": "Players"},
            ],
        },
    }
    # with bounds given by two fields, an axis ends at the highest bar
    bars["encoding"]["y"]["scale"] = {"domain": [0, find_top([*bins, *before])]}
    rule: Spec = {
        "data": {"values": [{}]},
        "mark": {"type": "rule", "color": BASELINE, "strokeDash": [5, 4], "size": 1.5, "aria": False},
        "encoding": {"x": {"datum": float(median), "type": "quantitative"}},
    }
    return {"height": 300, "layer": [bars, rule, *([_outline(before, unit)] if before else [])]}


def enclose_data(spec: Spec) -> Spec:
    """Return the chart with its data inside of a layer, where Streamlit sends it as it is.

    Data at the top it turns into a pandas frame and that into Arrow, in each run: 1 to 2 ms a chart.
    """
    inner = {name: spec[name] for name in _ENCLOSED if name in spec}
    outer = {name: value for name, value in spec.items() if name not in _ENCLOSED}
    return {**outer, "layer": [inner]}


def find_top(bins: Sequence[Bin]) -> int:
    """Return where the axis of a histogram ends: a round number, no bin above it."""
    most = max(item.players for item in bins)
    step = int(10 ** (len(str(most)) - 1))
    tops = (step * part // 2 for part in range(2, 21) if step * part % 2 == 0)
    return next(top for top in tops if top >= most)


def _outline(bins: Sequence[Bin], unit: Unit) -> Spec:
    # a step ends where its last bin does only when there is a point at that edge
    rows = [*(_bin_row(item, unit) for item in bins), {"low": bins[-1].high, "players": 0}]
    return {
        "data": {"values": rows},
        "mark": {"type": "line", "interpolate": "step-after", "color": BASELINE, "strokeWidth": 1.5},
        "encoding": {
            "x": {"field": "low", "type": "quantitative"},
            "y": {"field": "players", "type": "quantitative"},
        },
    }


def _bin_row(item: Bin, unit: Unit) -> Spec:
    return {
        "low": item.low,
        "high": item.high,
        "players": item.players,
        "range": _describe_range(item, unit),
    }


def _describe_range(item: Bin, unit: Unit) -> str:
    if unit == "count" and item.high - item.low == 1:
        # the bin of one whole number reaches from a half below it to a half above
        return format_score(item.low + 0.5, unit)
    return f"{format_score(item.low, unit)} to {format_score(item.high, unit)}"


def build_change_chart(frame: pd.DataFrame) -> Spec:
    """Return the change of each session as bars, green for a gain and red for a loss."""
    colour = {"condition": {"test": "datum.change < 0", "value": LOSS}, "value": GAIN}
    return {
        "data": {"values": _day_rows(frame)},
        "height": 130,
        "mark": {"type": "bar", "cornerRadiusEnd": 1},
        "encoding": {
            "x": _day_scale(frame),
            "y": {
                "field": "change",
                "type": "quantitative",
                "axis": {**_MONEY_AXIS, "tickCount": 3},
            },
            "color": colour,
            "tooltip": _day_tooltips(),
        },
    }


def build_hover_points(y: str, *, tooltip: list[Spec], name: str) -> Spec:
    """Return points on lines or an area that show where the pointer is, each with its tooltip.

    A line or an area by itself is one mark, and a tooltip of it tells its first point only.
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
        # not filled: a legend would get the shape of a point instead of a line's dashes
        "mark": {"type": "point", "filled": False, "size": 60, "strokeWidth": 3, "aria": False},
        "encoding": {
            "y": {"field": y, "type": "quantitative"},
            "opacity": {"condition": {"param": name, "value": 1, "empty": False}, "value": 0},
            "tooltip": tooltip,
        },
    }


def _day_rows(frame: pd.DataFrame) -> list[Spec]:
    return [
        {
            "day": row["session"].isoformat(),
            "value": row["value"],
            "change": row["change"],
            "session": format_day(row["session"]),
            "money": format_money(row["value"]),
            "moved": f"{format_signed_money(row['change'])} ({format_percent(row['change_percent'])})",
        }
        for row in frame.to_dict("records")
    ]


def _day_scale(frame: pd.DataFrame) -> Spec:
    return build_day_axis([day.isoformat() for day in frame["session"]])


def build_day_axis(days: Sequence[str]) -> Spec:
    """Return the scale of sessions, given as ISO dates in order, with a label for some."""
    axis = {
        "title": None,
        "grid": False,
        "values": choose_labels(days, count=_DAY_LABELS),
        "labelExpr": "utcFormat(toDate(datum.value), '%-d %b %Y')",
        "labelAngle": 0,
        "labelOverlap": True,
        "labelFlush": False,
    }
    return {"field": "day", "type": "ordinal", "scale": {"type": "band"}, "axis": axis}


def choose_labels(days: Sequence[str], *, count: int) -> list[str]:
    """Return at most so many of the days, evenly apart, the newest always among them.

    Their number is odd from four on: where they overlap, every other one is left out, and the
    newest stays.
    """
    step = max(1, -(-len(days) // count))
    chosen = list(days[::-1][::step][::-1])
    return chosen[1:] if len(chosen) > 3 and len(chosen) % 2 == 0 else chosen


def _day_tooltips() -> list[Spec]:
    return [
        {"field": "session", "type": "nominal", "title": "Session"},
        {"field": "money", "type": "nominal", "title": "Value"},
        {"field": "moved", "type": "nominal", "title": "Day change"},
    ]


def _score_axis(unit: Unit) -> Spec:
    axis: Spec = {"title": None, "format": _AXIS_FORMATS[unit], "grid": False}
    axis |= {"tickCount": 5, "labelFlush": False}
    return {**axis, "labelExpr": PERCENT_LABEL} if unit == "percent" else axis


def _count_axis() -> Spec:
    return {"title": None, "format": ",.0f", "tickMinStep": 1, "tickCount": 4}
