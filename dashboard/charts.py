"""Chart code that several pages share: colours, histograms, the axis of sessions, the marks of market events.

Pure functions that return Vega-Lite dictionaries. The server builds them without a chart library, which would
need 5 to 50 times longer. The axis of sessions has no gaps for weekends. Its labels are in UTC. In the
browser's time zone, a session could get the date of the previous day.
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
"""Colours of all charts, readable on the light and the dark theme.

ACCENT is the main colour, GAIN is green, and LOSS is red. BASELINE is grey, for medians, averages and neutral
events.
"""

_AXIS_FORMATS: dict[Unit, str] = {
    "percent": "+,.2~f",
    "currency": "$,.0f",
    "count": ",.0f",
    "number": ",.4~g",
}
_ENCLOSED = ("data", "mark", "encoding", "params", "layer")

HISTOGRAM_BINS = 24
MIN_BINNED = 5
"""A histogram needs at least this many values: fewer values are easier to read in a table."""

HISTOGRAM_CACHE_SIZE = 64
"""Maximum number of histograms in the cache.

Each has some kilobytes, and visitors often open the same ones.
"""

DAY_LABELS = 6
MARGIN: Spec = {"top": 8, "right": 24}
"""Empty pixels around a chart: labels that extend beyond their axis need this space."""

AXIS_PIXELS = 54
"""Minimum width of a value axis, so that charts below each other begin at the same left edge."""

LEGEND: Spec = {"title": None, "orient": "top", "symbolType": "stroke"}
"""Legend of a line chart, shown above the chart."""

EVENT_MARKS = {"POSITIVE": ("triangle-up", GAIN), "NEGATIVE": ("triangle-down", LOSS)}
NEUTRAL_MARK = ("diamond", BASELINE)
"""Shape and colour of the mark for a neutral event, and for a day with events of different sentiments."""

EVENTS_NAMED = 3
"""Maximum number of a day's events that a tooltip names.

Of the other events, it shows only how many there are.
"""

PERCENT_LABEL = "datum.value === 0 ? '0%' : datum.label + '%'"
"""Vega expression for the labels of an axis of signed percentages: it writes zero without a sign."""


class Bin(msgspec.Struct, frozen=True):
    """One bar of a histogram: the number of players whose value is in [low, high)."""

    low: float
    high: float
    players: int


def bin_values(values: Sequence[Decimal]) -> tuple[Bin, ...]:
    """Return bins of equal width that cover all values.

    The result is empty if there are fewer than MIN_BINNED values, or if all values are equal.
    """
    scores = np.array([float(value) for value in values])
    if len(scores) < MIN_BINNED or scores.min() == scores.max():
        return ()
    counts, edges = np.histogram(scores, bins=_choose_edges(scores))
    return tuple(
        Bin(low=float(low), high=float(high), players=int(count))
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    )


def _choose_edges(scores: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> list[float]:
    low, high = float(scores.min()), float(scores.max())
    if high - low < HISTOGRAM_BINS and not np.mod(scores, 1).any():
        # all values are whole numbers in a small range: each number gets a bin with the number in its middle
        return [value - 0.5 for value in range(int(low), int(high) + 2)]
    return [float(edge) for edge in np.linspace(low, high, HISTOGRAM_BINS + 1)]


@lru_cache(HISTOGRAM_CACHE_SIZE)
def build_histogram(
    bins: tuple[Bin, ...], *, unit: Unit, median: Decimal, before: tuple[Bin, ...] = ()
) -> Spec:
    """Return a histogram of the bins, with a dashed line at the median.

    `before` are the bins of a second distribution, which is drawn as an outline. They must have the same
    width as `bins`. Calls with equal arguments return the same dictionary: do not modify it.
    """
    bars: Spec = {
        # each layer has its own data, so that Streamlit sends it unchanged; see `enclose_data`
        "data": {"values": [_bin_row(item, unit) for item in bins]},
        # rect, not bar: in a layered chart, Vega-Lite draws bars that have `x` and `x2` with a height of 0
        "mark": {"type": "rect", "color": ACCENT, "x2Offset": -1.5, "cornerRadius": 2},
        "encoding": {
            "x": {
                "field": "low",
                "type": "quantitative",
                "axis": _score_axis(unit),
                "scale": {"zero": False},
            },
            "x2": {"field": "high"},
            "y": {"field": "players", "type": "quantitative", "axis": build_count_axis()},
            "y2": {"datum": 0},
            "tooltip": [
                {"field": "range", "type": "nominal", "title": "Score"},
                {"field": "players", "type": "quantitative", "title": "Players"},
            ],
        },
    }
    # without this domain, the axis would end at the top of the highest bar
    bars["encoding"]["y"]["scale"] = {"domain": [0, find_top([*bins, *before])]}
    rule: Spec = {
        "data": {"values": [{}]},
        "mark": {"type": "rule", "color": BASELINE, "strokeDash": [5, 4], "size": 1.5, "aria": False},
        "encoding": {"x": {"datum": float(median), "type": "quantitative"}},
    }
    return {"height": 300, "layer": [bars, rule, *([_outline(before, unit)] if before else [])]}


def enclose_data(spec: Spec) -> Spec:
    """Return the same chart with its data inside a layer, so that Streamlit sends the data unchanged.

    Streamlit converts data at the top level to pandas and then to Arrow. That takes 1 to 2 ms per chart and
    run.
    """
    inner = {name: spec[name] for name in _ENCLOSED if name in spec}
    outer = {name: value for name, value in spec.items() if name not in _ENCLOSED}
    return {**outer, "layer": [inner]}


def find_top(bins: Sequence[Bin]) -> int:
    """Return a round number at which a histogram's axis of players ends. No bin has more players."""
    highest = max(item.players for item in bins)
    step = int(10 ** (len(str(highest)) - 1))
    tops = (step * part // 2 for part in range(2, 21) if step * part % 2 == 0)
    return next(top for top in tops if top >= highest)


def _outline(bins: Sequence[Bin], unit: Unit) -> Spec:
    # the outline is a step line, so it needs an extra point at the right edge of the last bin
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
        # the bin holds only the whole number in its middle
        return format_score(item.low + 0.5, unit)
    return f"{format_score(item.low, unit)} to {format_score(item.high, unit)}"


def build_day_axis(days: Sequence[str], *, labels: int = DAY_LABELS) -> Spec:
    """Return the x axis of a chart by session. `days` are the ISO dates of the sessions, oldest first.

    All sessions are equally far apart. At most `labels` of them get a label.
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
    """Return at most `count` of the days, equally spaced, always with the newest day.

    If it returns more than three days, their number is odd. A narrow chart hides every second label, and with
    an odd number the label of the newest day is not hidden.
    """
    step = max(1, -(-len(days) // count))
    chosen = list(days[::-1][::step][::-1])
    return chosen[1:] if len(chosen) > 3 and len(chosen) % 2 == 0 else chosen


def build_event_marks(events: Sequence[MarketEvent], days: Sequence[str]) -> list[Spec]:
    """Return a list with one chart layer, which marks market events at the top. Without events, it is empty.

    `days` are the days given to `build_day_axis`. A day with several events has one mark. Its tooltip names
    the first EVENTS_NAMED events and counts the others.
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


def build_count_axis() -> Spec:
    """Return a value axis without a title for whole numbers."""
    return {"title": None, "format": ",.0f", "tickMinStep": 1, "tickCount": 4}
