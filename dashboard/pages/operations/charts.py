"""The charts of the Operations page: their data frames and their Vega-Lite specifications.

Pure functions. Data and specification are sent separately, so that a refresh moves the lines and does not
draw the chart anew.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from itertools import cycle, pairwise

import pandas as pd

from dashboard.charts import ACCENT, BASELINE, Spec
from dashboard.pages.operations.queries import (
    HIT_RATIO,
    LATENCY,
    POOL_USED,
    POOL_WAITING,
    REDIS_MEMORY,
    Series,
)
from dashboard.pages.operations.telemetry import Snapshot

AMBER, TEAL = "#d99a06", "#0e9db5"
"""Further colours, distinct for colour-blind people too; green and red mean gain and loss."""

ROLES = {"dashboard": ACCENT, "simulator": AMBER, "exporter": TEAL, "job": BASELINE}
OTHER_ROLES = ("#7c5cd6", "#a4572e", "#c2479e", "#64748b")
"""Colours of other programs in the order of their names; repeated when there are more."""
QUANTILES = {"p50": BASELINE, "p95": ACCENT, "p99": AMBER}
HEIGHT = 260
ROW_PIXELS = 20
AROUND_PIXELS = 90
"""Height of the legend and the time axis."""
LABEL_PIXELS = 180
MEBIBYTE = 1024 * 1024
GAP_STEPS = 2.5
"""Points further apart are not connected: in between there was no process, or no visitor."""

LEAST_CONNECTIONS = 2
"""End of the axis when no connection is in use."""


def build_latency_chart() -> Spec:
    """Return latency in milliseconds by quantile, on a logarithmic scale."""
    spec = _build_lines(QUANTILES, unit="ms", scale={"type": "log"}, digits=",.3~f")
    spec["encoding"]["y"]["axis"]["values"] = [10**power for power in range(-1, 6)]
    return spec


def build_pool_chart(most: float, roles: Iterable[str] = ()) -> Spec:
    """Return connections by role: in use as lines, waiting as dashed lines; `most` ends the axis."""
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
    """Return the hit ratio as a strip per cache and tier, from amber (few hits) to the accent (all)."""
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


# by the distance of two labels: a new history is only seconds long
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


def build_latency_frame(snapshot: Snapshot) -> pd.DataFrame:
    """Return time, series (p50, p95, p99) and value in milliseconds."""
    return _build_frame(
        (name, line, 1000.0)
        for name, query in zip(QUANTILES, LATENCY, strict=True)
        for line in snapshot.series.get(query, ())
    )


def build_pool_frame(snapshot: Snapshot) -> pd.DataFrame:
    """Return time, series (role), kind (in use, waiting) and value in connections."""
    frames = [
        _build_frame((line.labels[0], line, 1.0) for line in snapshot.series.get(query, ())).assign(kind=kind)
        for query, kind in ((POOL_USED, "in use"), (POOL_WAITING, "waiting"))
    ]
    return pd.concat(frames, ignore_index=True)


def build_hit_frame(snapshot: Snapshot) -> pd.DataFrame:
    """Return time and the next one as until, series (cache and tier) and value in percent."""
    lines = ((" · ".join(line.labels), line, 100.0) for line in snapshot.series.get(HIT_RATIO, ()))
    frame = _build_frame(lines).dropna(ignore_index=True)
    moments = sorted(frame["time"].unique())
    step = _find_step(moments)
    ends = {
        moment: following if following - moment <= GAP_STEPS * step else moment + step
        for moment, following in pairwise(moments)
    }
    return frame.assign(until=[ends.get(moment, snapshot.taken_at) for moment in frame["time"]])


def build_memory_frame(snapshot: Snapshot) -> pd.DataFrame:
    """Return time, series and value in MiB."""
    return _build_frame(("used", line, 1 / MEBIBYTE) for line in snapshot.series.get(REDIS_MEMORY, ()))


def _build_frame(lines: Iterable[tuple[str, Series, float]]) -> pd.DataFrame:
    """Return time, series and value; a row without a value ends a line before a gap."""
    found = list(lines)
    step = _find_step(moment for _, line, _ in found for moment, _ in line.points)
    rows = [
        (moment, name, None if value is None else value * factor)
        for name, line, factor in found
        for moment, value in _break_at_gaps(line, step)
    ]
    frame = pd.DataFrame(rows, columns=["time", "series", "value"])
    return frame.assign(time=pd.to_datetime(frame["time"], utc=True), value=frame["value"].astype(float))


def _find_step(moments: Iterable[datetime]) -> timedelta:
    """Return how far apart moments mostly are; zero for less than two of them."""
    distances = sorted(later - earlier for earlier, later in pairwise(sorted(set(moments))))
    return distances[len(distances) // 2] if distances else timedelta(0)


def _break_at_gaps(line: Series, step: timedelta) -> Iterator[tuple[datetime, float | None]]:
    for (moment, value), (following, _) in pairwise(line.points):
        yield moment, value
        if following - moment > GAP_STEPS * step:
            yield moment + step, None
    yield from line.points[-1:]
