"""Chart specifications of the Operations page in Vega-Lite, without their data.

Owns how a series over time looks; pure functions. The data goes beside the specification,
so that a refresh moves the lines and does not draw the chart anew.
"""

from collections.abc import Iterable
from itertools import cycle

from dashboard.charts import ACCENT, BASELINE, Spec

AMBER, TEAL = "#d99a06", "#0e9db5"
"""Beside the accent; distinct for colour-blind eyes too. Green and red are for gain and loss."""

ROLES = {"dashboard": ACCENT, "simulator": AMBER, "exporter": TEAL, "job": BASELINE}
OTHER_ROLES = ("#7c5cd6", "#a4572e", "#c2479e", "#64748b")
"""Of programs beside the stack's, in the order of their names; used again when there are more."""
QUANTILES = {"p50": BASELINE, "p95": ACCENT, "p99": AMBER}
HEIGHT = 260
ROW_PIXELS = 20
AROUND_PIXELS = 90
"""What the legend and the time axis take of a strip's height."""
LABEL_PIXELS = 180
LEAST_CONNECTIONS = 2
"""A chart of nothing in use has an axis all the same."""


def build_latency_chart() -> Spec:
    """Return latency in milliseconds by quantile, on a scale that shows fast and slow ones."""
    spec = _build_lines(QUANTILES, unit="ms", scale={"type": "log"}, digits=",.3~f")
    spec["encoding"]["y"]["axis"]["values"] = [10**power for power in range(-1, 6)]
    return spec


def build_pool_chart(most: float, roles: Iterable[str] = ()) -> Spec:
    """Return connections by role, up to the most of all: in use as lines, waiting dashed."""
    scale = {"domain": [0, max(LEAST_CONNECTIONS, most)], "nice": True}
    colours = ROLES | dict(zip(sorted(set(roles) - set(ROLES)), cycle(OTHER_ROLES), strict=False))
    spec = _build_lines(colours, unit="connections", scale=scale, digits=",.0f")
    dashes = {"domain": ["in use", "waiting"], "range": [[1, 0], [4, 3]]}
    encoding = spec["encoding"]
    encoding["strokeDash"] = {"field": "kind", "type": "nominal", "scale": dashes, "legend": None}
    encoding["color"]["legend"]["columns"] = 2
    encoding["tooltip"].insert(1, {"field": "kind", "type": "nominal", "title": "Connections"})
    return spec


def build_memory_chart() -> Spec:
    """Return Redis's memory in MiB."""
    spec = _build_lines({"used": ACCENT}, unit="MiB", scale={"domainMin": 0}, digits=",.1f")
    spec["encoding"]["color"]["legend"] = None
    return spec


def build_hit_chart(rows: int) -> Spec:
    """Return the hit ratio as a strip per cache and tier: amber for few hits, the accent for all."""
    labels = {"ticks": False, "domain": False, "labelLimit": LABEL_PIXELS}
    colour = {
        "field": "value",
        "type": "quantitative",
        "title": None,
        "scale": {"domain": [0, 100], "range": [AMBER, BASELINE, ACCENT], "interpolate": "lab"},
        "legend": {**_legend(), "format": ".0f", "labelExpr": "datum.label + '%'", "gradientLength": 160},
    }
    return {
        "height": AROUND_PIXELS + rows * ROW_PIXELS,
        "mark": {"type": "rect", "cornerRadius": 1},
        "encoding": {
            "x": _time(),
            "x2": {"field": "until"},
            "y": {
                "field": "series",
                "type": "nominal",
                "title": None,
                "axis": labels,
                "scale": {"paddingInner": 0.2},
            },
            "color": colour,
            "tooltip": _tooltips("series", "Cache", unit="percent", digits=".1f"),
        },
    }


def _build_lines(colours: dict[str, str], *, unit: str, scale: Spec, digits: str) -> Spec:
    least_step = 1 if unit == "connections" else 0
    axis = {"tickCount": 5, "format": digits, "tickMinStep": least_step, "minExtent": 44}
    colour = {
        "field": "series",
        "type": "nominal",
        "title": None,
        "scale": {"domain": list(colours), "range": list(colours.values())},
        "legend": _legend(),
    }
    return {
        "height": HEIGHT,
        "mark": {"type": "line", "strokeWidth": 2, "point": {"size": 12}},
        "encoding": {
            "x": _time(),
            "y": {
                "field": "value",
                "type": "quantitative",
                "title": unit,
                "scale": scale,
                "axis": axis,
            },
            "color": colour,
            "tooltip": _tooltips("series", "Series", unit=unit, digits=digits),
        },
    }


# by what lies between two labels: a fresh history is seconds long
_TIMES = {
    "milliseconds": "%H:%M:%S",
    "seconds": "%H:%M:%S",
    "minutes": "%H:%M",
    "hours": "%H:%M",
    "date": "%-d %b",
}


def _time() -> Spec:
    axis = {"title": None, "grid": False, "tickCount": 6, "labelOverlap": True, "format": _TIMES}
    return {"field": "time", "type": "temporal", "scale": {"type": "utc"}, "axis": axis}


def _legend() -> Spec:
    return {"orient": "top", "title": None, "symbolType": "stroke", "symbolStrokeWidth": 3}


def _tooltips(field: str, title: str, *, unit: str, digits: str) -> list[Spec]:
    return [
        {"field": field, "type": "nominal", "title": title},
        {"field": "value", "type": "quantitative", "title": unit, "format": digits},
        {"field": "time", "type": "temporal", "title": "Time", "format": "%H:%M:%S"},
    ]
