"""What the live market knows of the days before today.

Owns one close per symbol and day, imported or live. Reads each day once and then
remembers it for the life of the process.
"""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Final

import numpy as np

from core.records import Candle
from core.service import EnhancedDatabaseService
from core.simulation.bars import daily_volatility
from core.simulation.history import REACH, History, build_history

VOLUME_DAYS: Final = 60
LEAST_RETURNS: Final = 20
"""Fewer returns say nothing; the walk then takes the typical figures below."""

TYPICAL_VOLATILITY: Final = 0.02
TYPICAL_VOLUME: Final = 1_000_000.0


@dataclass(frozen=True)
class Calibration:
    """A day of one symbol: mean and standard deviation of its log return, and its volume."""

    drift: float
    volatility: float
    volume: float


@dataclass
class DailyPrices:
    """The candles of all days before `until`, by symbol, oldest first."""

    candles: dict[str, list[Candle]] = field(default_factory=dict)
    _until: dict[str, datetime] = field(default_factory=dict)

    def read_until(
        self, service: EnhancedDatabaseService, symbols: tuple[str, ...], midnight: datetime
    ) -> None:
        """Read the days before `midnight` that were not read yet."""
        for symbol in symbols:
            start = self._until.get(symbol, midnight - REACH)
            if start < midnight:
                days = service.get_price_history(symbol, start, midnight, "1d")
                self.candles.setdefault(symbol, []).extend(days)
                self._until[symbol] = midnight

    def last_close(self, symbol: str) -> Decimal | None:
        """Return the last price before today."""
        days = self.candles.get(symbol)
        return days[-1].close if days else None

    def history(self, symbols: tuple[str, ...]) -> History:
        """Return the days of these symbols side by side, in the order of `symbols`."""
        return build_history({symbol: self.candles.get(symbol, []) for symbol in symbols})

    def calibrate(self, symbol: str) -> Calibration:
        """Return how a symbol moves on the days that were imported."""
        # a live day may have run for minutes only, and would make the market look calm
        days = [candle for candle in self.candles.get(symbol, []) if candle.ticks == 1]
        closes = np.array([candle.close for candle in days], np.float64)
        if len(closes) <= LEAST_RETURNS:
            return Calibration(0.0, TYPICAL_VOLATILITY, TYPICAL_VOLUME)
        returns = np.diff(np.log(closes))
        return Calibration(
            drift=float(returns.mean()),
            volatility=daily_volatility(closes) or TYPICAL_VOLATILITY,
            volume=float(np.mean([candle.volume for candle in days[-VOLUME_DAYS:]])),
        )
