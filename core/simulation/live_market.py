"""The market of one live session: a random walk from the last price before the session.

The walk is a geometric Brownian motion: the logarithm of a price takes normally distributed steps. Their mean
and variance are proportional to the duration of a step, so the log returns of live days have the same mean
and variance as those of imported days. Also creates the market events for large moves.
"""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Final

import numpy as np
from numpy.random import Generator

from core.errors import InvalidInput
from core.records import VOLATILITY_RETURNS, Tick
from core.service import EnhancedDatabaseService
from core.simulation.amounts import (
    MAX_PLACES,
    PRICE_UNITS,
    Floats,
    Integers,
    find_price_units,
    to_prices,
    to_units,
)
from core.simulation.history import NO_PRICES, DailyPrices
from core.simulation.market_events import EVENT_TYPE, PriceMove
from core.simulation.price_statistics import annualize_volatility, measure_change
from core.simulation.trading_hours import midnight_of

DAY_SECONDS: Final = 86_400
HALF_SPREAD: Final = 0.00025
"""Half the spread between bid and ask, as a share of the price; usual for shares of large companies."""

DAY: Final = timedelta(days=1)

_VOLUME_SPREAD: Final = 0.5  # standard deviation of the logarithm of a step's volume


class LiveMarket:
    """The prices of one session, in units; a price of 1.00 is `price_units` units.

    `opens` has the last price of each symbol before the session, and `prices` has the current prices. `daily`
    has the days before the session. `announced` has the symbol and sentiment of each large move that has an
    event.
    """

    def __init__(
        self,
        symbols: tuple[str, ...],
        *,
        opens: list[Decimal],
        prices: list[Decimal],
        daily: DailyPrices,
        announced: set[tuple[str, str]],
    ) -> None:
        # choose units so small that every price is an integer of at least 1,000, if MAX_PLACES allows it
        least_units = 10 ** min(3 - min(prices + opens).adjusted(), MAX_PLACES)
        units = max(find_price_units(prices + opens), least_units)
        calibrations = [daily.calibrate(symbol) for symbol in symbols]
        self.symbols = symbols
        self.price_units = units
        self.opens = np.array([to_units(price, units) for price in opens], np.int64)
        # prices are kept unrounded, because a step of the walk can be smaller than the tick size
        self._exact = np.array([to_units(price, units) for price in prices], np.float64)
        self._ticks = _find_ticks(self._exact, units)
        self._drift = np.array([calibration.drift for calibration in calibrations])
        self._volatility = np.array([calibration.volatility for calibration in calibrations])
        self._volume = np.array([calibration.volume for calibration in calibrations])
        self._past_logs = _align_logs([daily.last_closes(symbol, VOLATILITY_RETURNS) for symbol in symbols])
        self._announced = announced

    @property
    def prices(self) -> Integers:
        """The current prices in units, rounded to each symbol's tick size."""
        return np.maximum(np.rint(self._exact / self._ticks).astype(np.int64), 1) * self._ticks

    def move(self, seconds: float, generator: Generator) -> Integers:
        """Move all prices by one step that lasts `seconds`; return the traded volume of each symbol."""
        days = seconds / DAY_SECONDS
        noise = generator.standard_normal(len(self.symbols))
        self._exact *= np.exp(self._drift * days + self._volatility * np.sqrt(days) * noise)
        spread = generator.normal(0, _VOLUME_SPREAD, len(self.symbols))
        return np.rint(self._volume * days * np.exp(spread)).astype(np.int64)

    def build_ticks(self, now: datetime, volumes: Integers, before: Sequence[Decimal | None]) -> list[Tick]:
        """Return one tick for each symbol, with its current price. `before` has the prices 24 hours ago."""
        prices = self.prices
        half = np.maximum(np.rint(prices * HALF_SPREAD / self._ticks).astype(np.int64), 1) * self._ticks
        exact = to_prices(prices, self.price_units)
        columns = zip(
            self.symbols,
            exact,
            volumes.tolist(),
            to_prices(np.maximum(prices - half, 1), self.price_units),
            to_prices(prices + half, self.price_units),
            map(measure_change, exact, before),
            self._measure_volatilities(prices),
            strict=True,
        )
        return [
            Tick(
                symbol=symbol,
                timestamp=now,
                price=price,
                volume=volume,
                bid=bid,
                ask=ask,
                change_24h=difference,
                change_percent_24h=percent,
                volatility=volatility,
            )
            for symbol, price, volume, bid, ask, (difference, percent), volatility in columns
        ]

    def _measure_volatilities(self, prices: Integers) -> list[Decimal | None]:
        """Return each symbol's volatility, computed with the current price as today's close.

        The volatility is None for a symbol with too few days.
        """
        logs = np.column_stack([self._past_logs, np.log(prices / self.price_units)])
        returns = np.diff(logs, axis=1)
        is_known = ~np.isnan(returns.sum(axis=1))
        found = iter(to_prices(annualize_volatility(returns[is_known])))
        return [next(found) if known else None for known in is_known.tolist()]

    def announce(self, service: EnhancedDatabaseService) -> None:
        """Create a market event for each large move from the open that has no event yet.

        In a session, a symbol gets at most one event for a rise and one event for a fall.
        """
        for move in self.list_moves():
            service.create_market_event(
                type=EVENT_TYPE,
                title=move.title,
                description=move.description,
                affected_symbols=(move.symbol,),
                impact_magnitude=move.impact,
                sentiment=move.sentiment,
            )
            self.record_announced(move)

    def list_moves(self) -> list[PriceMove]:
        """Return the large moves from the open that have not been announced yet."""
        prices = zip(self.symbols, self.opens.tolist(), self.prices.tolist(), strict=True)
        moves = [PriceMove(symbol, before, after, self.price_units) for symbol, before, after in prices]
        return [m for m in moves if m.is_event and (m.symbol, m.sentiment) not in self._announced]

    def record_announced(self, move: PriceMove) -> None:
        """Note that a move has an event. `list_moves` leaves the move out afterwards."""
        self._announced.add((move.symbol, move.sentiment))


def open_market(service: EnhancedDatabaseService, day: date, daily: DailyPrices) -> LiveMarket:
    """Return the market of the session of `day`, with the latest prices in the database.

    Works for a new session, and for a session that continues after a restart. Raises `InvalidInput` when no
    symbol has a price.
    """
    latest = {tick.symbol: tick for tick in service.get_latest_market_data()}
    if not latest:
        raise InvalidInput(NO_PRICES)
    symbols, midnight = tuple(latest), midnight_of(day)
    daily.read_until(service, symbols, midnight)
    prices = [latest[symbol].price for symbol in symbols]
    opens = [
        daily.last_close(symbol) or _find_first_price(service, symbol, midnight, latest[symbol].price)
        for symbol in symbols
    ]
    return LiveMarket(
        symbols, opens=opens, prices=prices, daily=daily, announced=_list_announced(service, midnight)
    )


def _align_logs(closes: Sequence[Sequence[Decimal]]) -> Floats:
    """Return the logarithms of the last `VOLATILITY_RETURNS` closes, one row per symbol.

    If a symbol has fewer closes, its row is NaN.
    """
    logs = np.full((len(closes), VOLATILITY_RETURNS), np.nan)
    for row, known in zip(logs, closes, strict=True):
        if len(known) == VOLATILITY_RETURNS:
            row[:] = np.log(np.array(known, np.float64))
    return logs


def _find_ticks(prices: Floats, price_units: int) -> Integers:
    """Return the tick size of each price, as a number of units.

    The tick size is 0.0001. For a price below 0.1, it is the power of ten between price / 10000 and
    price / 1000, but at least one unit.
    """
    small = 10.0 ** (np.floor(np.log10(np.maximum(prices, 1))) - 3)
    ticks = np.minimum(np.maximum(small, 1), price_units // PRICE_UNITS)
    return np.rint(ticks).astype(np.int64)


def _find_first_price(
    service: EnhancedDatabaseService, symbol: str, midnight: datetime, latest: Decimal
) -> Decimal:
    """Return today's first price of a symbol that has no price before today."""
    end = midnight + DAY
    candles = service.get_price_history(symbol, midnight, end, "1d")
    return candles[0].open if candles else latest


def _list_announced(service: EnhancedDatabaseService, midnight: datetime) -> set[tuple[str, str]]:
    events = service.stream_market_events(type=EVENT_TYPE, since=midnight, until=midnight + DAY)
    return {(symbol, event.sentiment) for event in events for symbol in event.affected_symbols}
