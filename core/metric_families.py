"""Adds up the numbers of many writers into metric families.

Owns how numbers of a kind combine (counters and histograms add up, gauges by their mode) and
what a file's bytes mean. What was understood once is remembered: a scrape of many writers
reads numbers, and not the same keys again. Looks for no files, and locks nothing.
"""

import json
import logging
import os
import struct
from collections.abc import Iterable, Iterator
from itertools import compress
from pathlib import Path
from typing import NamedTuple

from prometheus_client import Metric
from prometheus_client.samples import Sample

from core.metric_instruments import format_bound
from core.metric_values import Prefix, SeriesKey

logger = logging.getLogger(__name__)

_LENGTH = struct.Struct("i").unpack_from
# A file begins with how much of it is used, and padding; each number has 8 bytes of its own.
_HEADER_BYTES = 8
_NUMBER_BYTES = 8


class Reading(NamedTuple):
    """The numbers of one writer; `series` are of `Families.index`, all lists of one length."""

    series: list[int]
    numbers: list[float]
    timestamps: list[float]


class _Series(NamedTuple):
    key: SeriesKey
    sample: str
    labels: dict[str, str]


class _Buckets(NamedTuple):
    """A histogram's series for one set of labels."""

    labels: dict[str, str]
    sums: list[int]
    bounds: dict[float, tuple[int, dict[str, str]]]
    """The series of each upper bound, and its labels with the bound."""


class _Family(NamedTuple):
    text: str
    members: list[int]
    """All series but those of histograms."""
    buckets: dict[tuple[tuple[str, str], ...], _Buckets]


class _Known(NamedTuple):
    """What is known of a file: up to where it was understood, and which number is where."""

    inode: int
    used: int
    series: list[int]
    places: list[int]


class Merged(NamedTuple):
    """Each series' number over all writers, by `Families.index`, and whether any writer has it."""

    numbers: list[float]
    timestamps: list[float]
    present: list[bool]


class Families:
    """Every series that was ever seen; not thread safe. Labels come from closed sets, so few."""

    def __init__(self) -> None:
        self._series: list[_Series] = []
        self._by_key: dict[SeriesKey, int] = {}
        self._by_identity: dict[tuple[str, str, tuple[tuple[str, str], ...]], int] = {}
        self._families: dict[tuple[str, str], _Family] = {}
        self._files: dict[Path, _Known] = {}

    def index(self, key: SeriesKey) -> int:
        """Return the number of a series, the same for every writer. Raises `ValueError`."""
        found = self._by_key.get(key)
        if found is None:
            found = self._by_key[key] = self._define(key)
        return found

    def key(self, series: int) -> SeriesKey:
        """Return what identifies a series."""
        return self._series[series].key

    def _define(self, key: SeriesKey) -> int:
        metric, sample, labels, text = json.loads(key.key)
        kind = key.prefix.partition("_")[0]
        # the text, and a gauge's mode, may differ between releases that run side by side
        identity = (kind, sample, tuple(sorted(labels.items())))
        if identity in self._by_identity:
            return self._by_identity[identity]
        number = self._by_identity[identity] = len(self._series)
        self._series.append(_Series(key, sample, labels))
        family = self._families.setdefault((metric, kind), _Family(text, [], {}))
        if kind == "histogram":
            _add_to_buckets(family.buckets, labels, number)
        else:
            family.members.append(number)
        return number

    # -- files ------------------------------------------------------------------------

    def read_file(self, path: Path, prefix: Prefix) -> Reading:
        """Return the numbers of a writer's file; none when it is gone, empty or damaged."""
        try:
            with path.open("rb", buffering=0) as file:
                inode = os.fstat(file.fileno()).st_ino
                data = file.readall()
            known = self._understand(path, prefix, inode, data)
            numbers = memoryview(data)[: len(data) // _NUMBER_BYTES * _NUMBER_BYTES].cast("d")
            return Reading(
                known.series,
                [numbers[place] for place in known.places],
                [numbers[place + 1] for place in known.places] if prefix == "gauge_mostrecent" else [],
            )
        except FileNotFoundError:
            return Reading([], [], [])
        except (ValueError, TypeError, IndexError, struct.error) as error:
            logger.warning("skipped %s, which is damaged (%s); remove it", path, type(error).__name__)
            return Reading([], [], [])

    def _understand(self, path: Path, prefix: Prefix, inode: int, data: bytes) -> _Known:
        """Return which number is where; only what was added since the last time is taken apart."""
        # a file that its writer has created, and not yet filled, says nothing
        used = min(_LENGTH(data, 0)[0], len(data)) if data else 0
        known = self._files.get(path)
        if known is None or known.inode != inode or known.used > used:
            known = _Known(inode, _HEADER_BYTES, [], [])
        if known.used < used:
            for key, place in _walk(data, known.used, used):
                known.series.append(self.index(SeriesKey(prefix, key)))
                known.places.append(place // _NUMBER_BYTES)
            known = self._files[path] = known._replace(used=used)
        return known

    def list_samples(self, reading: Reading) -> list[Sample]:
        """Return the numbers of one writer by their names and labels."""
        series = [self._series[number] for number in reading.series]
        return [
            Sample(each.sample, each.labels, number)
            for each, number in zip(series, reading.numbers, strict=True)
        ]

    def forget_files_but(self, paths: Iterable[Path]) -> None:
        """Forget what is known of other files than these."""
        kept = set(paths)
        self._files = {path: known for path, known in self._files.items() if path in kept}

    # -- merging ----------------------------------------------------------------------

    def merge(self, readings: Iterable[Reading]) -> Merged:
        """Return each series' number over all writers."""
        size = len(self._series)
        merged = Merged([0.0] * size, [0.0] * size, [False] * size)
        numbers, timestamps, present = merged
        prefixes = [series.key.prefix for series in self._series]
        for reading in readings:
            latest = reading.timestamps or [0.0] * len(reading.series)
            for series, number, timestamp in zip(reading.series, reading.numbers, latest, strict=True):
                if prefixes[series] == "gauge_mostrecent":
                    if not present[series] or timestamp > timestamps[series]:
                        numbers[series], timestamps[series] = number, timestamp
                elif prefixes[series] == "gauge_livemax":
                    numbers[series] = max(numbers[series], number) if present[series] else number
                else:
                    numbers[series] += number
                present[series] = True
        return merged

    def list_present(self, merged: Merged) -> list[int]:
        """Return the series that any writer has."""
        return list(compress(range(len(merged.present)), merged.present))

    def build(self, readings: Iterable[Reading]) -> list[Metric]:
        """Return the families of all writers together, sorted by name."""
        merged = self.merge(readings)
        metrics = []
        for (name, kind), family in sorted(self._families.items()):
            samples = [
                Sample(self._series[number].sample, self._series[number].labels, merged.numbers[number])
                for number in family.members
                if merged.present[number]
            ]
            for buckets in family.buckets.values():
                samples.extend(_accumulate(name, buckets, merged))
            if samples:
                metrics.append(Metric(name, family.text, kind))
                metrics[-1].samples = samples
        return metrics


def _add_to_buckets(
    buckets: dict[tuple[tuple[str, str], ...], _Buckets], labels: dict[str, str], number: int
) -> None:
    bare = {name: value for name, value in labels.items() if name != "le"}
    group = buckets.setdefault(tuple(bare.items()), _Buckets(bare, [], {}))
    if "le" not in labels:
        group.sums.append(number)
        return
    bound = float(labels["le"])
    group.bounds[bound] = (number, {**bare, "le": format_bound(bound)})
    in_order = sorted(group.bounds.items())
    group.bounds.clear()
    group.bounds.update(in_order)


def _accumulate(name: str, buckets: _Buckets, merged: Merged) -> Iterator[Sample]:
    """Yield cumulative buckets, count and sum; files have what is in each bucket alone."""
    # without its last bound it is being defined right now
    if float("inf") not in buckets.bounds or not any(merged.present[number] for number in buckets.sums):
        return
    count = 0.0
    for number, labels in buckets.bounds.values():
        count += merged.numbers[number]
        yield Sample(f"{name}_bucket", labels, count)
    yield Sample(f"{name}_count", buckets.labels, count)
    yield Sample(f"{name}_sum", buckets.labels, sum(merged.numbers[number] for number in buckets.sums))


def _walk(data: bytes, start: int, end: int) -> Iterator[tuple[str, int]]:
    """Yield each key and where its number is; the format is prometheus_client's `mmap_dict`."""
    position = start
    while position < end:
        length = _LENGTH(data, position)[0]
        if length <= 0 or position + length > end:
            raise ValueError(f"a key of {length} bytes")
        key = data[position + 4 : position + 4 + length].decode()
        position += 4 + length + 8 - (length + 4) % 8
        yield key, position
        position += 16
