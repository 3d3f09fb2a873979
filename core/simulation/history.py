"""The imported trading days of all symbols, as read from the service.

Owns what counts as a trading day. Days on which the live market ran are none: they
have many ticks where an imported day has one.
"""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from hashlib import blake2b
from typing import Final

import numpy as np

from core.records import Candle
from core.service import EnhancedDatabaseService
from core.simulation.amounts import PRICE_UNITS, Integers, count_units, find_price_units
from core.simulation.trading_day import close_of

REACH: Final = timedelta(days=19_999)
"""How far back history is read: 54 years, the most candles that one call returns."""

NO_PRICES: Final = (
    "no prices are imported; run `echo-markets import-prices FILE` first,"
    " or `echo-markets import-prices --demo` for the prices that come with the stack"
)

_MOMENT: Final = timedelta(microseconds=1)
_SECOND: Final = timedelta(seconds=1)


@dataclass(frozen=True)
class History:
    """One row per trading day, one column per symbol; `price_units` are 1.00.

    0 stands for a day on which a symbol did not trade. `carried` are the closes with
    each such day filled by the last close before it, 0 before the first.
    """

    symbols: tuple[str, ...]
    days: tuple[date, ...]
    opens: Integers
    closes: Integers
    carried: Integers
    price_units: int = PRICE_UNITS

    @property
    def digest(self) -> str:
        """A short text that changes with any price, day or symbol."""
        text = repr((self.symbols, self.days)).encode()
        prices = self.opens.tobytes() + self.closes.tobytes()
        return blake2b(text + prices, digest_size=6).hexdigest()


def load_history(service: EnhancedDatabaseService) -> History:
    """Return every imported trading day; without any, `days` is empty."""
    series = {
        tick.symbol: list_trading_days(service, tick.symbol, before=tick.timestamp + _MOMENT)
        for tick in service.get_latest_market_data()
    }
    return build_history({symbol: candles for symbol, candles in series.items() if candles})


def list_trading_days(service: EnhancedDatabaseService, symbol: str, *, before: datetime) -> list[Candle]:
    """Return the imported days of a symbol, oldest first."""
    candles = service.get_price_history(symbol, before - REACH, before, "1d")
    return [candle for candle in candles if candle.ticks == 1 and _is_bar(service, candle)]


def _is_bar(service: EnhancedDatabaseService, candle: Candle) -> bool:
    """Tell a trading day from a day on which the live market made one tick and was stopped."""
    if candle.low < candle.high:
        return True
    close = close_of(candle.bucket.date())
    return bool(service.get_price_history(candle.symbol, close, close + _SECOND, "1s"))


def build_history(series: dict[str, list[Candle]]) -> History:
    """Put the days of all symbols side by side."""
    symbols = tuple(sorted(series))
    days = tuple(sorted({candle.bucket.date() for days in series.values() for candle in days}))
    row_of = {day: row for row, day in enumerate(days)}
    opens = np.zeros((len(days), len(symbols)), np.int64)
    closes = np.zeros_like(opens)
    units = find_price_units(
        price for candles in series.values() for candle in candles for price in (candle.open, candle.close)
    )
    for column, symbol in enumerate(symbols):
        rows = [row_of[candle.bucket.date()] for candle in series[symbol]]
        opens[rows, column] = [count_units(candle.open, units) for candle in series[symbol]]
        closes[rows, column] = [count_units(candle.close, units) for candle in series[symbol]]
    return History(symbols, days, opens, closes, _carry(closes), units)


def _carry(closes: Integers) -> Integers:
    rows = np.arange(len(closes))[:, np.newaxis]
    last = np.maximum.accumulate(np.where(closes > 0, rows, 0), axis=0)
    carried: Integers = np.take_along_axis(closes, last, axis=0)
    return carried
