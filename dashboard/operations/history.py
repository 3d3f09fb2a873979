"""The last scrapes of an exporter, reduced to what the page asks, and answers from them.

Owns the bound of what is kept and the arithmetic of rates: a counter that went down was
started anew, as in Prometheus. Reads nothing itself; not thread safe, its owner is.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from datetime import datetime

import msgspec

from core.scrape import Scrape, estimate_quantile
from dashboard.operations.queries import Operand, Query, list_operands

POINTS = 180
"""A quarter of an hour at one scrape in five seconds; a few megabytes."""

GAP_SECONDS = 300
"""After so long without a look, what came before says nothing about the rates of now."""

Key = tuple[str, ...]
Values = dict[Key, float]


class Series(msgspec.Struct, frozen=True):
    """One line of a chart: the values of its labels, and points in time, oldest first."""

    labels: Key
    points: tuple[tuple[datetime, float], ...]


class _Point(msgspec.Struct, frozen=True):
    taken_at: datetime
    values: dict[Operand, Values]


class History:
    """A bounded row of scrapes; counters are kept as what they grew by since the first."""

    def __init__(self, queries: Iterable[Query], *, points: int = POINTS) -> None:
        self._operands = tuple({item for query in queries for item in list_operands(query)})
        self._points: deque[_Point] = deque(maxlen=points)
        self._raw: dict[Operand, Values] = {}

    def __len__(self) -> int:
        return len(self._points)

    def add(self, scrape: Scrape) -> None:
        """Append a scrape; one that is older than the last is left out."""
        last = self._points[-1] if self._points else None
        if last is not None and scrape.taken_at <= last.taken_at:
            return
        if last is not None and (scrape.taken_at - last.taken_at).total_seconds() > GAP_SECONDS:
            self._points.clear()
            self._raw.clear()
            last = None
        values: dict[Operand, Values] = {}
        for operand in self._operands:
            found = scrape.sum_by(operand.metric, *operand.by, **dict(operand.where))
            grown = self._grow(operand, found, last) if operand.is_counter else found
            values[operand] = grown
        self._points.append(_Point(scrape.taken_at, values))

    def _grow(self, operand: Operand, found: Values, last: _Point | None) -> Values:
        raw = self._raw.setdefault(operand, {})
        if last is None:
            raw.update(found)
            return dict.fromkeys(found, 0.0)
        # what a scrape lacks, because a collector failed, stands still
        grown = dict(last.values[operand])
        for key, value in found.items():
            before = raw.get(key, 0.0)
            grown[key] = grown.get(key, 0.0) + (value - before if value >= before else value)
            raw[key] = value
        return grown

    def read_series(self, query: Query, *, window_seconds: float) -> tuple[Series, ...]:
        """Return the query's lines over all points; a rate is over the window before each."""
        lines: dict[Key, list[tuple[datetime, float]]] = {}
        for index, point in enumerate(self._points):
            for key, value in self._answer(query, index, window_seconds).items():
                lines.setdefault(key, []).append((point.taken_at, value))
        return tuple(Series(key, tuple(points)) for key, points in sorted(lines.items()))

    def read_values(self, query: Query, *, window_seconds: float) -> Values:
        """Return the query's values at the last scrape."""
        return self._answer(query, len(self._points) - 1, window_seconds) if self._points else {}

    def _answer(self, query: Query, index: int, window_seconds: float) -> Values:
        operands = list_operands(query)
        if query.kind == "sum":
            return self._points[index].values[operands[0]]
        rates = [self._rates(item, index, window_seconds) for item in operands]
        if query.kind == "rate":
            return rates[0]
        if query.kind == "ratio":
            return {key: rates[0].get(key, 0.0) / value for key, value in rates[1].items() if value > 0}
        return dict(_quantiles(query.quantile, rates[0]))

    def _rates(self, operand: Operand, index: int, window_seconds: float) -> Values:
        point = self._points[index]
        first = index
        while first and (point.taken_at - self._points[first - 1].taken_at).total_seconds() <= window_seconds:
            first -= 1
        if first == index:
            return {}
        start = self._points[first]
        seconds = (point.taken_at - start.taken_at).total_seconds()
        before = start.values[operand]
        return {key: (value - before.get(key, 0.0)) / seconds for key, value in point.values[operand].items()}


def _quantiles(quantile: float, rates: Values) -> Iterator[tuple[Key, float]]:
    histograms: dict[Key, dict[float, float]] = {}
    for (*labels, bound), rate in rates.items():
        histograms.setdefault(tuple(labels), {})[float(bound)] = rate
    for key, buckets in histograms.items():
        value = estimate_quantile(quantile, buckets)
        if value is not None:
            yield key, value
