"""The charts of a symbol's candles and volume, as Vega-Lite in plain dictionaries.

Candles are next to each other, without gaps for nights and weekends, and are labelled in UTC.
"""

from bisect import bisect_right
from collections.abc import Sequence
from datetime import timedelta

from core.records import Candle, MarketEvent
from dashboard.charts import ACCENT, AXIS_PIXELS, EVENT_MARKS, GAIN, LOSS, MARGIN, NEUTRAL_MARK, Spec
from dashboard.formats import count_price_places, format_count, format_key, format_minute, format_price

_LABELS = 5

_FALLEN = {"test": "datum.close < datum.open", "value": LOSS}


def choose_time_format(candles: Sequence[Candle], labels: str) -> str:
    """Return the format of the time axis: with the day if times alone would be ambiguous.

    A range of hours leaves out hours without a price, so it can contain many days.
    """
    is_long = bool(candles) and candles[-1].bucket - candles[0].bucket > timedelta(days=1)
    return f"%-d %b {labels}" if is_long and labels == "%H:%M" else labels


def build_candle_chart(candles: Sequence[Candle], events: Sequence[MarketEvent], *, labels: str) -> Spec:
    """Return the candles, green when the price rose, with a mark above the candle of each event."""
    y = {"type": "quantitative", "scale": {"zero": False}, "axis": _price_axis(candles)}
    colour = {"condition": _FALLEN, "value": GAIN}
    x = _time_scale(candles, labels)
    wick: Spec = {
        "mark": {"type": "rule", "size": 1, "aria": False},
        "encoding": {"y": {"field": "low", **y}, "y2": {"field": "high"}, "color": colour},
    }
    body: Spec = {
        "mark": {"type": "bar", "minBandSize": 1, "cornerRadius": 1},
        "encoding": {
            "y": {"field": "open", **y},
            "y2": {"field": "close"},
            "color": colour,
            "tooltip": _candle_tooltips(),
        },
    }
    layers = [wick, body, *_mark_layers(candles, events)]
    for layer in layers:
        layer["encoding"]["x"] = x
    rows = [_candle_row(candle) for candle in candles]
    return {"data": {"values": rows}, "height": 320, "padding": MARGIN, "layer": layers}


def build_volume_chart(candles: Sequence[Candle], *, labels: str) -> Spec:
    """Return the volume of each candle."""
    return {
        "data": {"values": [_candle_row(candle) for candle in candles]},
        "height": 100,
        "padding": MARGIN,
        "mark": {"type": "bar", "color": ACCENT, "minBandSize": 1},
        "encoding": {
            "x": _time_scale(candles, labels),
            "y": {
                "field": "volume",
                "type": "quantitative",
                "axis": _volume_axis(),
            },
            "tooltip": _candle_tooltips(),
        },
    }


def _mark_layers(candles: Sequence[Candle], events: Sequence[MarketEvent]) -> list[Spec]:
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
        "bucket": candle.bucket.isoformat(),
        "high": float(candle.high),
        "shape": shape,
        "colour": colour,
        "title": event.title,
        "when": format_minute(event.created_at),
        "kind": f"{format_key(event.type)}, {event.sentiment.lower()}",
    }


def _candle_row(candle: Candle) -> Spec:
    return {
        "bucket": candle.bucket.isoformat(),
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


def _time_scale(candles: Sequence[Candle], labels: str) -> Spec:
    buckets = [candle.bucket.isoformat() for candle in candles]
    step = max(1, -(-len(buckets) // _LABELS))
    axis = {
        "title": None,
        "grid": False,
        "values": buckets[step // 2 :: step] or buckets,
        "labelExpr": f"utcFormat(toDate(datum.value), '{labels}')",
        "labelAngle": 0,
        "labelOverlap": True,
        "labelFlush": False,
        "ticks": False,
    }
    return {"field": "bucket", "type": "ordinal", "scale": {"type": "band"}, "axis": axis}


def _volume_axis() -> Spec:
    # a prefix for each label: a common one would write `0M`; and a billion is B, not G
    label = "replace(format(datum.value, '~s'), 'G', 'B')"
    return {"title": None, "labelExpr": label, "tickCount": 3, "minExtent": AXIS_PIXELS}


def _price_axis(candles: Sequence[Candle]) -> Spec:
    places = count_price_places(candle.low for candle in candles)
    return {"title": None, "format": f"$,.{places}f", "tickCount": 5, "minExtent": AXIS_PIXELS}
