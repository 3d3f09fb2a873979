"""The bars of a price file: prices and volume of many rows, and the rules for valid bars.

Owns how low and high are widened to include open and close, and how all prices are scaled when there is an
adjusted close. Reads no file, and does not combine bars of one day.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np

from core.price_import.parsing import Mask, matches, parse_numbers
from core.price_import.table import round_adjusted
from core.price_import.vocabulary import PRICES
from core.simulation.amounts import Floats

MIN_PRICE: Final = 1e-10
MAX_PRICE: Final = 1e9
MAX_VOLUME: Final = 2.0**53
"""Floats represent every integer up to this one exactly."""

TOLERANCE: Final = 0.01
"""The share by which open and close may lie outside low and high: vendors correct each price separately."""

EVENT: Final = "(?i)dividend|stock split"
"""Matches the text that some files have instead of a price, in a row about a dividend or a split."""


class RowCheck(NamedTuple):
    """The rows that break one rule; `reason` is a template for `str.format` with the fields of such a row."""

    kind: str
    broken: Mask
    reason: str


class Bars:
    """The bars of one series of prices in a batch of rows.

    `prices` are the values in the file divided by `scale`, NaN where a field is not a number. `stored` has
    open, high, low and close as they will be stored: adjusted, with low and high widened to include open and
    close.
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
        with np.errstate(all="ignore"):  # `check` reports invalid numbers
            factor = self.adjusted / close
            # store the adjusted close as given: close * factor could be rounded differently
            return [
                round_adjusted(value)
                for value in (opens * factor, high * factor, low * factor, self.adjusted)
            ]

    def are_without_trade(self) -> Mask:
        """Return a mask of the rows without any price, or with only a close carried from an earlier day."""
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

    def list_mended(self) -> Iterator[tuple[str, Mask]]:
        """Yield each kind of correction, such as a missing volume set to 0, and a mask of its rows."""
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
        """Yield the result of each rule; only the first rule that a row breaks is reported."""
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
