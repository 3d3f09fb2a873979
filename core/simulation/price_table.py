"""Daily prices of many symbols as exact columns.

Owns the shape that a price file is read into: whole numbers only, so that a
price is the same in every computation. Never reads a file and never talks to
the service.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.simulation.amounts import Integers

SmallIntegers = NDArray[np.int32]

OPEN, HIGH, LOW, CLOSE = range(4)
"""The columns of `PriceTable.bars`."""


@dataclass(frozen=True)
class PriceTable:
    """Rows of (symbol, day, bar, volume), held in 44 bytes each.

    `symbols[codes[i]]` is the symbol of row i, `days` are proleptic Gregorian
    ordinals (`date.fromordinal`), `bars` has one row of open, high, low and
    close in 1/10000.
    """

    symbols: tuple[str, ...]
    codes: SmallIntegers
    days: SmallIntegers
    bars: Integers
    volumes: Integers

    def __len__(self) -> int:
        return len(self.codes)

    @classmethod
    def empty(cls) -> "PriceTable":
        """Return a table without rows."""
        none = np.empty(0, np.int32)
        return cls((), none, none, np.empty((0, 4), np.int64), np.empty(0, np.int64))

    def select(self, rows: NDArray[np.intp]) -> "PriceTable":
        """Return the rows with these numbers, in this order."""
        return PriceTable(
            self.symbols, self.codes[rows], self.days[rows], self.bars[rows], self.volumes[rows]
        )

    def sort_without_repeats(self) -> "PriceTable":
        """Return the rows by symbol and day; of rows with the same pair the last one stays.

        A symbol without rows is left out.
        """
        present = np.unique(self.codes).tolist()
        names = sorted(present, key=lambda code: self.symbols[code])
        place = np.zeros(len(self.symbols), np.int32)
        place[names] = np.arange(len(names), dtype=np.int32)
        codes = place[self.codes]
        order = np.lexsort((self.days, codes))  # stable: repeats keep the order of the file
        last = np.ones(len(order), bool)
        last[:-1] = (np.diff(codes[order]) != 0) | (np.diff(self.days[order]) != 0)
        kept = order[last]
        symbols = tuple(self.symbols[code] for code in names)
        return PriceTable(symbols, codes[kept], self.days[kept], self.bars[kept], self.volumes[kept])

    def rows_of(self, code: int) -> slice:
        """Return where the rows of one symbol are; only for a sorted table."""
        first, last = np.searchsorted(self.codes, [code, code + 1])
        return slice(int(first), int(last))
