"""The charts of the Operations page: their data frames and their Vega-Lite specifications. Pure functions.

The data is separate from the specification: after a refresh, the browser then moves the lines and does not
draw the chart again.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import cycle, pairwise
from typing import NamedTuple

import pandas as pd

from dashboard.charts import ACCENT, BASELINE, LEGEND, MARGIN, Spec
from dashboard.monitoring.queries import (
    CHART_STEP_SECONDS,
    HIT_RATIO,
    LATENCY,
    POOL_USED,
    POOL_WAITING,
    REDIS_MEMORY,
    WINDOW_SECONDS,
    Key,
    Query,
)
from dashboard.monitoring.sampler import SampledMetrics
from dashboard.pages.operations.advice import Topic
from dashboard.pages.operations.tables import MEBIBYTE, QUANTILES

AMBER, TEAL = "#d99a06", "#0e9db5"
"""Colours that colour-blind people can distinguish. Green and red are for gain and loss only."""

ROLES = {"dashboard": ACCENT, "simulator": AMBER, "exporter": TEAL, "job": BASELINE}
OTHER_ROLES = ("#7c5cd6", "#a4572e", "#c2479e", "#64748b")
"""Colours for roles of processes that are not in ROLES. Such roles get them in alphabetical order.

If there are more such roles than colours, the colours repeat.
"""
QUANTILE_COLOURS = dict(zip(QUANTILES, (BASELINE, ACCENT, AMBER), strict=True))
HEIGHT = 260
ROW_PIXELS = 20
FRAME_PIXELS = 90
"""Height of a chart's legend and time axis together."""
LABEL_PIXELS = 180
GAP_STEPS = 2.5
"""A line has a gap between two points that are more than this many steps apart: there was no scrape."""

_MINUTES = WINDOW_SECONDS // 60

MIN_CONNECTIONS_SHOWN = 2
"""The axis of connections reaches at least to this number, also if no connection is in use."""


class Panel(NamedTuple):
    """A chart of the page: its title, its explanation (`meaning`), its data and its specification.

    Each item of `lines` is a query, the kind of its lines (such as `in use`), and a function that makes the
    name of a line from its labels. All values are multiplied by `factor`.
    """

    title: str
    topic: Topic
    meaning: str
    lines: tuple[tuple[Query, str, Callable[[Key], str]], ...]
    factor: float
    build_spec: Callable[[pd.DataFrame], Spec]


def _build_latency_chart(_: pd.DataFrame) -> Spec:
    spec = _build_lines(QUANTILE_COLOURS, unit="ms", scale={"type": "log"}, digits=",.3~f")
    spec["encoding"]["y"]["axis"]["values"] = [10**power for power in range(-1, 6)]
    return spec


def build_pool_chart(frame: pd.DataFrame) -> Spec:
    """Return the chart of connections by role. Dashed lines are requests that wait for a connection."""
    scale = {"domain": [0, max(MIN_CONNECTIONS_SHOWN, frame["value"].max())], "nice": True}
    others = sorted(set(frame["series"]) - set(ROLES))
    colours = ROLES | dict(zip(others, cycle(OTHER_ROLES), strict=False))
    spec = _build_lines(colours, unit="connections", scale=scale, digits=",.0f")
    dashes = {"domain": ["in use", "waiting"], "range": [[1, 0], [4, 3]]}
    encoding = spec["encoding"]
    encoding["strokeDash"] = {"field": "kind", "type": "nominal", "scale": dashes, "legend": None}
    encoding["color"]["legend"]["columns"] = 2
    encoding["tooltip"].insert(1, {"field": "kind", "type": "nominal", "title": "Connections"})
    return spec


def _build_memory_chart(_: pd.DataFrame) -> Spec:
    spec = _build_lines({"used": ACCENT}, unit="MiB", scale={"domainMin": 0}, digits=",.1f")
    spec["encoding"]["color"]["legend"] = None
    return spec


def _build_hit_chart(frame: pd.DataFrame) -> Spec:
    """Return the chart of hit ratios: a strip per cache and tier.

    A strip is AMBER when every read misses, and ACCENT when every read hits.
    """
    labels = {"ticks": False, "domain": False, "labelLimit": LABEL_PIXELS, "labelOverlap": False}
    colour = {
        "field": "value",
        "type": "quantitative",
        "title": None,
        "scale": {"domain": [0, 100], "range": [AMBER, BASELINE, ACCENT], "interpolate": "lab"},
        "legend": {**_legend(), "format": ".0f", "labelExpr": "datum.label + '%'", "gradientLength": 160},
    }
    y = {"field": "series", "type": "nominal", "title": None, "axis": labels, "scale": {"paddingInner": 0.2}}
    return {
        "height": FRAME_PIXELS + frame["series"].nunique() * ROW_PIXELS,
        "padding": MARGIN,
        "mark": {"type": "rect", "cornerRadius": 1},
        "encoding": {
            "x": _time(),
            "x2": {"field": "until"},
            "y": y,
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
        "padding": MARGIN,
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


# d3 time formats by the unit of time between two labels; when the dashboard has just started, it is a second
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
    return {**LEGEND, "symbolStrokeWidth": 3}


def _tooltips(field: str, title: str, *, unit: str, digits: str) -> list[Spec]:
    return [
        {"field": field, "type": "nominal", "title": title},
        {"field": "value", "type": "quantitative", "title": unit, "format": digits},
        {"field": "time", "type": "temporal", "title": "Time", "format": "%H:%M:%S"},
    ]


def _always(name: str) -> Callable[[Key], str]:
    return lambda _: name


PANELS = (
    Panel(
        "Database time of operations",
        "latency",
        f"Time that a call of the service spends in the database, in ms, over the {_MINUTES} minutes before "
        "each point. Calls that the cache answers do not count.",
        tuple((query, "", _always(name)) for name, query in zip(QUANTILES, LATENCY, strict=True)),
        1000.0,
        _build_latency_chart,
    ),
    Panel(
        "Connections by role",
        "pool",
        "Database connections in use by all processes of a role. Dashed: requests that wait for one.",
        (
            (POOL_USED, "in use", "".join),
            (POOL_WAITING, "waiting", "".join),
        ),
        1.0,
        build_pool_chart,
    ),
    Panel(
        "Cache hit ratio",
        "cache",
        f"Values found in percent of the values requested, over the {_MINUTES} minutes before each point. "
        "Near: the cache in a process. Shared: the cache in Redis.",
        ((HIT_RATIO, "", " · ".join),),
        100.0,
        _build_hit_chart,
    ),
    Panel(
        "Redis memory",
        "redis",
        "Memory that Redis uses for its data, in MiB.",
        ((REDIS_MEMORY, "", _always("used")),),
        1 / MEBIBYTE,
        _build_memory_chart,
    ),
)


def build_frame(panel: Panel, metrics: SampledMetrics, *, now: datetime) -> pd.DataFrame:
    """Return the data of a chart with the columns time, series, kind, value and until (where the value ends).

    A row without a value ends a line before a gap. The last row extends the time axis to `now`. Without any
    point, the data frame is empty.
    """
    found = [
        (name(line.labels), kind, line.points)
        for query, kind, name in panel.lines
        for line in metrics.series.get(query, ())
    ]
    step = _find_step(points for _, _, points in found)
    rows = [
        (moment, series, kind, None if value is None else value * panel.factor, until)
        for series, kind, points in found
        for moment, value, until in _break_at_gaps(points, step, now)
    ]
    if rows:
        rows.append((now, rows[0][1], rows[0][2], None, now))
    frame = pd.DataFrame(rows, columns=["time", "series", "kind", "value", "until"])
    return frame.assign(
        time=pd.to_datetime(frame["time"], utc=True),
        until=pd.to_datetime(frame["until"], utc=True),
        value=frame["value"].astype(float),
    )


def _find_step(lines: Iterable[Sequence[tuple[datetime, float]]]) -> timedelta:
    """Return the median time between two points of the same line."""
    distances = sorted(later - earlier for points in lines for (earlier, _), (later, _) in pairwise(points))
    return distances[len(distances) // 2] if distances else timedelta(seconds=CHART_STEP_SECONDS)


def _break_at_gaps(
    points: tuple[tuple[datetime, float], ...], step: timedelta, now: datetime
) -> Iterator[tuple[datetime, float | None, datetime]]:
    """Yield (time, value, end) for each point of a line, and a point without a value before each gap."""
    for (moment, value), following in zip(points, [*(time for time, _ in points[1:]), now], strict=True):
        is_gap = following - moment > GAP_STEPS * step
        end = moment + step if is_gap else max(following, moment)
        yield moment, value, end
        if is_gap:
            yield end, None, end
