"""A table of the daily prices of many symbols, and the checks that need several rows.

Removes repeated rows, and combines the bars of a day into one bar. `splits` adjusts the prices. Prices are
floats. If a price in a file has up to fifteen digits, `repr` of its float has the same digits. Never reads a
file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from core.errors import PriceFileError
from core.price_import.vocabulary import PRICES
from core.simulation.amounts import Floats

Columns = dict[str, NDArray[Any]]

KEY: Final = ("code", "day", "second")
VALUES: Final = (*PRICES, "volume")
TYPES: Final = {
    **dict.fromkeys(KEY, np.int32), **dict.fromkeys(VALUES, np.float64), "file": np.int32, "line": np.int32
}  # fmt: skip  # with one column per line, this would fill a page
_FIRST_ROWS: Final = 10_000
_SAMPLED_ROWS: Final = 500
"""The first rows of a symbol, at most this number, show whether they are one day, week or month apart."""

_INTERVALS: Final = ((300, "year"), (80, "quarter"), (25, "month"), (6, "week"))


class TableBuilder:
    """Builds a table from batches of rows.

    Each batch is appended to growing arrays. Collecting the batches and joining them at the end would need
    twice the memory.
    """

    def __init__(self) -> None:
        self.symbols: dict[str, int] = {}
        self.files: list[str] = []
        self.rows = 0
        self._columns = {name: np.empty(_FIRST_ROWS, kind) for name, kind in TYPES.items()}

    def add(self, part: Columns) -> None:
        """Append rows of the last file in `self.files`; their column `code` has values of `self.symbols`."""
        first, self.rows = self.rows, self.rows + len(part["code"])
        for name, column in self._columns.items():
            if self.rows > len(column):
                column.resize(max(self.rows, len(column) * 2), refcheck=False)
            column[first : self.rows] = part.get(name, len(self.files) - 1)

    def build(self) -> "PriceTable":
        """Return the table, sorted by symbol, day and time. Symbols without rows are left out."""
        for column in self._columns.values():
            column.resize(self.rows, refcheck=False)
        names = list(self.symbols)
        order = sorted(np.unique(self._columns["code"]).tolist(), key=names.__getitem__)
        place = np.zeros(len(names), np.int32)
        place[order] = np.arange(len(order), dtype=np.int32)
        self._columns["code"] = place[self._columns["code"]]
        _sort(self._columns)
        return PriceTable(tuple(names[code] for code in order), tuple(self.files), self._columns)


def _sort(columns: Columns) -> None:
    """Sort rows by the columns in KEY; rows with equal keys keep their order."""
    is_later, is_same = np.zeros(max(len(columns["code"]) - 1, 0), np.bool_), np.True_
    for name in KEY:
        step = np.diff(columns[name])
        is_later |= is_same & (step > 0)
        is_same = is_same & (step == 0)
    if not (is_later | is_same).all():
        order = np.lexsort([columns[name] for name in reversed(KEY)])
        for name in columns:  # one column at a time: a copy of the table would need twice the memory
            columns[name] = columns[name][order]


@dataclass(frozen=True)
class PriceTable:
    """Prices as one array per column; each row takes 60 bytes.

    The column `code` has indices in `symbols`, and the column `file` has indices in `files`. `day` has values
    of `date.toordinal()`, `second` has seconds since midnight. Open, high and low are NaN if they are
    missing.
    """

    symbols: tuple[str, ...]
    files: tuple[str, ...]
    columns: Columns

    def __len__(self) -> int:
        return len(self.columns["code"])

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.columns[name]

    def select(self, rows: Any) -> "PriceTable":
        """Return a table of some rows; `rows` is a slice, a mask, or row numbers in the wanted order."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        return PriceTable(self.symbols, self.files, columns)

    @cached_property
    def _starts(self) -> NDArray[np.intp]:
        return np.searchsorted(self["code"], np.arange(len(self.symbols) + 1, dtype=np.int32))

    def rows_of(self, code: int) -> slice:
        """Return the rows of the symbol with this code, as a slice of row numbers."""
        return slice(int(self._starts[code]), int(self._starts[code + 1]))

    def opens(self, rows: slice) -> Floats:
        """Return the opens of these rows. The close replaces a missing open."""
        return np.where(np.isnan(self["open"][rows]), self["close"][rows], self["open"][rows])

    def find_day(self, symbol: str, day: int) -> tuple[slice, int]:
        """Return the rows of a symbol as a slice, and the row number of its first row on or after `day`."""
        rows = self.rows_of(self.symbols.index(symbol))
        return rows, rows.start + int(np.searchsorted(self["day"][rows], day))


def round_adjusted(prices: Floats) -> Floats:
    """Round computed prices to four decimal places, and prices below 0.1 to six significant digits."""
    with np.errstate(all="ignore"):  # no warnings for missing prices, which are NaN
        rounded = np.rint(prices * 1e4) / 1e4
        unit = 10.0 ** (5 - np.floor(np.log10(prices)))
        return np.where(prices < 0.1, np.rint(prices * unit) / unit, rounded)


def drop_repeats(table: PriceTable) -> tuple[PriceTable, int]:
    """Remove repeated rows from a sorted table; return the table and the number of removed rows.

    Raises `PriceFileError` for two rows of one symbol and time with different values; the message names both.
    """
    same = np.logical_and.reduce([np.diff(table[name]) == 0 for name in KEY])
    if not same.any():
        return table, 0
    equal = [
        (table[name][1:] == table[name][:-1]) | (np.isnan(table[name][1:]) & np.isnan(table[name][:-1]))
        for name in VALUES
    ]
    different = np.flatnonzero(same & ~np.logical_and.reduce(equal))
    if len(different):
        raise _fail_on_two(table, int(different[0]), "differ")
    return table.select(np.append(True, ~same)), int(same.sum())


def _fail_on_two(table: PriceTable, row: int, reason: str) -> PriceFileError:
    day = date.fromordinal(int(table["day"][row]))
    first, second = (f"{table.files[table['file'][n]]}:{table['line'][n]}" for n in (row, row + 1))
    return PriceFileError(
        f"{table.symbols[table['code'][row]]} on {day}: the rows {first} and {second} {reason};"
        " choose with --where COLUMN=VALUE, such as --where series=EQ, or leave one out"
    )


def join_days(table: PriceTable) -> tuple[PriceTable, int]:
    """Combine the bars of each day into one bar; return the table, and the largest number of bars in a day.

    Raises `PriceFileError` when a day has several rows, but most days in the same file have one row.
    """
    is_new = np.append(True, (np.diff(table["code"]) != 0) | (np.diff(table["day"]) != 0))
    if is_new.all():
        return table, 1
    starts = np.flatnonzero(is_new)
    counts = np.diff(np.append(starts, len(table)))
    days = np.cumsum(is_new) - 1
    # a file is intraday if more than half of its days have several rows; `many` is the number of such days
    pairs, sizes = np.unique(table["file"].astype(np.int64) * len(starts) + days, return_counts=True)
    files = pairs // len(starts)
    many = np.bincount(files, sizes > 1, minlength=len(table.files))
    is_intraday = many * 2 > np.bincount(files, minlength=len(table.files))
    stray = np.flatnonzero((counts[days] > 1) & ~is_intraday[table["file"]])
    if len(stray):
        row = min(int(stray[0]), int(starts[days[stray[0]]]) + int(counts[days[stray[0]]]) - 2)
        raise _fail_on_two(table, row, "are both of this day, where most days have one")
    opens = table.opens(slice(None))
    high, low = np.fmax(table["high"], table["close"]), np.fmin(table["low"], table["close"])
    joined = table.select(starts)
    joined.columns.update(
        open=opens[starts],
        high=np.maximum.reduceat(np.fmax(high, opens), starts),
        low=np.minimum.reduceat(np.fmin(low, opens), starts),
        close=table["close"][starts + counts - 1],
        volume=np.add.reduceat(table["volume"], starts),
    )
    return joined, int(counts.max())


def describe_intervals(table: PriceTable) -> list[str]:
    """Return warnings about symbols with one row per week, month, quarter or year instead of one per day."""
    found: dict[str, list[str]] = {}
    for code, symbol in enumerate(table.symbols):
        gaps = np.diff(table["day"][table.rows_of(code)][:_SAMPLED_ROWS])
        low, median = np.quantile(gaps, (0.1, 0.5)) if len(gaps) > 1 else (0, 0)
        unit = next((unit for days, unit in _INTERVALS if median >= days and low >= 0.75 * days), None)
        if unit:
            found.setdefault(unit, []).append(symbol)
    return [
        f"one row a {unit}, not a day: {shorten_list(symbols, 5)}; changes are from {unit} to {unit}"
        for unit, symbols in found.items()
    ]


def is_shifted(table: PriceTable) -> bool:
    """Return whether the trading days are Sunday to Thursday instead of Monday to Friday.

    This happens if midnights of a time zone east of UTC were converted to UTC.
    """
    weekdays = np.bincount((table["day"] - 1) % 7, minlength=7)
    return bool(weekdays.sum() >= 5 and weekdays[6] and not weekdays[4])


def shorten_list(names: Sequence[str], max_names: int) -> str:
    """Return the first `max_names` names and the number of the other names, such as "A, B and 3 more"."""
    rest = f" and {len(names) - max_names} more" if len(names) > max_names else ""
    return ", ".join(names[:max_names]) + rest
