"""The prices and volumes of some rows: parsed, checked and adjusted.

Owns what a bar may be. Works by column; knows no file and no day.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from core.simulation.amounts import Floats
from core.simulation.price_layout import Group
from core.simulation.price_lines import Batch
from core.simulation.price_names import PRICES
from core.simulation.price_table import round_adjusted
from core.simulation.price_values import Mask, matches, parse_numbers

MIN_PRICE: Final = 1e-10
MAX_PRICE: Final = 1e9
MAX_VOLUME: Final = 2.0**53
"""The largest range in which a float holds every whole number."""

TOLERANCE: Final = 0.01
"""How far open and close may lie outside low and high: vendors adjust and correct each on its own."""

EVENT: Final = "(?i)dividend|stock split"
"""A row that tells of one has it where a price should stand."""


class Check(NamedTuple):
    """Rows that break one rule, and how to say so with the texts of one of them."""

    kind: str
    broken: Mask
    reason: str


@dataclass(frozen=True)
class Bars:
    """The prices of one series in a batch, NaN where a field is none, and their text.

    `prices` are open, high, low and close as written, `stored` the same as they will be stored:
    adjusted, with a low and a high that enclose the others where they were off by a rounding.
    """

    texts: dict[str, Any]
    prices: list[Floats]
    missing: list[Mask]
    volume: Floats
    no_volume: Mask
    adjusted: Floats | None
    stored: list[Floats]

    @classmethod
    def read(cls, batch: Batch, group: Group, decimal: str, scale: float) -> "Bars":
        """Parse the columns of a group."""
        texts = {meaning: batch.columns[place] for meaning, place in group.places.items()}
        nothing = (np.full(len(batch.lines), np.nan), np.ones(len(batch.lines), np.bool_))
        read = [parse_numbers(texts[name], decimal) if name in texts else nothing for name in PRICES]
        prices, missing = [values / scale for values, _ in read], [mask for _, mask in read]
        volume, no_volume = (
            parse_numbers(texts["volume"], decimal, suffixes=True) if "volume" in texts else nothing
        )
        adjusted = parse_numbers(texts["adjusted"], decimal)[0] / scale if "adjusted" in texts else None
        return cls(
            texts, prices, missing, volume, no_volume, adjusted, _build_bars(prices, missing, adjusted)
        )

    def are_without_trade(self) -> Mask:
        """Say which rows have no price, or nothing but a close that was carried forward."""
        opens, high, low, close = (values == 0 for values in self.prices)
        is_still = opens & high & low & (close | (np.nan_to_num(self.volume) == 0))
        return np.asarray(np.logical_and.reduce(self.missing) | is_still)

    def are_events(self) -> Mask:
        """Say which rows tell of a dividend or split where a price should stand."""
        is_text = np.isnan(self.prices[3])
        return matches(self.texts["close"], EVENT) if is_text.any() else is_text

    def are_whole(self) -> Mask:
        """Say which rows have whole prices only."""
        return np.asarray(np.logical_and.reduce([values == np.rint(values) for values in self.prices]))

    def list_mended(self) -> Iterator[tuple[str, Mask]]:
        """Yield what was completed or rounded, and in which rows."""
        opens, high, low, close = self.prices
        partly = np.zeros(len(close), np.bool_)
        for missing, name in zip(self.missing, PRICES[:3], strict=False):
            partly |= missing if name in self.texts else np.False_
        yield "open, high or low missing: the close stands for it", partly
        outside = (np.fmin(opens, close) < low) | (np.fmax(opens, close) > high)
        yield f"open or close up to {TOLERANCE:.1%} outside low and high, which were widened", outside
        if "volume" in self.texts:
            yield "volume missing: 0", self.no_volume
            yield "volume with a fraction: rounded", (self.volume != np.rint(self.volume)) & ~self.no_volume

    def checks(self) -> Iterator[Check]:
        """Yield the rules in the order in which a row's first problem is reported."""
        opens, high, low, close = self.prices
        for name, values, missing in zip(PRICES, self.prices, self.missing, strict=True):
            broken = ~((values > 0) & (values <= MAX_PRICE)) & (~missing | (name == "close"))
            reason = f"{name} {{{name}!r}} is not a price above 0 and up to {MAX_PRICE:.0f}"
            yield Check(f"{name} is no price", broken, reason)
        yield Check("low is above high", low > high, "low {low} is above high {high}")
        for name, values in (("open", opens), ("close", close)):
            outside = (values < low * (1 - TOLERANCE)) | (values > high * (1 + TOLERANCE))
            reason = f"{name} {{{name}}} is not between low {{low}} and high {{high}}"
            yield Check(f"{name} is not between low and high", outside, reason)
        no_number = ~(self.no_volume | ((self.volume >= 0) & (self.volume <= MAX_VOLUME)))
        yield Check("volume is no number", no_number, "volume {volume!r} is not a number from 0")
        if self.adjusted is not None:
            no_price = ~((self.adjusted > 0) & (self.adjusted <= MAX_PRICE))
            yield Check(
                "adjusted close is no price", no_price, "adjusted close {adjusted!r} is not a price above 0"
            )
        out_of_range = np.logical_or.reduce([(bar < MIN_PRICE) | (bar > MAX_PRICE) for bar in self.stored])
        reason = f"adjusted or scaled, a price is below {MIN_PRICE:.10f} or above {MAX_PRICE:.0f}"
        yield Check("price is out of range", out_of_range, reason)


def _build_bars(prices: list[Floats], missing: list[Mask], adjusted: Floats | None) -> list[Floats]:
    opens, high, low, close = prices
    high = np.where(missing[1], np.nan, np.fmax(high, np.fmax(opens, close)))
    low = np.where(missing[2], np.nan, np.fmin(low, np.fmin(opens, close)))
    if adjusted is None:
        return [opens, high, low, close]
    with np.errstate(all="ignore"):  # what is not a number is found by the checks
        factor = adjusted / close
        # the close is taken as given: close * (adjusted / close) can round to another digit
        return [round_adjusted(values) for values in (opens * factor, high * factor, low * factor, adjusted)]
