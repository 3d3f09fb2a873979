"""Checks the bars of a price file; a bar is the open, high, low, close and volume of one row.

Owns the rules for valid bars. Widens low and high to include open and close. If the file has adjusted closes,
multiplies open, high and low by adjusted close / close. Reads no file, and does not combine bars of one day.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np

from core.price_import.numbers_and_dates import Mask, matches, parse_numbers
from core.price_import.table import round_adjusted
from core.price_import.vocabulary import PRICES
from core.simulation.amounts import Floats

MIN_PRICE: Final = 1e-10
MAX_PRICE: Final = 1e9
MAX_VOLUME: Final = 2.0**53
"""The largest valid volume: a float represents every integer up to this one exactly."""

TOLERANCE: Final = 0.01
"""How far an open or close may be below the low or above the high, as a share of the low or high.

Vendors correct each price separately, so the prices of a bar can contradict each other slightly.
"""

EVENT: Final = "(?i)dividend|stock split"
"""Matches the words in a row that has a dividend or a stock split instead of prices."""


class RowCheck(NamedTuple):
    """The result of checking one rule on many rows; `broken` is a mask of the rows that break the rule.

    `kind` names the fault without values of a row, such as "low is above high". `reason` is the error
    message: a template for `str.format`, with fields of the row such as `{close}`.
    """

    kind: str
    broken: Mask
    reason: str


class Bars:
    """The bars of many rows; `texts` has the cells of each column by the column's meaning, such as "close".

    `prices` has the open, high, low and close of the file divided by `scale`, and NaN where a field is not a
    number. `stored` has the same four prices as they will be stored: scaled to the adjusted close, with low
    and high widened to include open and close.
    """

    def __init__(self, texts: dict[str, Any], rows: int, decimal: str, scale: float) -> None:
        nothing: tuple[Floats, Mask] = (np.full(rows, np.nan), np.ones(rows, np.bool_))
        parsed = {name: parse_numbers(texts[name], decimal) if name in texts else nothing for name in PRICES}
        self.texts = texts
        self.prices = {name: values / scale for name, (values, _) in parsed.items()}
        self.missing = {name: missing for name, (_, missing) in parsed.items()}
        self.volume, self.no_volume = (
            parse_numbers(texts["volume"], decimal, suffixes=True) if "volume" in texts else nothing
        )
        self.adjusted = parse_numbers(texts["adjusted"], decimal)[0] / scale if "adjusted" in texts else None
        self.stored = self._build()

    def _build(self) -> list[Floats]:
        opens, high, low, close = self.prices.values()
        high = np.where(self.missing["high"], np.nan, np.fmax(high, np.fmax(opens, close)))
        low = np.where(self.missing["low"], np.nan, np.fmin(low, np.fmin(opens, close)))
        if self.adjusted is None:
            return [opens, high, low, close]
        with np.errstate(all="ignore"):  # suppress the warnings of NumPy: `check` reports invalid numbers
            factor = self.adjusted / close
            # the last element is the adjusted close of the file: close * factor could be rounded differently
            return [
                round_adjusted(value)
                for value in (opens * factor, high * factor, low * factor, self.adjusted)
            ]

    def are_without_trade(self) -> Mask:
        """Return a mask of the rows in which nothing was traded.

        Such a row is of one of three kinds. All prices are missing. All prices are 0. Or open, high and low
        are 0, the volume is 0 or missing, and the close has any value: some vendors repeat the close of the
        day before.
        """
        opens, high, low, close = (values == 0 for values in self.prices.values())
        is_still = opens & high & low & (close | (np.nan_to_num(self.volume) == 0))
        return np.asarray(np.logical_and.reduce(list(self.missing.values())) | is_still)

    def are_events(self) -> Mask:
        """Return a mask of the rows that report a dividend or split instead of a price."""
        is_text = np.isnan(self.prices["close"])
        return matches(self.texts["close"], EVENT) if is_text.any() else is_text

    def are_whole(self) -> Mask:
        """Return a mask of the rows in which all prices are integers."""
        return np.asarray(
            np.logical_and.reduce([values == np.rint(values) for values in self.prices.values()])
        )

    def list_corrections(self) -> Iterator[tuple[str, Mask]]:
        """Yield for each kind of correction its description, and a mask of the corrected rows.

        For example, a missing volume becomes 0.
        """
        opens, high, low, close = self.prices.values()
        partly = [self.missing[name] for name in PRICES[:3] if name in self.texts] or [
            np.zeros_like(self.no_volume)
        ]
        yield "open, high or low missing: the close stands for it", np.logical_or.reduce(partly)
        outside = (np.fmin(opens, close) < low) | (np.fmax(opens, close) > high)
        yield f"open or close up to {TOLERANCE:.1%} outside low and high, which were widened", outside
        if "volume" in self.texts:
            yield "volume missing: 0", self.no_volume
            yield "volume with a fraction: rounded", (self.volume != np.rint(self.volume)) & ~self.no_volume

    def check(self) -> Iterator[RowCheck]:
        """Yield one result for each rule. A row can break several rules; the caller reports the first."""
        low, high = self.prices["low"], self.prices["high"]
        for name, values in self.prices.items():
            broken = ~((values > 0) & (values <= MAX_PRICE)) & (~self.missing[name] | (name == "close"))
            reason = f"{name} {{{name}!r}} is not a price above 0 and up to {MAX_PRICE:.0f}"
            yield RowCheck(f"{name} is no price", broken, reason)
        yield RowCheck("low is above high", low > high, "low {low} is above high {high}")
        for name in ("open", "close"):
            values = self.prices[name]
            outside = (values < low * (1 - TOLERANCE)) | (values > high * (1 + TOLERANCE))
            reason = f"{name} {{{name}}} is not between low {{low}} and high {{high}}"
            yield RowCheck(f"{name} is not between low and high", outside, reason)
        no_number = ~(self.no_volume | ((self.volume >= 0) & (self.volume <= MAX_VOLUME)))
        yield RowCheck("volume is no number", no_number, "volume {volume!r} is not a number from 0")
        if self.adjusted is not None:
            no_price = ~((self.adjusted > 0) & (self.adjusted <= MAX_PRICE))
            reason = "adjusted close {adjusted!r} is not a price above 0"
            yield RowCheck("adjusted close is no price", no_price, reason)
        out_of_range = np.logical_or.reduce([(bar < MIN_PRICE) | (bar > MAX_PRICE) for bar in self.stored])
        reason = f"adjusted or scaled, a price is below {MIN_PRICE:.10f} or above {MAX_PRICE:.0f}"
        yield RowCheck("price is out of range", out_of_range, reason)
