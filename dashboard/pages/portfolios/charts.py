"""The charts of the Portfolios page, as Vega-Lite dictionaries.

The charts are cached, because the page shows the same player again at each refresh. Calls with equal
arguments return the same dictionary: do not modify it. Lines differ in colour and in dashes.
"""

from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from decimal import Decimal
from functools import lru_cache
from statistics import median
from typing import Any, NamedTuple

from core.records import STARTING_CASH, PlayerGains, PlayerScore, Portfolio
from dashboard.charts import (
    ACCENT,
    AXIS_PIXELS,
    BASELINE,
    GAIN,
    LEGEND,
    LOSS,
    Spec,
    bin_values,
    build_count_axis,
    build_histogram,
    enclose_data,
)
from dashboard.formats import format_day, format_money, format_percent, format_points, format_signed_money
from dashboard.pages.portfolios.tables import (
    CACHE_SIZE,
    UNEXPLAINED,
    Curve,
    list_drawdowns,
    measure_invested,
    measure_points,
)

RIVAL = "#d97706"
BEST = "#0891b2"
LINES = ((ACCENT, [1, 0]), (BASELINE, [6, 4]), (BEST, [2, 2]), (RIVAL, [8, 2]))
"""Colour and dashes of the line of the player, the market, the leader and the rival, in this order."""

POINTS = 45
"""If a line has more sessions than this, it has no points: they would hide the line."""

CHANGES_PIXELS = 150
DAY_TICKS = 5

_BRIDGES: Spec = {
    "transform": [{"filter": "datum.value !== null"}],
    "mark": {"type": "line", "strokeWidth": 1, "opacity": 0.35, "aria": False},
}
"""Layer with a thin line across missed sessions, where the thick line has a gap."""

_MONEY_AXIS: Spec = {"title": None, "format": "$,.0f", "minExtent": AXIS_PIXELS}


class Days(NamedTuple):
    """The x axis of a chart. It has all days from `first` to `today`.

    `held` are the days in this range on which the game had a session, oldest first.
    """

    first: date
    today: date
    held: tuple[date, ...]

    def encode(self) -> Spec:
        """Return the axis in Vega-Lite. Days without a session are gaps."""
        return {
            "field": "day",
            "type": "temporal",
            "timeUnit": "utcyearmonthdate",
            "scale": {
                "type": "utc",
                "domain": [_describe_time(self.first), _describe_time(self.today + timedelta(days=1))],
            },
            "axis": {
                "title": None,
                "grid": False,
                "tickCount": DAY_TICKS,
                "labelExpr": "utcFormat(datum.value, '%-d %b %Y')",
                "labelAngle": 0,
                "labelOverlap": True,
            },
        }

    def choose_spacing(self) -> int:
        """Return the pixels between two bars: 1, or 0 if there are very many bars and each is very narrow."""
        return 0 if (self.today - self.first).days >= POINTS else 1


def _describe_time(day: date) -> Spec:
    """Return the first moment of a day in UTC, as a date object of Vega-Lite."""
    return {"year": day.year, "month": day.month, "date": day.day, "utc": True}


class Distribution(NamedTuple):
    """The histogram and the median of a player's day changes."""

    chart: Spec
    median: Decimal


@lru_cache(CACHE_SIZE)
def build_equity_chart(curves: tuple[Curve, ...], styles: tuple[int, ...], axis: Days) -> Spec:
    """Return the chart of equity curves. `styles` has the index in `LINES` for each curve.

    A line has a gap at each missed session.
    """
    rows = [
        {
            **_describe_day(day),
            "name": curve.name,
            "value": value,
            "money": "" if value is None else format_money(value),
        }
        for curve in curves
        for day, value in _fill_missed(curve.days, map(float, curve.equity), axis.held)
    ]
    names = [curve.name for curve in curves]
    legend = {**LEGEND, "labelLimit": 240, "symbolStrokeWidth": 2, "columns": 1}
    legend |= {"symbolSize": 300, "symbolFillColor": "transparent"}

    def scale(values: list[Any]) -> Spec:
        scale = {"domain": names, "range": values}
        return {"field": "name", "type": "nominal", "scale": scale, "legend": legend}

    encoding: Spec = {
        "x": axis.encode(),
        "y": {
            "field": "value",
            "type": "quantitative",
            "scale": {"zero": False, "nice": True},
            "axis": {**_MONEY_AXIS, "tickCount": 5},
        },
        "color": scale([LINES[style][0] for style in styles]),
        "strokeDash": scale([LINES[style][1] for style in styles]),
        "tooltip": _build_tooltips(name="Curve", session="Session", money="Equity"),
    }
    lines: Spec = {
        "mark": {"type": "line", "strokeWidth": 2, "point": _build_point(len(curves[0].days))},
        "encoding": encoding,
    }
    bridges: Spec = {
        **_BRIDGES,
        "encoding": {name: encoding[name] for name in ("x", "y", "color")},
    }
    start: Spec = {
        "data": {"values": [{}]},
        "mark": {"type": "rule", "color": BASELINE, "opacity": 0.6, "size": 1, "aria": False},
        "encoding": {"y": {"datum": float(STARTING_CASH), "type": "quantitative"}},
    }
    points = _build_hover_points("value", tooltip=encoding["tooltip"], name="equity")
    points["encoding"] |= {"x": encoding["x"], "color": encoding["color"]}
    return enclose_data({"data": {"values": rows}, "height": 300, "layer": [start, bridges, lines, points]})


@lru_cache(CACHE_SIZE)
def build_drawdown_chart(curve: Curve, axis: Days) -> Spec:
    """Return the chart of the drawdown: an area below zero, with a gap at each missed session."""
    drawdowns = [float(drawdown.percent) for drawdown in list_drawdowns(curve)]
    rows = [
        {**_describe_day(day), "value": value, "percent": "" if value is None else format_percent(value)}
        for day, value in _fill_missed(curve.days, drawdowns, axis.held)
    ]
    y: Spec = {"title": None, "format": ",.2~f", "labelExpr": "datum.label + '%'"}
    y |= {"tickCount": 3, "minExtent": AXIS_PIXELS}
    area: Spec = {
        "mark": {"type": "area", "color": LOSS, "opacity": 0.35, "line": {"color": LOSS, "strokeWidth": 1.5}},
        "encoding": {"y": {"field": "value", "type": "quantitative", "axis": y}},
    }
    bridges: Spec = {**_BRIDGES, "encoding": {"y": area["encoding"]["y"], "color": {"value": LOSS}}}
    tooltip = _build_tooltips(session="Session", percent="Below the peak")
    points = _build_hover_points("value", tooltip=tooltip, name="fall")
    points["mark"]["color"] = LOSS
    return enclose_data(
        {
            "data": {"values": rows},
            "height": 110,
            "encoding": {"x": axis.encode()},
            "layer": [bridges, area, points],
        }
    )


@lru_cache(CACHE_SIZE)
def build_changes_chart(history: tuple[Portfolio, ...], axis: Days) -> Spec:
    """Return the chart of day changes: a green bar for a gain, a red bar for a loss.

    `history` is newest first. A missed session has a grey mark. The bar of an open session is pale.
    """
    rows: list[Spec] = [
        {
            **_describe_day(row.session_date),
            "change": float(row.day_change),
            "money": format_money(row.total_value),
            "moved": f"{format_signed_money(row.day_change)} ({format_percent(row.day_change_percent)})"
            + ("" if row.session_date < axis.today else " so far"),
            "opacity": 1 if row.session_date < axis.today else 0.5,
        }
        for row in reversed(history)
    ]
    played = {row.session_date for row in history}
    missed = [
        {**_describe_day(day), "moved": "missed"}
        for day in axis.held
        if day < axis.today and day not in played
    ]
    bars: Spec = {
        "mark": {"type": "bar", "binSpacing": axis.choose_spacing()},
        "encoding": {
            "x": axis.encode(),
            "y": {"field": "change", "type": "quantitative", "axis": {**_MONEY_AXIS, "tickCount": 3}},
            "color": {"condition": {"test": "datum.change < 0", "value": LOSS}, "value": GAIN},
            "opacity": {"field": "opacity", "type": "quantitative", "scale": None},
            "tooltip": _build_tooltips(session="Session", money="Value", moved="Day change"),
        },
    }
    marks: Spec = {
        "data": {"values": missed},
        "mark": {"type": "point", "shape": "stroke", "size": 30, "color": BASELINE, "aria": False},
        "encoding": {
            "x": axis.encode(),
            "y": {"datum": 0, "type": "quantitative"},
            "tooltip": _build_tooltips(session="Session", moved="Day change"),
        },
    }
    return enclose_data({"data": {"values": rows}, "height": 130, "layer": [bars, marks]})


@lru_cache(CACHE_SIZE)
def build_gains_chart(gains: PlayerGains) -> Spec:
    """Return the chart of gains: one bar per symbol, the largest gain first.

    A grey bar at the end is the change of value that no symbol explains, if there is any.
    """
    amounts = sorted(((gain.symbol, gain.gain) for gain in gains.symbols), key=lambda row: (-row[1], row[0]))
    if gains.unexplained:
        amounts.append((UNEXPLAINED, gains.unexplained))
    rows = [
        {
            "symbol": symbol,
            "gain": float(amount),
            "money": format_signed_money(amount),
            "points": format_points(measure_points(amount)),
        }
        for symbol, amount in amounts
    ]
    return enclose_data(
        {
            "data": {"values": rows},
            "height": {"step": 24},
            "mark": {"type": "bar", "cornerRadiusEnd": 2},
            "encoding": {
                "y": {
                    "field": "symbol",
                    "type": "nominal",
                    "sort": None,
                    "axis": {"title": None, "labelLimit": 150, "minExtent": AXIS_PIXELS},
                },
                "x": {"field": "gain", "type": "quantitative", "axis": {**_MONEY_AXIS, "tickCount": 4}},
                "color": {
                    "condition": [
                        {"test": f"datum.symbol === '{UNEXPLAINED}'", "value": BASELINE},
                        {"test": "datum.gain < 0", "value": LOSS},
                    ],
                    "value": GAIN,
                },
                "tooltip": _build_tooltips(symbol="Symbol", money="Added to the value", points="In points"),
            },
        }
    )


@lru_cache(CACHE_SIZE)
def build_distribution(history: tuple[Portfolio, ...]) -> Distribution | None:
    """Return the distribution of day changes; None if there are too few sessions for a histogram."""
    changes = [row.day_change for row in history]
    bins = bin_values(changes)
    if not bins:
        return None
    middle = median(changes)
    chart = build_histogram(bins, unit="currency", median=middle)
    return Distribution({**chart, "height": CHANGES_PIXELS}, middle)


@lru_cache(CACHE_SIZE)
def build_holdings_chart(history: tuple[Portfolio, ...], axis: Days) -> Spec:
    """Return the chart of cash and invested value: one stacked bar per session. `history` is newest first."""
    rows = [
        {
            **_describe_day(row.session_date),
            "part": part,
            "value": float(value),
            "money": format_money(value),
        }
        for row in reversed(history)
        for part, value in (("Cash", row.current_cash), ("Invested", measure_invested(row)))
    ]
    return enclose_data(
        {
            "data": {"values": rows},
            "height": 170,
            "mark": {"type": "bar", "binSpacing": axis.choose_spacing()},
            "encoding": {
                "x": axis.encode(),
                "y": {
                    "field": "value",
                    "type": "quantitative",
                    "axis": {**_MONEY_AXIS, "minExtent": 64, "tickCount": 4},
                },
                "color": {
                    "field": "part",
                    "type": "nominal",
                    "scale": {"domain": ["Cash", "Invested"], "range": [BASELINE, ACCENT]},
                    "legend": {"orient": "top", "title": None},
                },
                "tooltip": _build_tooltips(session="Session", part="Part", money="Value"),
            },
        }
    )


@lru_cache(CACHE_SIZE)
def build_rank_chart(scores: tuple[PlayerScore, ...], axis: Days) -> Spec:
    """Return the chart of ranks by session, with rank 1 at the top. A session without a rank is a gap."""
    ranks = {row.session_date: row.rank for row in scores if row.rank is not None}
    rows = [
        {**_describe_day(day), "rank": rank, "place": "" if rank is None else f"{rank:,.0f}"}
        for day, rank in _fill_missed(tuple(ranks), ranks.values(), axis.held)
    ]
    y: Spec = {
        "field": "rank",
        "type": "quantitative",
        "scale": {"reverse": True, "zero": False, "domainMin": 1},
        "axis": {**build_count_axis(), "minExtent": AXIS_PIXELS},
    }
    line: Spec = {
        "mark": {
            "type": "line",
            "color": ACCENT,
            "strokeWidth": 2,
            "point": _build_point(len(ranks), ACCENT),
        },
        "encoding": {"y": y, "tooltip": _build_tooltips(session="Session", place="Rank")},
    }
    bridges: Spec = {
        **_BRIDGES,
        "transform": [{"filter": "datum.rank !== null"}],
        "encoding": {"y": y, "color": {"value": ACCENT}},
    }
    return enclose_data(
        {
            "data": {"values": rows},
            "height": 170,
            "encoding": {"x": axis.encode()},
            "layer": [bridges, line],
        }
    )


def _describe_day(day: date) -> Spec:
    return {"day": day.isoformat(), "session": format_day(day)}


def _fill_missed(
    days: Sequence[date], values: Iterable[float], held: Sequence[date]
) -> list[tuple[date, float | None]]:
    """Return (day, value) pairs, oldest first. A missed session between the first and the last has None."""
    known: dict[date, float | None] = dict(zip(days, values, strict=True))
    if known:
        first, last = min(known), max(known)
        known |= {day: None for day in held if first < day < last and day not in known}
    return sorted(known.items())


def _build_point(sessions: int, color: str | None = None) -> Spec | bool:
    """Return Vega-Lite's `point` of a line mark: False (no points) if there are more than POINTS sessions.

    A point makes a session between two missed sessions visible, because no line leads to it.
    """
    if sessions > POINTS:
        return False
    return {"size": 24, **({"fill": color, "stroke": color} if color else {})}


def _build_tooltips(**titles: str) -> list[Spec]:
    return [{"field": field, "type": "nominal", "title": title} for field, title in titles.items()]


def _build_hover_points(y: str, *, tooltip: Sequence[Spec], name: str) -> Spec:
    """Return a layer of points, of which only the one nearest to the pointer is visible, with its tooltip.

    The tooltip of a line or an area would always show the first session, because a line is a single mark.
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
        # hollow points: with filled points, the legend would show points and not dashed lines
        "mark": {"type": "point", "filled": False, "size": 60, "strokeWidth": 3, "aria": False},
        "encoding": {
            "y": {"field": y, "type": "quantitative"},
            "opacity": {"condition": {"param": name, "value": 1, "empty": False}, "value": 0},
            "tooltip": tooltip,
        },
    }
