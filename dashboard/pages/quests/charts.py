"""The chart of the progress that quests had when they ended. Pure functions."""

from collections.abc import Sequence

from dashboard.charts import Spec
from dashboard.formats import format_key
from dashboard.pages.quests.tables import STEPS, Progress, format_counted_share

LIGHT = ("#3730a3", "#5a5ce0", "#64748b", "#767676")
DARK = ("#c7d2fe", "#8b8ff8", "#94a3b8", "#7d8494")
"""Colours of STEPS in the light and the dark theme. Their contrast to the background is at least 4.5 to 1."""

_BAR_PIXELS = 40
_FRAME_PIXELS = 100
"""Height of the chart's legend and axis together."""
_LABEL_PIXELS = 110


def build_progress_chart(progress: Sequence[Progress], *, is_dark: bool) -> Spec:
    """Return a chart with one bar per quest type. Its parts are the shares of the steps in STEPS."""
    y_axis = {"title": None, "ticks": False, "labelLimit": _LABEL_PIXELS, "labelOverlap": False}
    return {
        "data": {"values": [row for item in progress for row in _list_steps(item)]},
        "height": len(progress) * _BAR_PIXELS + _FRAME_PIXELS,
        "mark": {"type": "bar", "cornerRadius": 2, "height": {"band": 0.6}, "xOffset": 1, "x2Offset": -1},
        "encoding": {
            "y": {"field": "type", "type": "nominal", "sort": None, "axis": y_axis},
            "x": {
                "field": "share",
                "type": "quantitative",
                "stack": "zero",
                "scale": {"domain": [0, 1]},
                "axis": {"title": None, "format": ".0%", "tickCount": 4},
            },
            "color": {
                "field": "step",
                "type": "nominal",
                "scale": {"domain": list(STEPS), "range": list(DARK if is_dark else LIGHT)},
                "legend": {"title": None, "orient": "top", "columns": 2},
            },
            "order": {"field": "place", "type": "ordinal"},
            "tooltip": [
                {"field": "type", "type": "nominal", "title": "Type"},
                {"field": "step", "type": "nominal", "title": "Came as far as"},
                {"field": "quests", "type": "nominal", "title": "Quests"},
            ],
        },
    }


def _list_steps(item: Progress) -> list[Spec]:
    return [
        {
            "type": format_key(item.type),
            "step": step,
            "place": place,
            "share": count / item.ended,
            "quests": format_counted_share(count, item.ended),
        }
        for place, (step, count) in enumerate(zip(STEPS, item.count_steps(), strict=True))
    ]
