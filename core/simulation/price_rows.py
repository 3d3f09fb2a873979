"""Turns records of a price file into checked, adjusted numbers.

Owns what a valid row is. Works by column: a row is looked at on its own only
when a column holds something wrong. Never reads a file.
"""

import re
from collections.abc import Callable, Sequence
from datetime import date
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.errors import InvalidInput
from core.service.inputs import check_symbol
from core.simulation.amounts import PRICE_UNITS
from core.simulation.price_columns import PriceColumns
from core.simulation.price_file import RecordBatch
from core.simulation.price_table import CLOSE, HIGH, LOW, PriceTable

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Fields = Sequence[Sequence[str]]

MAX_PRICE: Final = 1e9
"""Far above any share; keeps price times shares inside 64 bits."""

MAX_VOLUME: Final = 2.0**53
"""The largest range in which a float holds every whole number."""

FIRST_DAY: Final = date(1900, 1, 1)
"""Older days are typing errors; it also keeps days some way from the first that a date can have."""

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_BAR_NAMES = ("open", "high", "low", "close")
_UNKNOWN = -1


class Problem(NamedTuple):
    """A row that cannot be loaded: its line in the file and why."""

    line: int
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


class Check(NamedTuple):
    """Rows that break one rule, and how to say so of one of them."""

    broken: Mask
    explain: Callable[[int], str]


class RowReader:
    """Reads the batches of one file; remembers the symbols and dates that it has met."""

    def __init__(self, columns: PriceColumns, *, last_day: date) -> None:
        self._columns = columns
        self._last_day = last_day
        self._codes = _SymbolCodes()
        self._days = _DayOrdinals()

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols met so far, by code."""
        return tuple(self._codes.symbols)

    def read(self, batch: RecordBatch) -> tuple[PriceTable, list[Problem]]:
        """Return the valid rows of a batch and the problem of each other row, by line.

        The table's symbols are those of `self.symbols` once all batches are read.
        """
        width = self._columns.width
        problems = [
            Problem(line, f"{count} fields where the header has {width}") for line, count in batch.misfits
        ]
        fields = batch.columns
        if not fields:
            return PriceTable.empty(), problems
        codes = np.fromiter(map(self._codes.__getitem__, fields[self._columns.symbol]), np.int32)
        days = np.fromiter(map(self._days.__getitem__, fields[self._columns.date]), np.int32)
        values = _Values.convert(fields, self._columns)
        checks = [*self._check_keys(fields, codes, days), *values.checks()]
        broken = np.logical_or.reduce([check.broken for check in checks])
        for row in np.flatnonzero(broken).tolist():
            reason = next(check.explain(row) for check in checks if check.broken[row])
            problems.append(Problem(batch.lines[row], reason))
        valid = ~broken
        table = PriceTable(
            (),
            codes[valid],
            days[valid],
            values.bars[valid].astype(np.int64),
            values.volume[valid].astype(np.int64),
        )
        return table, sorted(problems)

    def _check_keys(self, fields: Fields, codes: NDArray[np.int32], days: NDArray[np.int32]) -> list[Check]:
        symbols, dates = fields[self._columns.symbol], fields[self._columns.date]
        return [
            Check(
                codes == _UNKNOWN,
                lambda row: (
                    f"symbol {symbols[row]!r} is not 1 to 10 capitals, digits, '.' or '-', a capital first"
                ),
            ),
            Check(days == _UNKNOWN, lambda row: f"date {dates[row]!r} is not a day as YYYY-MM-DD"),
            Check(
                days < FIRST_DAY.toordinal(),
                lambda row: f"date {dates[row]!r} is before {FIRST_DAY}",
            ),
            Check(
                days > self._last_day.toordinal(),
                lambda row: f"date {dates[row]!r} is no trading day that has closed yet",
            ),
        ]


class _Values(NamedTuple):
    """The number columns of one batch, NaN where a field is no number, and their text."""

    prices: list[Floats]
    price_texts: list[Sequence[str]]
    volume: Floats
    volume_text: Sequence[str]
    adjusted: Floats
    adjusted_text: Sequence[str]
    bars: Floats

    @classmethod
    def convert(cls, fields: Fields, columns: PriceColumns) -> "_Values":
        price_texts: list[Sequence[str]] = [fields[place] for place in columns.prices]
        prices = [_to_floats(texts) for texts in price_texts]
        adjusted, adjusted_text = prices[CLOSE], price_texts[CLOSE]
        if columns.adjusted_close is not None:
            adjusted_text = fields[columns.adjusted_close]
            adjusted = _to_floats(adjusted_text)
        volume = _to_floats(fields[columns.volume])
        return cls(
            prices,
            price_texts,
            volume,
            fields[columns.volume],
            adjusted,
            adjusted_text,
            _adjust(prices, adjusted),
        )

    def checks(self) -> list[Check]:
        """Say which rows break which rule, in the order in which they are reported."""
        named = zip(_BAR_NAMES, self.prices, self.price_texts, strict=True)
        prices = [_check_price(name, values, texts) for name, values, texts in named]
        high, low = self.price_texts[HIGH], self.price_texts[LOW]
        volume = self.volume
        outside = (self.bars < 1) | (self.bars > MAX_PRICE * PRICE_UNITS)
        return [
            *prices,
            Check(
                self.prices[LOW] > self.prices[HIGH],
                lambda row: f"low {low[row]} is above high {high[row]}",
            ),
            Check(
                ~((volume >= 0) & (volume <= MAX_VOLUME) & (volume == np.rint(volume))),
                lambda row: f"volume {self.volume_text[row]!r} is not a whole number from 0",
            ),
            _check_price("adjusted close", self.adjusted, self.adjusted_text),
            Check(
                np.asarray(outside.any(axis=1)),
                lambda row: (
                    f"adjusted close {self.adjusted_text[row]} puts a price below 0.0001"
                    f" or above {MAX_PRICE:.0f}"
                ),
            ),
        ]


def _adjust(prices: list[Floats], adjusted: Floats) -> Floats:
    """Return open, high, low and close in 1/10000, scaled so that the close is the adjusted one."""
    with np.errstate(all="ignore"):  # what is not a number is found by the checks
        factor = adjusted / prices[CLOSE]
        scaled = [values * factor for values in prices[:CLOSE]]
        # the close is taken as given: close * (adjusted / close) can round to another digit
        bars = np.column_stack([*scaled, adjusted])
        return np.asarray(np.rint(bars * PRICE_UNITS), np.float64)


def _check_price(name: str, values: Floats, texts: Sequence[str]) -> Check:
    return Check(
        ~((values > 0) & (values <= MAX_PRICE)),
        lambda row: f"{name} {texts[row]!r} is not a price above 0 and up to {MAX_PRICE:.0f}",
    )


def _to_floats(texts: Sequence[str]) -> Floats:
    joined = "".join(texts)
    if joined.isascii() and "_" not in joined:  # float() takes "1_000" and digits of any script
        try:
            return np.fromiter(map(float, texts), np.float64, len(texts))
        except ValueError:
            pass
    return np.fromiter(map(_to_float, texts), np.float64, len(texts))


def _to_float(text: str) -> float:
    if not text.isascii() or "_" in text:
        return float("nan")
    try:
        return float(text)
    except ValueError:
        return float("nan")


class _SymbolCodes(dict[str, int]):
    """Text of a symbol field -> its code, `_UNKNOWN` for what is no symbol."""

    def __init__(self) -> None:
        super().__init__()
        self.symbols: list[str] = []

    def __missing__(self, text: str) -> int:
        symbol = text.strip()
        if symbol != text:
            return self[symbol]
        try:
            check_symbol(symbol)
        except InvalidInput:
            return _UNKNOWN
        self[text] = len(self.symbols)
        self.symbols.append(symbol)
        return self[text]


class _DayOrdinals(dict[str, int]):
    """Text of a date field -> the day's ordinal, `_UNKNOWN` for what is no date."""

    def __missing__(self, text: str) -> int:
        stripped = text.strip()
        if not _DATE.fullmatch(stripped):
            return _UNKNOWN
        try:
            self[text] = date.fromisoformat(stripped).toordinal()
        except ValueError:
            return _UNKNOWN
        return self[text]
