"""Daily prices of many symbols as columns of numbers.

Owns the shape that price files are read into. A float holds every price of up to fifteen digits,
so that its shortest text is the price as it was written. Never reads a file.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Columns = dict[str, NDArray[Any]]

TYPES: Final = {
    "code": np.int32,
    "day": np.int32,
    "second": np.int32,
    "open": np.float64,
    "high": np.float64,
    "low": np.float64,
    "close": np.float64,
    "volume": np.float64,
    "file": np.int32,
    "line": np.int32,
}
KEY: Final = ("code", "day", "second")
PRICE_COLUMNS: Final = ("open", "high", "low", "close")
_FIRST_ROWS: Final = 10_000
VALUES: Final = (*PRICE_COLUMNS, "volume")


class TableBuilder:
    """Grows a table in place: parts that are joined at the end would take its memory twice."""

    def __init__(self) -> None:
        self.symbols: dict[str, int] = {}
        self.files: list[str] = []
        self.rows = 0
        self._columns = {name: np.empty(_FIRST_ROWS, kind) for name, kind in TYPES.items()}

    def add(self, part: Columns) -> None:
        """Append rows of the last file; their codes are those of `symbols`."""
        first, self.rows = self.rows, self.rows + len(part["code"])
        for name, column in self._columns.items():
            if self.rows > len(column):
                column.resize(max(self.rows, len(column) * 2), refcheck=False)
            column[first : self.rows] = part.get(name, len(self.files) - 1)

    def build(self) -> "PriceTable":
        """Return the table, sorted by symbol, day and time, with the symbols that have rows."""
        for column in self._columns.values():
            column.resize(self.rows, refcheck=False)
        names = list(self.symbols)
        order = sorted(np.unique(self._columns["code"]).tolist(), key=names.__getitem__)
        place = np.zeros(len(names), np.int32)
        place[order] = np.arange(len(order), dtype=np.int32)
        self._columns["code"] = place[self._columns["code"]]
        table = PriceTable(tuple(names[code] for code in order), tuple(self.files), self._columns)
        _sort(table.columns)
        return table


@dataclass(frozen=True)
class PriceTable:
    """Rows of (symbol, day, time of day, bar, volume) and where they stand, in 60 bytes each.

    `symbols[code]` is the symbol of a row, `day` a proleptic Gregorian ordinal, `second` the time
    of day; open, high and low are NaN where a file has none. `files[file]` is its file.
    """

    symbols: tuple[str, ...]
    files: tuple[str, ...]
    columns: Columns

    def __len__(self) -> int:
        return len(self.columns["code"])

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.columns[name]

    def select(self, rows: Any) -> "PriceTable":
        """Return the rows with these numbers or of this slice, in this order."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        return PriceTable(self.symbols, self.files, columns)

    @cached_property
    def _starts(self) -> NDArray[np.intp]:
        codes = np.arange(len(self.symbols) + 1, dtype=np.int32)
        return np.searchsorted(self["code"], codes)

    def rows_of(self, code: int) -> slice:
        """Return where the rows of one symbol are."""
        return slice(int(self._starts[code]), int(self._starts[code + 1]))

    def find_place(self, row: int) -> str:
        """Return file and line of a row."""
        return f"{self.files[self['file'][row]]}:{self['line'][row]}"


def _sort(columns: Columns) -> None:
    """Sort rows by their key; equal ones keep their order."""
    is_later, is_same = np.zeros(max(len(columns["code"]) - 1, 0), np.bool_), np.True_
    for name in KEY:
        step = np.diff(columns[name])
        is_later |= is_same & (step > 0)
        is_same = is_same & (step == 0)
    if (is_later | is_same).all():
        return
    order = np.lexsort([columns[name] for name in reversed(KEY)])
    for name in columns:  # one after the other: a copy of all at once takes twice the memory
        columns[name] = columns[name][order]


def round_adjusted(prices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round prices that were computed: to four places, below 0.1 to six significant digits."""
    with np.errstate(all="ignore"):  # what is not a number stays none
        rounded = np.rint(prices * 1e4) / 1e4
        unit = 10.0 ** (5 - np.floor(np.log10(prices)))
        return np.where(prices < 0.1, np.rint(prices * unit) / unit, rounded)
