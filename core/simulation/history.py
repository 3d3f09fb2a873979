"""The past daily prices of all symbols, read through the service.

Owns the rule that distinguishes imported days, which have one tick, from days of the live market, which have
many.
"""

from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from hashlib import blake2b
from typing import Final

import numpy as np

from core.records import Candle
from core.service import EnhancedDatabaseService
from core.simulation.amounts import PRICE_UNITS, Integers, find_price_units, to_units
from core.simulation.trading_hours import close_of

REACH: Final = timedelta(days=19_999)
"""How far back prices are read: 54 years, because one call returns at most 20,000 daily candles."""

NO_PRICES: Final = (
    "no prices are imported; run `echo-markets import-prices FILE` first,"
    " or `echo-markets import-prices --demo` for the prices that come with the stack"
)

_VOLUME_DAYS: Final = 60
_MIN_RETURNS: Final = 20
"""With fewer daily returns of a symbol, TYPICAL_VOLATILITY and TYPICAL_VOLUME are used."""

TYPICAL_VOLATILITY: Final = 0.02
TYPICAL_VOLUME: Final = 1_000_000.0

_MOMENT: Final = timedelta(microseconds=1)
_SECOND: Final = timedelta(seconds=1)


@dataclass(frozen=True)
class PriceHistory:
    """Prices with one row per trading day and one column per symbol; a price of 1.00 is `price_units` units.

    In `opens` and `closes`, 0 means that the symbol did not trade on that day. `carried` has the closes too,
    but with the last earlier close instead of 0. It is 0 only before a symbol's first close.
    """

    symbols: tuple[str, ...]
    days: tuple[date, ...]
    opens: Integers
    closes: Integers
    carried: Integers
    price_units: int = PRICE_UNITS

    @property
    def digest(self) -> str:
        """A hash of all prices, days and symbols, in hexadecimal."""
        text = repr((self.symbols, self.days)).encode()
        prices = self.opens.tobytes() + self.closes.tobytes()
        return blake2b(text + prices, digest_size=6).hexdigest()


def load_history(service: EnhancedDatabaseService) -> PriceHistory:
    """Return the imported trading days of all symbols; `days` is empty if nothing was imported."""
    series = {
        tick.symbol: list_trading_days(service, tick.symbol, before=tick.timestamp + _MOMENT)
        for tick in service.get_latest_market_data()
    }
    return build_history({symbol: candles for symbol, candles in series.items() if candles})


def list_trading_days(service: EnhancedDatabaseService, symbol: str, *, before: datetime) -> list[Candle]:
    """Return the imported days of a symbol before an instant, oldest first."""
    candles = service.get_price_history(symbol, before - REACH, before, "1d")
    return [candle for candle in candles if candle.ticks == 1 and _is_imported(service, candle)]


def _is_imported(service: EnhancedDatabaseService, candle: Candle) -> bool:
    """Return True if a day with one tick was imported, False if it is a live session with only one tick.

    The tick of an imported day has a high above its low, or its time is the close of the market.
    """
    if candle.low < candle.high:
        return True
    close = close_of(candle.bucket.date())
    return bool(service.get_price_history(candle.symbol, close, close + _SECOND, "1s"))


def build_history(series: dict[str, list[Candle]]) -> PriceHistory:
    """Build a history from the daily candles of each symbol, aligned by day, in the order of `series`."""
    symbols = tuple(series)
    days = tuple(sorted({candle.bucket.date() for days in series.values() for candle in days}))
    row_of = {day: row for row, day in enumerate(days)}
    opens = np.zeros((len(days), len(symbols)), np.int64)
    closes = np.zeros_like(opens)
    units = find_price_units(
        price for candles in series.values() for candle in candles for price in (candle.open, candle.close)
    )
    for column, symbol in enumerate(symbols):
        rows = [row_of[candle.bucket.date()] for candle in series[symbol]]
        opens[rows, column] = [to_units(candle.open, units) for candle in series[symbol]]
        closes[rows, column] = [to_units(candle.close, units) for candle in series[symbol]]
    return PriceHistory(symbols, days, opens, closes, _carry(closes), units)


def _carry(closes: Integers) -> Integers:
    rows = np.arange(len(closes))[:, np.newaxis]
    last = np.maximum.accumulate(np.where(closes > 0, rows, 0), axis=0)
    carried: Integers = np.take_along_axis(closes, last, axis=0)
    return carried


@dataclass(frozen=True)
class Calibration:
    """How a symbol moves in a day.

    `drift` is the mean and `volatility` the standard deviation of its daily log returns. `volume` is its mean
    daily volume.
    """

    drift: float
    volatility: float
    volume: float


@dataclass
class DailyPrices:
    """The daily candles of each symbol before today, oldest first: imported days and live sessions.

    Each day is read once, and kept as long as this object exists.
    """

    candles: dict[str, list[Candle]] = field(default_factory=dict)
    _until: dict[str, datetime] = field(default_factory=dict)

    def read_until(
        self, service: EnhancedDatabaseService, symbols: tuple[str, ...], midnight: datetime
    ) -> None:
        """Read the days before `midnight` that have not been read yet."""
        for symbol in symbols:
            start = self._until.get(symbol, midnight - REACH)
            if start < midnight:
                days = service.get_price_history(symbol, start, midnight, "1d")
                self.candles.setdefault(symbol, []).extend(days)
                self._until[symbol] = midnight

    def last_closes(self, symbol: str, count: int) -> list[Decimal]:
        """Return the closes of the last `count` days before today, or of all days if there are fewer."""
        return [candle.close for candle in self.candles.get(symbol, [])[-count:]]

    def last_close(self, symbol: str) -> Decimal | None:
        """Return the last close before today, or None if there is none."""
        days = self.candles.get(symbol)
        return days[-1].close if days else None

    def history(self, symbols: tuple[str, ...]) -> PriceHistory:
        """Return the history of these symbols; its columns are in the order of `symbols`."""
        return build_history({symbol: self.candles.get(symbol, []) for symbol in symbols})

    def calibrate(self, symbol: str) -> Calibration:
        """Return the drift, volatility and volume of a symbol, measured on the imported days."""
        # live days are left out: a session of a few minutes would make the volatility too small
        days = [candle for candle in self.candles.get(symbol, []) if candle.ticks == 1]
        closes = np.array([candle.close for candle in days], np.float64)
        if len(closes) <= _MIN_RETURNS:
            return Calibration(0.0, TYPICAL_VOLATILITY, TYPICAL_VOLUME)
        returns = np.diff(np.log(closes))
        return Calibration(
            drift=float(returns.mean()),
            volatility=float(returns.std(ddof=1)) or TYPICAL_VOLATILITY,
            volume=float(np.mean([candle.volume for candle in days[-_VOLUME_DAYS:]])),
        )
