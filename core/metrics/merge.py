"""Merges the values of many writers into metrics. A writer is the `MetricWriter` of one process.

Owns the rules of merging (counters and histograms are added, gauges are merged by their mode) and the reading
of a writer's file. The keys of a file are decoded once, so later scrapes read only the numbers. Searches for
no files and takes no locks; not thread safe.
"""

import json
import logging
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from prometheus_client import Metric
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from core.metrics.writer import HEADER_BYTES, LENGTH, Prefix, SeriesKey

logger = logging.getLogger(__name__)

_NUMBER_BYTES = 8


def format_bound(bound: float) -> str:
    """Return the upper bound of a bucket as text for the label `le`."""
    text: str = floatToGoString(bound)  # type: ignore[no-untyped-call]  # prometheus_client has no annotations here
    return text


class WriterNumbers(NamedTuple):
    """The values of one writer. `series` has the index of each value's series, from `SeriesIndex.find`.

    `timestamps` is empty if the values are from a file of another kind than `gauge_mostrecent`.
    """

    series: list[int]
    numbers: list[float]
    timestamps: list[float]


class Merged(NamedTuple):
    """The merged value and timestamp of each series, and whether any writer has the series."""

    numbers: list[float]
    timestamps: list[float]
    present: list[bool]


class _Series(NamedTuple):
    key: SeriesKey
    sample: str
    labels: dict[str, str]


class _Buckets(NamedTuple):
    """The series of a histogram for one set of labels. `bounds` maps a bound to its series and labels."""

    labels: dict[str, str]
    sums: list[int]
    bounds: dict[float, tuple[int, dict[str, str]]]


class _Family(NamedTuple):
    """One metric. The series of a histogram are in `buckets`, by set of labels; others are in `members`."""

    text: str
    members: list[int]
    buckets: dict[tuple[tuple[str, str], ...], _Buckets]


class _Layout(NamedTuple):
    """The series and the positions of their values in the first `used` bytes of a file."""

    inode: int
    used: int
    series: list[int]
    positions: list[int]


class SeriesIndex:
    """All series that were ever read. There are few, because label values come from closed sets."""

    def __init__(self) -> None:
        self._series: list[_Series] = []
        self._by_key: dict[SeriesKey, int] = {}
        self._by_identity: dict[tuple[str, str, tuple[tuple[str, str], ...]], int] = {}
        self._families: dict[tuple[str, str], _Family] = {}
        self._layouts: dict[Path, _Layout] = {}

    def find(self, key: SeriesKey) -> int:
        """Return the index of a series, the same for every writer. Raises `ValueError` for a damaged key."""
        found = self._by_key.get(key)
        if found is None:
            found = self._by_key[key] = self._add(key)
        return found

    def _add(self, key: SeriesKey) -> int:
        metric, sample, labels, text = json.loads(key.key)
        kind = key.prefix.partition("_")[0]
        # The identity of a series has no help text and no gauge mode: these may differ between releases that
        # run at the same time.
        identity = (kind, sample, tuple(sorted(labels.items())))
        if identity in self._by_identity:
            return self._by_identity[identity]
        index = self._by_identity[identity] = len(self._series)
        self._series.append(_Series(key, sample, labels))
        family = self._families.setdefault((metric, kind), _Family(text, [], {}))
        if kind == "histogram":
            _add_to_buckets(family.buckets, labels, index)
        else:
            family.members.append(index)
        return index

    # -- files ------------------------------------------------------------------------

    def read_values(self, values: Iterable[tuple[SeriesKey, float, float]]) -> WriterNumbers:
        """Return `values` (tuples of key, value and timestamp, from memory) as a `WriterNumbers`."""
        rows = [(self.find(key), number, timestamp) for key, number, timestamp in values]
        return WriterNumbers([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows])

    def read_file(self, path: Path, prefix: Prefix) -> WriterNumbers:
        """Return the values in a writer's file. A file that is missing, empty or damaged has none."""
        try:
            with path.open("rb", buffering=0) as file:
                inode = os.fstat(file.fileno()).st_ino
                data = file.readall()
            layout = self._decode_keys(path, prefix, inode, data)
            numbers = memoryview(data)[: len(data) // _NUMBER_BYTES * _NUMBER_BYTES].cast("d")
            return WriterNumbers(
                layout.series,
                [numbers[position] for position in layout.positions],
                [numbers[position + 1] for position in layout.positions]
                if prefix == "gauge_mostrecent"
                else [],
            )
        except FileNotFoundError:
            return WriterNumbers([], [], [])
        except (ValueError, TypeError, IndexError, struct.error) as error:
            logger.warning("skipped %s, which is damaged (%s); remove it", path, type(error).__name__)
            return WriterNumbers([], [], [])

    def _decode_keys(self, path: Path, prefix: Prefix, inode: int, data: bytes) -> _Layout:
        """Return where the file has each series. Decodes only the series added since the last call."""
        # no data if the writer has created the file but not filled it yet
        used = min(LENGTH.unpack_from(data)[0], len(data)) if data else 0
        layout = self._layouts.get(path)
        if layout is None or layout.inode != inode or layout.used > used:
            layout = _Layout(inode, HEADER_BYTES, [], [])
        if layout.used < used:
            for key, position in _list_keys(data, layout.used, used):
                layout.series.append(self.find(SeriesKey(prefix, key)))
                layout.positions.append(position // _NUMBER_BYTES)
            layout = self._layouts[path] = layout._replace(used=used)
        return layout

    def forget_files_but(self, paths: Iterable[Path]) -> None:
        """Forget the layouts of all files that are not in `paths`."""
        kept = set(paths)
        self._layouts = {path: layout for path, layout in self._layouts.items() if path in kept}

    # -- merging ----------------------------------------------------------------------

    def list_samples(self, writer: WriterNumbers) -> list[Sample]:
        """Return the values of one writer with their names and labels."""
        series = [self._series[index] for index in writer.series]
        return [
            Sample(each.sample, each.labels, number)
            for each, number in zip(series, writer.numbers, strict=True)
        ]

    def merge(self, writers: Iterable[WriterNumbers]) -> Merged:
        """Merge the values of all writers for each series."""
        size = len(self._series)
        merged = Merged([0.0] * size, [0.0] * size, [False] * size)
        numbers, timestamps, present = merged
        prefixes = [series.key.prefix for series in self._series]
        for writer in writers:
            latest = writer.timestamps or [0.0] * len(writer.series)
            for series, number, timestamp in zip(writer.series, writer.numbers, latest, strict=True):
                if prefixes[series] == "gauge_mostrecent":
                    if not present[series] or timestamp > timestamps[series]:
                        numbers[series], timestamps[series] = number, timestamp
                elif prefixes[series] == "gauge_livemax":
                    numbers[series] = max(numbers[series], number) if present[series] else number
                else:
                    numbers[series] += number
                present[series] = True
        return merged

    def list_values(self, merged: Merged) -> list[tuple[SeriesKey, float, float]]:
        """Return the key, value and timestamp of each series that any writer has."""
        rows = zip(self._series, merged.numbers, merged.timestamps, merged.present, strict=True)
        return [
            (series.key, number, timestamp) for series, number, timestamp, is_present in rows if is_present
        ]

    def build(self, writers: Iterable[WriterNumbers]) -> list[Metric]:
        """Return the metrics of all writers together, sorted by name."""
        merged = self.merge(writers)
        metrics = []
        for (name, kind), family in sorted(self._families.items()):
            samples = [
                Sample(self._series[index].sample, self._series[index].labels, merged.numbers[index])
                for index in family.members
                if merged.present[index]
            ]
            for buckets in family.buckets.values():
                samples.extend(_accumulate(name, buckets, merged))
            if samples:
                metrics.append(Metric(name, family.text, kind))
                metrics[-1].samples = samples
        return metrics


def _add_to_buckets(
    buckets: dict[tuple[tuple[str, str], ...], _Buckets], labels: dict[str, str], index: int
) -> None:
    others = {name: value for name, value in labels.items() if name != "le"}
    group = buckets.setdefault(tuple(others.items()), _Buckets(others, [], {}))
    if "le" in labels:
        bound = float(labels["le"])
        group.bounds[bound] = (index, {**others, "le": format_bound(bound)})
    else:
        group.sums.append(index)


def _accumulate(name: str, buckets: _Buckets, merged: Merged) -> Iterator[Sample]:
    """Yield the buckets, the count and the sum of a histogram for one set of labels.

    The counts of the buckets are cumulative here, but not in the files.
    """
    # a histogram without its last bound is skipped: its writer is still creating it
    if float("inf") not in buckets.bounds or not any(merged.present[index] for index in buckets.sums):
        return
    count = 0.0
    for _, (index, labels) in sorted(buckets.bounds.items()):
        count += merged.numbers[index]
        yield Sample(f"{name}_bucket", labels, count)
    yield Sample(f"{name}_count", buckets.labels, count)
    yield Sample(f"{name}_sum", buckets.labels, sum(merged.numbers[index] for index in buckets.sums))


def _list_keys(data: bytes, start: int, end: int) -> Iterator[tuple[str, int]]:
    """Yield each key and the position of its value. `core.metrics.writer` writes the format."""
    position = start
    while position < end:
        length = LENGTH.unpack_from(data, position)[0]
        if length <= 0 or position + length > end:
            raise ValueError(f"a key of {length} bytes")
        key = data[position + LENGTH.size : position + LENGTH.size + length].decode()
        position += LENGTH.size + length + 8 - (length + LENGTH.size) % 8
        yield key, position
        position += 2 * _NUMBER_BYTES
