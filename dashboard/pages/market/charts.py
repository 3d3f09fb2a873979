"""The charts of a symbol's candles and volume, as Vega-Lite dictionaries.

The time axis is linear, and its labels are in UTC. All candles of a chart have the same width. Times without
a price, such as nights and weekends, are gaps.
"""

from bisect import bisect_right
from collections.abc import Sequence
from datetime import datetime, timedelta

from core.records import Candle, MarketEvent
from dashboard.charts import ACCENT, AXIS_PIXELS, EVENT_MARKS, GAIN, LOSS, MARGIN, NEUTRAL_MARK, Spec
from dashboard.formats import count_price_places, format_count, format_key, format_minute, format_price
from dashboard.pages.market.data import Range, Window

_LABELS = 5

_FALLEN = {"test": "datum.close < datum.open", "value": LOSS}


def build_candle_chart(
    candles: Sequence[Candle], events: Sequence[MarketEvent], *, window: Window, chosen: Range
) -> Spec:
    """Return the chart of candles with a mark above the candle of each event. A falling candle is red."""
    y = {"type": "quantitative", "scale": {"zero": False}, "axis": _price_axis(candles)}
    colour = {"condition": _FALLEN, "value": GAIN}
    x = _time_scale(candles, window, chosen)
    wick: Spec = {
        "mark": {"type": "rule", "size": 1, "aria": False},
        "encoding": {
            "x": {"field": "middle", **x},
            "y": {"field": "low", **y},
            "y2": {"field": "high"},
            "color": colour,
        },
    }
    body: Spec = {
        # the outline makes a candle visible whose open and close are equal: its body has no height
        "mark": {"type": "rect", "x2Offset": -1, "strokeWidth": 1.5},
        "encoding": {
            "x": {"field": "begin", **x},
            "x2": {"field": "stop"},
            "y": {"field": "open", **y},
            "y2": {"field": "close"},
            "color": colour,
            "stroke": colour,
            "tooltip": _candle_tooltips(),
        },
    }
    rows = [_candle_row(candle, chosen.width) for candle in candles]
    layers = [wick, body, *_mark_layers(candles, events, x)]
    return {"data": {"values": rows}, "height": 320, "padding": MARGIN, "layer": layers}


def build_volume_chart(candles: Sequence[Candle], *, window: Window, chosen: Range) -> Spec:
    """Return the chart of the volume of each candle."""
    return {
        "data": {"values": [_candle_row(candle, chosen.width) for candle in candles]},
        "height": 100,
        "padding": MARGIN,
        "mark": {"type": "rect", "color": ACCENT, "x2Offset": -1, "stroke": ACCENT, "strokeWidth": 0.8},
        "encoding": {
            "x": {"field": "begin", **_time_scale(candles, window, chosen)},
            "x2": {"field": "stop"},
            "y": {"field": "volume", "type": "quantitative", "axis": _volume_axis()},
            "y2": {"datum": 0},
            "tooltip": _candle_tooltips(),
        },
    }


def _mark_layers(candles: Sequence[Candle], events: Sequence[MarketEvent], x: Spec) -> list[Spec]:
    if not candles or not events:
        return []
    begins = [candle.bucket for candle in candles]
    places = (max(bisect_right(begins, event.created_at) - 1, 0) for event in events)
    rows = [_mark_row(event, candles[place]) for event, place in zip(events, places, strict=True)]
    return [
        {
            "data": {"values": rows},
            "mark": {"type": "point", "filled": True, "size": 90, "yOffset": -12, "opacity": 1},
            "encoding": {
                "x": {"field": "time", **x},
                "y": {"field": "high", "type": "quantitative"},
                "shape": {"field": "shape", "type": "nominal", "scale": None},
                "color": {"field": "colour", "type": "nominal", "scale": None},
                "tooltip": [
                    {"field": "title", "type": "nominal", "title": "Event"},
                    {"field": "when", "type": "nominal", "title": "Time"},
                    {"field": "kind", "type": "nominal", "title": "Kind"},
                ],
            },
        }
    ]


def _mark_row(event: MarketEvent, candle: Candle) -> Spec:
    shape, colour = EVENT_MARKS.get(event.sentiment, NEUTRAL_MARK)
    return {
        "time": _milliseconds(event.created_at),
        "high": float(candle.high),
        "shape": shape,
        "colour": colour,
        "title": event.title,
        "when": format_minute(event.created_at),
        "kind": f"{format_key(event.type)}, {event.sentiment.lower()}",
    }


def _candle_row(candle: Candle, width: timedelta) -> Spec:
    return {
        "begin": _milliseconds(candle.bucket),
        "middle": _milliseconds(candle.bucket + width / 2),
        "stop": _milliseconds(candle.bucket + width),
        "open": float(candle.open),
        "high": float(candle.high),
        "low": float(candle.low),
        "close": float(candle.close),
        "volume": candle.volume,
        "when": format_minute(candle.bucket),
        "move": f"{format_price(candle.open)} to {format_price(candle.close)}",
        "span": f"{format_price(candle.low)} to {format_price(candle.high)}",
        "traded": format_count(candle.volume),
    }


def _candle_tooltips() -> list[Spec]:
    return [
        {"field": "when", "type": "nominal", "title": "From"},
        {"field": "move", "type": "nominal", "title": "Open to close"},
        {"field": "span", "type": "nominal", "title": "Low to high"},
        {"field": "traded", "type": "nominal", "title": "Volume"},
    ]


def _time_scale(candles: Sequence[Candle], window: Window, chosen: Range) -> Spec:
    lines = ", ".join(f"utcFormat(datum.value, '{line}')" for line in chosen.labels)
    axis = {
        "title": None,
        "grid": False,
        "tickCount": _LABELS,
        "labelExpr": f"[{lines}]",
        "labelAngle": 0,
        "labelOverlap": True,
        "labelFlush": False,
        "ticks": False,
    }
    # the axis shows the first and the last candle in full, even if the window begins or ends inside them
    start = min([window.start, *(candle.bucket for candle in candles[:1])])
    domain = [_milliseconds(start), _milliseconds(window.end + chosen.width)]
    scale = {"type": "utc", "domain": domain, "nice": False}
    return {"type": "temporal", "scale": scale, "axis": axis}


def _milliseconds(time: datetime) -> float:
    # charts get times as numbers: the browser would have to parse times that are text
    return time.timestamp() * 1000


def _volume_axis() -> Spec:
    # `~s` chooses the prefix of each label, so that zero is `0` and not `0M`; a billion is `B`, not `G`
    label = "replace(format(datum.value, '~s'), 'G', 'B')"
    return {"title": None, "labelExpr": label, "tickCount": 3, "minExtent": AXIS_PIXELS}


def _price_axis(candles: Sequence[Candle]) -> Spec:
    places = count_price_places(candle.low for candle in candles)
    return {"title": None, "format": f"$,.{places}f", "tickCount": 5, "minExtent": AXIS_PIXELS}
