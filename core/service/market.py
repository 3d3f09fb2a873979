"""The market: ticks, latest prices, candles, sparklines, returns."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any

from core.cache import Cached
from core.cache.kinds import MARKET
from core.errors import InvalidInput
from core.queries import ticks as queries
from core.records import Candle, MarketReturn, PriceStatistics, Sparkline, Tick
from core.service.argument_checks import (
    check_after,
    check_bucket,
    check_currency,
    check_day,
    check_each,
    check_int,
    check_limit,
    check_symbol,
    check_symbols,
    check_time,
    find_end_of_tomorrow,
    show,
)
from core.service.paging import chunked, stream_pages
from core.service.record_checks import TICKS, check_one, check_ticks, find_key
from core.service.writes import ServiceBase, format_width

CHUNK_ROWS = 20_000
MAX_CANDLES = 20_000
MAX_POINTS = 500
MAX_MARKET_DAYS = 3_660
MAX_PLACES = 50_000
MAX_WEEKS = 10_000  # 190 years
# Number of lists of symbols, each of at most MAX_SYMBOLS, whose cache keys are kept in memory.
REMEMBERED_LISTS = 64


MARKET_ALL_KEY = "market:all"


def market_key(symbol: str) -> str:
    """Return the cache key of the latest tick of a symbol."""
    return f"market:{symbol}"


_LATEST = Cached(MARKET, Tick, market_key)
_LATEST_OF_ALL = Cached(MARKET, tuple[Tick, ...], lambda: MARKET_ALL_KEY)
# A new tick does not invalidate the cached values below: they expire.
_SPARKLINES = Cached(
    MARKET,
    tuple[Sparkline, ...],
    lambda count, width: f"market:sparklines:{count}:{format_width(width)}",
    ttl_seconds=15,
    time_dependent=True,
)
_STATISTICS = Cached(
    MARKET,
    tuple[PriceStatistics, ...],
    lambda: "market:statistics",
    ttl_seconds=15,
    time_dependent=True,
)
_RETURNS = Cached(
    MARKET,
    tuple[MarketReturn, ...],
    lambda first, last: f"market:returns:{first}:{last}",
    time_dependent=True,
)


class Market(ServiceBase):
    """Calls of the service about symbols and their prices."""

    # The month that has most of the latest ticks: a statement searches it first. Threads share it without a
    # lock, because a wrong month only costs a second statement.
    _latest_month: datetime | None = None

    def get_latest_market_data(self, symbols: Sequence[str] | None = None) -> tuple[Tick, ...]:
        """Return the latest tick of each symbol (None: of all), ordered by symbol.

        Ticks after tomorrow (UTC), which an older release could store, are ignored. A symbol without ticks is
        left out. While the database does not answer, the call returns the last known ticks, and leaves out
        each symbol whose last tick is not known. `stale_seconds()` is then a number. If no tick is known, the
        call raises the error of the database. The answer is at most 30 s old, and never older than the last
        tick inserted through the service. Raises `InvalidInput`.
        """
        if symbols is None:
            return self._cache.get_or_load(
                _LATEST_OF_ALL,
                lambda: self._record_month(
                    self._read(
                        queries.list_latest_of_all, find_end_of_tomorrow(self._clock()), self._latest_month
                    )
                ),
            )
        by_key = _map_keys(symbols)
        if not by_key:
            return ()

        def load(missing: Sequence[str]) -> dict[str, Tick]:
            end = find_end_of_tomorrow(self._clock())
            ticks = self._record_month(self._read(queries.list_latest, missing, end, self._latest_month))
            return {tick.symbol: tick for tick in ticks}

        found = self._cache.get_or_load_many(_LATEST, by_key, load)
        if len(found) == len(by_key):
            return tuple(map(found.__getitem__, by_key))
        return tuple([found[key] for key in by_key if key in found])

    def _record_month(self, ticks: tuple[Tick, ...]) -> tuple[Tick, ...]:
        self._latest_month = queries.find_common_month(ticks) or self._latest_month
        return ticks

    def insert_market_tick(
        self,
        symbol: str,
        price: Decimal,
        *,
        volume: int = 0,
        bid: Decimal | None = None,
        ask: Decimal | None = None,
        change_24h: Decimal | None = None,
        change_percent_24h: Decimal | None = None,
        volatility: Decimal | None = None,
        timestamp: datetime | None = None,
    ) -> Tick:
        """Insert one tick (timestamp None: now) and return it.

        Prices keep all their digits. The time must be before the end of tomorrow (UTC). The tick replaces a
        stored tick of the same symbol and time. Raises `InvalidInput`.
        """
        now = self._clock()
        tick = check_one(
            Tick(
                symbol=symbol,
                timestamp=now if timestamp is None else timestamp,
                price=price,
                volume=volume,
                bid=bid,
                ask=ask,
                change_24h=change_24h,
                change_percent_24h=change_percent_24h,
                volatility=volatility,
            ),
            TICKS,
            now,
        )
        self._write_one(list_market_keys([tick.symbol]), queries.insert_ticks, [tick])
        return tick

    def insert_market_ticks(self, ticks: Iterable[Tick]) -> int:
        """Insert many ticks, all or none. Return how many rows were written.

        Prices keep all their digits. Times must be before the end of tomorrow (UTC). Of several ticks of the
        same symbol and time, the last one is stored. Raises `InvalidInput` with the index of the wrong tick.
        """
        checked = check_ticks(ticks, self._clock())
        if not checked:
            return 0
        if len(checked) > CHUNK_ROWS:
            # every writer of several chunks sorts the ticks in the same order, which prevents most deadlocks
            checked.sort(key=find_key)
        keys = list_market_keys({tick.symbol for tick in checked})

        def write() -> None:
            with self._write(keys) as (database, _):
                for chunk in chunked(checked, CHUNK_ROWS):
                    queries.insert_ticks(database, chunk)

        # Retry after a deadlock: a trigger updates the table of symbols after each chunk, so the order of the
        # ticks does not prevent every deadlock.
        self._retry_conflicts(write)
        return len(checked)

    def delete_market_ticks(self, symbol: str) -> int:
        """Delete every tick of a symbol, and the symbol itself. Return the number of deleted ticks.

        Raises `InvalidInput`.
        """
        checked = check_symbol(symbol)
        with self._write() as (database, changes):
            changes.invalidate(*list_market_keys([checked]))
            deleted = queries.delete_ticks(database, checked)
        # Deleting the symbol blocks all writers of ticks until the transaction ends. So the symbol is deleted
        # in a second, short transaction: deleting its ticks can take long.
        with self._write() as (database, _):
            queries.delete_unused_symbol(database, checked)
        return deleted

    def get_symbol_currencies(self) -> dict[str, str | None]:
        """Return the currency of every symbol (None: not known), uncached."""
        return self._read(queries.list_currencies)

    def update_symbol_currencies(self, currencies: Mapping[str, str]) -> int:
        """Set the currency of each symbol's prices, such as USD or GBX (pence). Return how many changed.

        A symbol is stored with its first tick. Skips symbols that are not stored. Raises `InvalidInput`.
        """
        if not isinstance(currencies, Mapping):
            raise InvalidInput(f"currencies is {show(currencies)}; give a mapping of symbols to currencies")
        checked = {check_symbol(symbol): check_currency(code) for symbol, code in currencies.items()}
        with self._write() as (database, _):
            return queries.update_currencies(database, checked)

    def get_moved_weeks(self) -> dict[str, int]:
        """Return by how many weeks an import moved the dates of each symbol's prices, uncached.

        0 means that the prices have their original dates, and a positive number that they have later dates.
        """
        return self._read(queries.list_moved_weeks)

    def update_moved_weeks(self, weeks: Mapping[str, int]) -> int:
        """Store by how many weeks an import moved the dates of each symbol's prices.

        Returns how many symbols changed. Changes no tick, and skips a symbol without ticks. Raises
        `InvalidInput`.
        """
        if not isinstance(weeks, Mapping):
            raise InvalidInput(f"weeks is {show(weeks)}; give a mapping of symbols to weeks")
        checked = {
            check_symbol(symbol): check_int(count, "weeks", minimum=-MAX_WEEKS, maximum=MAX_WEEKS)
            for symbol, count in weeks.items()
        }
        with self._write() as (database, _):
            return queries.update_moved_weeks(database, checked)

    def list_market_ticks(
        self,
        symbol: str,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        limit: int = 100,
        after: Tick | None = None,
    ) -> tuple[Tick, ...]:
        """Return up to `limit` ticks of a symbol in [start, end), oldest first, uncached.

        `start` None is the first tick, `end` None is the end of tomorrow (UTC). `after` is the last tick of
        the previous page. Raises `InvalidInput`.
        """
        ticks = self._check_range(symbol, start, end)
        last = check_after(after, Tick, symbol=ticks.symbol)
        return self._read(queries.list_range, ticks, _find_time(last), check_limit(limit))

    def stream_market_ticks(
        self,
        symbol: str,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        after: Tick | None = None,
    ) -> Iterator[Tick]:
        """Yield every tick of a symbol in [start, end), oldest first.

        `start` None is the first tick, `end` None is the end of tomorrow (UTC). Reads batches of 2,000 ticks.
        Each batch is one statement with its own snapshot, and no connection is held between batches. `after`
        is the last tick already read. Raises `InvalidInput`.
        """
        ticks = self._check_range(symbol, start, end)

        def load(last: Tick | None, limit: int) -> tuple[Tick, ...]:
            return self._read(queries.list_range, ticks, _find_time(last), limit)

        return stream_pages(load, check_after(after, Tick, symbol=ticks.symbol))

    def _check_range(self, symbol: Any, start: Any, end: Any) -> queries.Range:
        first = None if start is None else check_time(start, "start")
        beyond = find_end_of_tomorrow(self._clock()) if end is None else check_time(end, "end")
        return queries.Range(check_symbol(symbol), first, beyond)

    def get_price_history(
        self, symbol: str, start: datetime, end: datetime, bucket: str | timedelta
    ) -> tuple[Candle, ...]:
        """Return the candles of [start, end), oldest first, aggregated by the database, uncached.

        `bucket` is the length of a candle: a timedelta, or a string such as 5m, 4h, 1d or 1w. A candle
        without ticks is left out. Raises `InvalidInput`, also for more than 20,000 candles.
        """
        checked, width = check_symbol(symbol), check_bucket(bucket)
        first, last = check_time(start, "start"), check_time(end, "end")
        if last <= first:
            raise InvalidInput(f"end {last} is not after start {first}; give a later end")
        if (last - first) / width > MAX_CANDLES:
            raise InvalidInput(
                f"{(last - first) / width:.0f} buckets were asked for; give at most {MAX_CANDLES}"
            )
        return self._read(queries.list_candles, checked, first, last, width)

    def get_sparklines(
        self,
        symbols: Sequence[str] | None = None,
        *,
        points: int = 24,
        step: str | timedelta = timedelta(hours=1),
    ) -> tuple[Sparkline, ...]:
        """Return the trend of each symbol's price (None: of all), ordered by symbol.

        Time is divided into steps of the length `step`, and a point is the last price of a step. A sparkline
        has up to `points` points: those of the last steps that have a price. Prices after tomorrow (UTC) are
        left out. Runs one statement for all symbols. With `symbols` the answer is not cached, without them at
        most 15 s old. Raises `InvalidInput`.
        """
        width = check_bucket(step, "step")
        count = check_int(points, "points", minimum=1, maximum=MAX_POINTS)
        checked = None if symbols is None else check_symbols(symbols)

        def load(count: int, width: timedelta) -> tuple[Sparkline, ...]:
            end = find_end_of_tomorrow(self._clock())
            return self._read(queries.list_sparklines, checked, count, width, end)

        if checked is not None:
            return load(count, width)
        return self._cache.get_or_load(_SPARKLINES, load, count, width)

    def get_price_statistics(self) -> tuple[PriceStatistics, ...]:
        """Return the change in 24 hours and the volatility of every symbol with prices, ordered by symbol.

        The figures are those at the time of the symbol's last price. The record `Tick` says how each figure
        is defined. The figures are computed from stored prices alone: the change and volatility that are
        stored with a tick are ignored. Changes are rounded to four decimals. Prices after tomorrow (UTC) are
        left out. The answer is at most 15 s old.
        """
        return self._cache.get_or_load(
            _STATISTICS, lambda: self._read(queries.list_statistics, find_end_of_tomorrow(self._clock()))
        )

    def list_prices_at(self, places: Sequence[tuple[str, datetime]]) -> tuple[Decimal | None, ...]:
        """Return the last price at or before a time, for each pair of a symbol and a time, uncached.

        The answer has the order of `places`, which are up to 50,000 pairs. A price is None if the symbol had
        no price at that time. Runs one statement for all pairs. Prices after tomorrow (UTC) are left out.
        Raises `InvalidInput`.
        """
        checked = check_each(places, "places", _check_place)
        if len(checked) > MAX_PLACES:
            raise InvalidInput(f"places has {len(checked)} pairs; give at most {MAX_PLACES}")
        if not checked:
            return ()
        return self._read(queries.list_prices_at, checked, find_end_of_tomorrow(self._clock()))

    def get_market_returns(self, start: date, end: date) -> tuple[MarketReturn, ...]:
        """Return the average return of all symbols on each UTC day with prices, oldest first.

        The return of a symbol on a day is the change from its first price of the day to its last price. The
        first price is `open` of the first tick, if that is set. The period includes `start` and `end`, and
        has at most 3,660 days. The answer is at most 30 s old. Raises `InvalidInput`.
        """
        first, last = check_day(start, "start"), check_day(end, "end")
        if not 0 <= (last - first).days < MAX_MARKET_DAYS:
            raise InvalidInput(f"end is {last} and start {first}; give 1 to {MAX_MARKET_DAYS} days in order")

        def load(first: date, last: date) -> tuple[MarketReturn, ...]:
            return self._read(queries.list_returns, first, last)

        return self._cache.get_or_load(_RETURNS, load, first, last)


def _check_place(place: Any) -> tuple[str, datetime]:
    if not isinstance(place, list | tuple) or len(place) != 2:
        raise InvalidInput(f"place is {show(place)}; give a pair of a symbol and a time")
    symbol, time = place
    return check_symbol(symbol), check_time(time, "time")


def _find_time(tick: Tick | None) -> datetime | None:
    """Return the checked time of the tick after which a page begins; None without a tick."""
    return None if tick is None else check_time(tick.timestamp, "after.timestamp")


def _map_keys(symbols: Any) -> Mapping[str, str]:
    """Return a mapping from cache keys to symbols, ordered by symbol."""
    if isinstance(symbols, list | tuple):
        try:
            return _map_keys_cached(tuple(symbols))
        except TypeError:
            # a value that cannot be hashed is no symbol: check_symbols raises the error below
            pass
    return {market_key(symbol): symbol for symbol in sorted(check_symbols(symbols))}


@lru_cache(maxsize=REMEMBERED_LISTS)
def _map_keys_cached(symbols: tuple[str, ...]) -> Mapping[str, str]:
    # lru_cache keeps the results, because callers repeat the same few lists. Checking a list takes longer
    # than reading its ticks from the near cache.
    return {market_key(symbol): symbol for symbol in sorted(check_symbols(symbols))}


def list_market_keys(symbols: Iterable[str]) -> list[str]:
    """Return the cache keys to invalidate when ticks of these symbols change."""
    return [MARKET_ALL_KEY, *map(market_key, symbols)]
