"""Counters, gauges and histograms over the values of a writer.

Owns how a metric's labels lead to its numbers. Unlike prometheus_client's they write to the
writer they are given, and not to one that is global to the process.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Literal

from prometheus_client.utils import floatToGoString

from core.metric_values import MetricWriter, Prefix, Value, build_key

# How a gauge's values combine over the live writers; the most recent also outlives its writer.
GaugeMode = Literal["livesum", "livemax", "mostrecent"]
_GAUGE_PREFIXES: dict[GaugeMode, Prefix] = {
    "livesum": "gauge_livesum",
    "livemax": "gauge_livemax",
    "mostrecent": "gauge_mostrecent",
}


def format_bound(bound: float) -> str:
    """Return a bucket's upper bound as its label has it."""
    text: str = floatToGoString(bound)  # type: ignore[no-untyped-call]  # prometheus_client has no annotations here
    return text


class _Instrument:
    """A metric with its label names; `prefix` says what kind it is."""

    def __init__(
        self, writer: MetricWriter, name: str, text: str, labels: Sequence[str], prefix: Prefix
    ) -> None:
        self._writer = writer
        self._name = name
        self._text = text
        self._labels = tuple(labels)
        self._prefix: Prefix = prefix

    def _value(self, sample: str, labels: tuple[str, ...], **extra: str) -> Value:
        pairs = dict(zip(self._labels, labels, strict=True), **extra)
        return self._writer.value(build_key(self._prefix, self._name, sample, pairs, self._text))


class Counter(_Instrument):
    """A count that only grows; `name` ends with `_total`."""

    def __init__(self, writer: MetricWriter, name: str, text: str, labels: Sequence[str] = ()) -> None:
        super().__init__(writer, name.removesuffix("_total"), text, labels, "counter")
        self._sample = name
        self._children: dict[tuple[str, ...], Value] = {}

    def labels(self, *labels: str) -> Value:
        """Return the count of one set of labels; it is shown from now on."""
        child = self._children.get(labels)
        if child is None:
            child = self._children[labels] = self._value(self._sample, labels)
        return child


class Gauge(_Instrument):
    """A number that comes and goes."""

    def __init__(
        self,
        writer: MetricWriter,
        name: str,
        text: str,
        labels: Sequence[str] = (),
        *,
        mode: GaugeMode = "livesum",
    ) -> None:
        super().__init__(writer, name, text, labels, _GAUGE_PREFIXES[mode])

    def labels(self, *labels: str) -> Value:
        """Return the number of one set of labels; it is shown from now on."""
        return self._value(self._name, labels)


class Distribution:
    """The buckets of a histogram for one set of labels; each counts what is in it alone."""

    def __init__(self, bounds: Sequence[float], buckets: Sequence[Value], total: Value) -> None:
        self._bounds = bounds
        self._buckets = buckets
        self._total = total

    def observe(self, amount: float) -> None:
        """Record one amount."""
        self._total.inc(amount)
        self._buckets[bisect_left(self._bounds, amount)].inc()


class Histogram(_Instrument):
    """How amounts are distributed over buckets."""

    def __init__(
        self,
        writer: MetricWriter,
        name: str,
        text: str,
        labels: Sequence[str] = (),
        *,
        bounds: Sequence[float],
    ) -> None:
        super().__init__(writer, name, text, labels, "histogram")
        self._bounds = (*bounds, float("inf"))
        self._children: dict[tuple[str, ...], Distribution] = {}

    def labels(self, *labels: str) -> Distribution:
        """Return the distribution of one set of labels; it is shown from now on."""
        child = self._children.get(labels)
        if child is None:
            total = self._value(f"{self._name}_sum", labels)
            buckets = [
                self._value(f"{self._name}_bucket", labels, le=format_bound(bound)) for bound in self._bounds
            ]
            child = self._children[labels] = Distribution(self._bounds, buckets, total)
        return child
