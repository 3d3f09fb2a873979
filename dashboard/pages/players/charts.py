"""The charts of the Players page. Pure functions that return Vega-Lite dictionaries."""

from collections.abc import Sequence

from core.records import PlayerDay, PlayerReport
from dashboard.charts import ACCENT, BASELINE, LEGEND, MARGIN, Spec, build_count_axis, build_day_axis
from dashboard.formats import format_count, format_day, format_share
from dashboard.pages.players.tables import Bucket, list_retention

LIGHT_HEAT = (
    (10, "#eef2ff", "#1e1b4b"),
    (25, "#e0e7ff", "#1e1b4b"),
    (40, "#c7d2fe", "#1e1b4b"),
    (60, "#a5b4fc", "#1e1b4b"),
    (80, "#4338ca", "#ffffff"),
    (101, "#312e81", "#ffffff"),
)
DARK_HEAT = (
    (10, "#171a2b", "#c7d2fe"),
    (25, "#1e1b4b", "#e0e7ff"),
    (40, "#312e81", "#ffffff"),
    (60, "#4338ca", "#ffffff"),
    (80, "#a5b4fc", "#1e1b4b"),
    (101, "#e0e7ff", "#1e1b4b"),
)
"""Colours of the cells of the retention chart, for the light and the dark theme.

Each item has an upper limit of the share in percent, the fill colour below this limit, and the colour of the
text. A cell with a low share looks almost like the background.
"""

OPEN = "#f59e0b"
"""Outline colour of the cells of the current week: visible beside every fill colour in both themes."""

_ROW_PIXELS = 26
_AXIS_PIXELS = 60
"""Height of an axis with its title; Vega-Lite's `height` of these charts includes it."""

_SERIES = {"Played": ACCENT, "Traded": BASELINE, "New": "#0d9488"}


_CELL_FONT, _PHONE_CELL_FONT = 11, 8
"""Font sizes of the text in a cell. On a phone, each of the 13 columns is about 22 pixels wide."""


def build_retention_chart(report: PlayerReport, *, is_dark: bool, is_phone: bool = False) -> Spec:
    """Return the chart of retention: one row per week of joining, one column per week since then.

    Each cell shows the share of the week's new players who played, and has a colour by this share.
    """
    rows: list[Spec] = []
    heat = DARK_HEAT if is_dark else LIGHT_HEAT
    for cell in list_retention(report):
        fill, text = next((fill, text) for limit, fill, text in heat if cell.percent < limit)
        share = format_share(cell.played, cell.players)
        rows.append(
            {
                "joined": f"{cell.week.day} {cell.week:%b} ({format_count(cell.players)})",
                "since": cell.since,
                "share": cell.describe(),
                "fill": fill,
                "edge": OPEN if cell.is_open else fill,
                "text": text,
                "week": format_day(cell.week),
                "players": f"{format_count(cell.played)} of {format_count(cell.players)} ({share})",
                "state": "current week, so far" if cell.is_open else "finished week",
            }
        )
    encoding: Spec = {
        "x": {
            "field": "since",
            "type": "ordinal",
            "axis": {"title": "Weeks since joining", "orient": "top", "labelAngle": 0, "ticks": False},
        },
        "y": {
            "field": "joined",
            "type": "ordinal",
            "sort": None,
            "axis": {
                "title": None,
                "ticks": False,
                "labelLimit": 130,
                "labelOverlap": False,
                "labelFlush": False,
            },
        },
        "tooltip": [
            {"field": "week", "type": "nominal", "title": "Joined in the week of"},
            {"field": "since", "type": "nominal", "title": "Weeks since"},
            {"field": "players", "type": "nominal", "title": "Played"},
            {"field": "state", "type": "nominal", "title": "Week"},
        ],
    }
    data = {"values": rows}
    return {
        "height": len(report.cohorts) * _ROW_PIXELS + _AXIS_PIXELS,
        "layer": [
            {
                "data": data,
                "mark": {"type": "rect", "cornerRadius": 2, "strokeWidth": 1.5, "aria": False},
                "encoding": {
                    **encoding,
                    "fill": {"field": "fill", "type": "nominal", "scale": None},
                    "stroke": {"field": "edge", "type": "nominal", "scale": None},
                },
            },
            {
                "data": data,
                "mark": {"type": "text", "fontSize": _PHONE_CELL_FONT if is_phone else _CELL_FONT},
                "encoding": {
                    **encoding,
                    "text": {"field": "share", "type": "nominal"},
                    "color": {"field": "text", "type": "nominal", "scale": None},
                },
            },
        ],
    }


def build_days_chart(days: Sequence[PlayerDay]) -> Spec:
    """Return the chart of the players who played, traded and joined on each day. `days` are oldest first.

    A day without a session has no points of players who played or traded. The last day is today: its points
    are hollow, and no line leads to them.
    """
    rows: list[Spec] = []
    for row in days:
        counts = {"Played": row.played, "Traded": row.traded, "New": row.joined}
        is_open = row is days[-1]
        rows.extend(
            {
                "day": row.day.isoformat(),
                "session": f"{format_day(row.day)}{', so far' if is_open else ''}",
                "series": series,
                "players": count,
                "open": is_open,
            }
            for series, count in counts.items()
            if row.played or series == "New"
        )
    color = {
        "field": "series",
        "type": "nominal",
        "scale": {"domain": list(_SERIES), "range": list(_SERIES.values())},
        "legend": LEGEND,
    }
    encoding: Spec = {
        "x": build_day_axis([row.day.isoformat() for row in days]),
        "y": {
            "field": "players",
            "type": "quantitative",
            "axis": build_count_axis(),
        },
        "color": color,
        "tooltip": [
            {"field": "session", "type": "nominal", "title": "Day"},
            {"field": "series", "type": "nominal", "title": "Players"},
            {"field": "players", "type": "quantitative", "title": "Number", "format": ",.0f"},
        ],
    }
    # all days are on the axis, even if no player joined or played
    encoding["x"]["scale"] |= {"domain": [row.day.isoformat() for row in days]}
    finished = [row for row in rows if not row["open"]]
    so_far = [row for row in rows if row["open"]]
    line = {"type": "line", "strokeWidth": 2, "point": {"filled": True, "size": 18}}
    point = {"type": "point", "filled": False, "size": 40, "strokeWidth": 2}
    return {
        "height": 260,
        "padding": MARGIN,
        "layer": [
            {"data": {"values": finished}, "mark": line, "encoding": encoding},
            {"data": {"values": so_far}, "mark": point, "encoding": encoding},
        ],
    }


def build_bars(buckets: Sequence[Bucket], *, title: str) -> Spec:
    """Return a chart with one horizontal bar per bucket; its tooltip shows the number of players."""
    rows = [
        {"label": bucket.label, "players": bucket.players, "text": format_count(bucket.players)}
        for bucket in buckets
    ]
    y = {
        "field": "label",
        "type": "ordinal",
        "sort": None,
        "axis": {"title": title, "ticks": False, "labelOverlap": False},
    }
    x = {
        "field": "players",
        "type": "quantitative",
        "axis": {**build_count_axis(), "title": "Players", "tickCount": 3},
    }
    tooltip = [
        {"field": "label", "type": "nominal", "title": title},
        {"field": "text", "type": "nominal", "title": "Players"},
    ]
    return {
        "data": {"values": rows},
        "height": len(rows) * _ROW_PIXELS + _AXIS_PIXELS,
        "padding": MARGIN,
        "mark": {"type": "bar", "color": ACCENT, "cornerRadius": 2, "height": {"band": 0.65}},
        "encoding": {"x": x, "y": y, "tooltip": tooltip},
    }
