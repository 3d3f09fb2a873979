"""Parts that charts of several pages share: colours, histograms and the axis of sessions, in Vega-Lite.

Pure functions that return dictionaries: building the objects of a chart library takes the server 5 to 50
times as long. Sessions are next to each other, without gaps for weekends, and are labelled in UTC: the
browser's time zone must not move a session to the day before.
"""

from collections.abc import Sequence
from datetime import UTC
from decimal import Decimal
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np

from core.records import MarketEvent
from dashboard.formats import Unit, format_quantity, format_score

Spec = dict[str, Any]

ACCENT = "#6366f1"
GAIN = "#22a565"
LOSS = "#e5484d"
BASELINE = "#8b93a7"
"""Colours of all charts: accent, and green and red for gain and loss; readable on light and dark themes."""

_AXIS_FORMATS: dict[Unit, str] = {
    "percent": "+,.2~f",
    "currency": "$,.0f",
    "count": ",.0f",
    "number": ",.4~g",
}
_ENCLOSED = ("data", "mark", "encoding", "params", "layer")

HISTOGRAM_BINS = 24
MINIMUM_BINNED = 5
"""Fewest values that are drawn as a distribution; fewer are easier to read in a table."""

HISTOGRAMS_KEPT = 64
"""Size of the cache of drawn histograms, some kilobytes each: visitors often open the same leaderboards."""

DAY_LABELS = 6
MARGIN: Spec = {"top": 8, "right": 24}
"""Room for labels that extend beyond their axis and would be cut off."""

AXIS_PIXELS = 54
"""Minimum width of a value axis: charts above each other get the same left edge."""

EVENT_MARKS = {"POSITIVE": ("triangle-up", GAIN), "NEGATIVE": ("triangle-down", LOSS)}
NEUTRAL_MARK = ("diamond", BASELINE)
"""Shape and colour of a neutral event's mark, and of the mark of a day whose events differ in sentiment."""

EVENTS_NAMED = 3
"""Events of one day that a tooltip names; of the others it gives only the number."""

PERCENT_LABEL = "datum.value === 0 ? '0%' : datum.label + '%'"
"""Labels of an axis of signed percentages: zero has no sign."""


class Bin(msgspec.Struct, frozen=True):
    """The number of values in [low, high)."""

    low: float
    high: float
    players: int


def bin_values(values: Sequence[Decimal]) -> tuple[Bin, ...]:
    """Return bins of equal width over all values; empty if there are too few values or all are equal."""
    scores = np.array([float(value) for value in values])
    if len(scores) < MINIMUM_BINNED or scores.min() == scores.max():
        return ()
    counts, edges = np.histogram(scores, bins=_choose_edges(scores))
    return tuple(
        Bin(low=float(low), high=float(high), players=int(count))
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    )


def _choose_edges(scores: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> list[float]:
    low, high = float(scores.min()), float(scores.max())
    if high - low < HISTOGRAM_BINS and not np.mod(scores, 1).any():
        # whole numbers close together: one bin for each, centred on it
        return [value - 0.5 for value in range(int(low), int(high) + 2)]
    return [float(edge) for edge in np.linspace(low, high, HISTOGRAM_BINS + 1)]


@lru_cache(HISTOGRAMS_KEPT)
def build_histogram(
    bins: tuple[Bin, ...], *, unit: Unit, median: Decimal, before: tuple[Bin, ...] = ()
) -> Spec:
    """Return a distribution with a dashed line at the median.

    `before` is another distribution with bins of the same width, drawn as an outline. The dictionary is
    shared between calls with equal arguments: do not modify it.
    """
    bars: Spec = {
        # the data is inside the layer, for the reason given in `enclose_data`
        "data": {"values": [_bin_row(item, unit) for item in bins]},
        # a rect, because a bar with both edges given is drawn without height in a layer
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
    # without this domain, the axis would end exactly at the top of the highest bar
    bars["encoding"]["y"]["scale"] = {"domain": [0, find_top([*bins, *before])]}
    rule: Spec = {
        "data": {"values": [{}]},
        "mark": {"type": "rule", "color": BASELINE, "strokeDash": [5, 4], "size": 1.5, "aria": False},
        "encoding": {"x": {"datum": float(median), "type": "quantitative"}},
    }
    return {"height": 300, "layer": [bars, rule, *([_outline(before, unit)] if before else [])]}


def enclose_data(spec: Spec) -> Spec:
    """Move a chart's data into a layer, where Streamlit sends it unchanged.

    Streamlit converts data at the top level to pandas and then to Arrow: 1 to 2 ms per chart and run.
    """
    inner = {name: spec[name] for name in _ENCLOSED if name in spec}
    outer = {name: value for name, value in spec.items() if name not in _ENCLOSED}
    return {**outer, "layer": [inner]}


def find_top(bins: Sequence[Bin]) -> int:
    """Return the end of a histogram's axis: a round number that no bin exceeds."""
    most = max(item.players for item in bins)
    step = int(10 ** (len(str(most)) - 1))
    tops = (step * part // 2 for part in range(2, 21) if step * part % 2 == 0)
    return next(top for top in tops if top >= most)


def _outline(bins: Sequence[Bin], unit: Unit) -> Spec:
    # the outline is a step line: it needs one more point, at the right edge of the last bin
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
        # this bin holds a single whole number and is centred on it
        return format_score(item.low + 0.5, unit)
    return f"{format_score(item.low, unit)} to {format_score(item.high, unit)}"


def build_day_axis(days: Sequence[str], *, labels: int = DAY_LABELS) -> Spec:
    """Return an axis with one step for each session; `days` are their ISO dates, oldest first.

    About `labels` of the steps get a label.
    """
    axis = {
        "title": None,
        "grid": False,
        "values": choose_labels(days, count=labels),
        "labelExpr": "utcFormat(toDate(datum.value), '%-d %b %Y')",
        "labelAngle": 0,
        "labelOverlap": True,
        "labelFlush": False,
    }
    return {"field": "day", "type": "ordinal", "scale": {"type": "band"}, "axis": axis}


def choose_labels(days: Sequence[str], *, count: int) -> list[str]:
    """Return at most `count` of the days, at equal distances, including the newest.

    If there are more than three, their number is odd: a narrow chart hides every second label, and the
    newest one must stay visible.
    """
    step = max(1, -(-len(days) // count))
    chosen = list(days[::-1][::step][::-1])
    return chosen[1:] if len(chosen) > 3 and len(chosen) % 2 == 0 else chosen


def build_event_marks(events: Sequence[MarketEvent], days: Sequence[str]) -> list[Spec]:
    """Return the layer that marks the market events above an axis of sessions; none without events.

    `days` are those of `build_day_axis`. A day with several events has one mark, and its tooltip counts them.
    """
    by_day: dict[str, list[MarketEvent]] = {day: [] for day in days}
    for event in events:
        by_day.get(event.created_at.astimezone(UTC).date().isoformat(), []).append(event)
    rows = [_event_row(day, found) for day, found in by_day.items() if found]
    if not rows:
        return []
    mark = {"type": "point", "filled": True, "size": 70, "opacity": 1, "clip": False}
    encoding: Spec = {
        "x": {"field": "day", "type": "ordinal"},
        "y": {"value": 0},
        "shape": {"field": "shape", "type": "nominal", "scale": None},
        "color": {"field": "colour", "type": "nominal", "scale": None},
        "tooltip": [
            {"field": "day", "type": "nominal", "title": "Day"},
            {"field": "events", "type": "nominal", "title": "Events"},
        ],
    }
    return [{"data": {"values": rows}, "mark": mark, "encoding": encoding}]


def _event_row(day: str, events: Sequence[MarketEvent]) -> Spec:
    sentiments = {event.sentiment for event in events}
    marks = {EVENT_MARKS.get(sentiment, NEUTRAL_MARK) for sentiment in sentiments}
    shape, colour = marks.pop() if len(marks) == 1 else NEUTRAL_MARK
    titles = [event.title for event in events[:EVENTS_NAMED]]
    others = len(events) - len(titles)
    names = "; ".join([*titles, format_quantity(others, "other")] if others else titles)
    return {"day": day, "shape": shape, "colour": colour, "events": names}


def _score_axis(unit: Unit) -> Spec:
    axis: Spec = {"title": None, "format": _AXIS_FORMATS[unit], "grid": False}
    axis |= {"tickCount": 5, "labelFlush": False}
    return {**axis, "labelExpr": PERCENT_LABEL} if unit == "percent" else axis


def _count_axis() -> Spec:
    return {"title": None, "format": ",.0f", "tickMinStep": 1, "tickCount": 4}
