"""The market: ticks, latest prices, candles."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache, partial
from typing import Any

from core.cache import Cached
from core.cache.kinds import MARKET
from core.errors import InvalidInput
from core.queries import market as queries
from core.records import Candle, Tick
from core.service.base import Changes, ServiceBase, chunked
from core.service.inputs import (
    MAX_CANDLES,
    MAX_WEEKS,
    check_bucket,
    check_currency,
    check_limit,
    check_symbol,
    check_symbols,
    check_time,
    check_whole,
    find_end_of_time,
    show,
)
from core.service.paging import check_after, stream_pages
from core.service.tick_checks import check_tick, check_ticks, find_key

CHUNK_ROWS = 20_000
# Of at most 1,000 symbols each.
REMEMBERED_LISTS = 64
MARKET_ALL_KEY = "market:all"


def market_key(symbol: str) -> str:
    """Name the cached latest tick of a symbol."""
    return f"market:{symbol}"


_LATEST = Cached(MARKET, Tick, market_key)
_LATEST_OF_ALL = Cached(MARKET, tuple[Tick, ...], lambda: MARKET_ALL_KEY)


class Market(ServiceBase):
    """The market area of the service."""

    # where most latest ticks were found; only a guess of where to look first
    _latest_month: datetime | None = None

    def get_latest_market_data(self, symbols: Sequence[str] | None = None) -> tuple[Tick, ...]:
        """Return the latest tick of each symbol (None: of all), ordered by symbol.

        Ticks after tomorrow (UTC), which an older release could store, are no latest ones. A
        symbol without ticks is left out, and so is one without a last known tick while the
        database does not answer and others have one (`stale_seconds()` is a number then). At most
        30 s old, and never older than the last tick inserted through a service. Raises `InvalidInput`.
        """
        if symbols is None:
            return self._cache.get_or_load(_LATEST_OF_ALL, self._load_latest_of_all)
        by_key = _name_keys(symbols)
        if not by_key:
            return ()
        found = self._cache.get_or_load_many(_LATEST, by_key, self._load_latest)
        if len(found) == len(by_key):
            return tuple(map(found.__getitem__, by_key))
        return tuple([found[key] for key in by_key if key in found])

    def _load_latest_of_all(self) -> tuple[Tick, ...]:
        ticks = self._read(
            "get_latest_market_data",
            queries.list_latest_of_all,
            find_end_of_time(self._clock()),
            self._latest_month,
        )
        self._latest_month = queries.find_common_month(ticks) or self._latest_month
        return ticks

    def _load_latest(self, symbols: Sequence[str]) -> dict[str, Tick]:
        ticks = self._read(
            "get_latest_market_data",
            queries.list_latest,
            symbols,
            find_end_of_time(self._clock()),
            self._latest_month,
        )
        self._latest_month = queries.find_common_month(ticks) or self._latest_month
        return {tick.symbol: tick for tick in ticks}

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

        Prices keep their digits. The time is before the end of tomorrow (UTC). A second tick of one
        symbol and time replaces the first. Raises `InvalidInput`.
        """
        now = self._clock()
        tick = check_tick(
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
            find_end_of_time(now),
        )
        self._change_alone(
            "insert_market_tick", list_market_keys([tick.symbol]), queries.insert_ticks, [tick]
        )
        return tick

    def insert_market_ticks(self, ticks: Iterable[Tick]) -> int:
        """Insert many ticks, all or none; return how many rows were written.

        Prices keep their digits, and times are before the end of tomorrow (UTC). Of two ticks of
        one symbol and time the last wins. Raises `InvalidInput`, naming the place of the tick.
        """
        checked = check_ticks(ticks, find_end_of_time(self._clock()))
        if not checked:
            return 0
        if len(checked) > CHUNK_ROWS:
            # as each chunk is written: in one order everywhere, so that no two loads wait for each other
            checked.sort(key=find_key)
        keys = list_market_keys({tick.symbol for tick in checked})

        def write() -> None:
            with self._changing("insert_market_ticks", keys) as (database, _):
                for chunk in chunked(checked, CHUNK_ROWS):
                    queries.insert_ticks(database, chunk)

        # months that move on are noted after each chunk, whose symbols others may be at already
        self._repeat(write)
        return len(checked)

    def delete_market_ticks(self, symbol: str) -> int:
        """Delete every tick of a symbol, and the symbol itself; return how many ticks there were.

        Raises `InvalidInput`.
        """
        checked = check_symbol(symbol)
        with self._changing("delete_market_ticks") as (database, changes):
            note_symbols(changes, [checked])
            deleted = queries.delete_ticks(database, checked)
        # on its own: it keeps writers of ticks out, which may take long while many are deleted
        with self._changing("delete_market_ticks") as (database, _):
            queries.forget_symbol(database, checked)
        return deleted

    def get_symbol_currencies(self) -> dict[str, str | None]:
        """Return the currency of every symbol, None where it is not known; as of now."""
        return self._read("get_symbol_currencies", queries.list_currencies)

    def update_symbol_currencies(self, currencies: Mapping[str, str]) -> int:
        """Set the currencies that prices are quoted in (GBX: pence); return how many changed.

        A symbol without ticks has none, and is left out. Raises `InvalidInput`.
        """
        if not isinstance(currencies, Mapping):
            raise InvalidInput(f"currencies is {show(currencies)}; give a mapping of symbols to currencies")
        checked = {check_symbol(symbol): check_currency(code) for symbol, code in currencies.items()}
        with self._changing("update_symbol_currencies") as (database, _):
            return queries.update_currencies(database, checked)

    def get_moved_weeks(self) -> dict[str, int]:
        """Return by how many weeks the imported history of every symbol was moved; as of now.

        0 where prices have their own dates.
        """
        return self._read("get_moved_weeks", queries.list_moved_weeks)

    def update_moved_weeks(self, weeks: Mapping[str, int]) -> int:
        """Remember by how many weeks the history of symbols was moved; return how many changed.

        Changes no tick. A symbol without ticks is left out. Raises `InvalidInput`.
        """
        if not isinstance(weeks, Mapping):
            raise InvalidInput(f"weeks is {show(weeks)}; give a mapping of symbols to weeks")
        checked = {
            check_symbol(symbol): check_whole(count, "weeks", least=-MAX_WEEKS, most=MAX_WEEKS)
            for symbol, count in weeks.items()
        }
        with self._changing("update_moved_weeks") as (database, _):
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
        """Return up to `limit` ticks of a symbol in [start, end), oldest first, as of now.

        Without `start` from the first tick on, without `end` up to the end of tomorrow (UTC). `after`
        is the last tick of the page before. Raises `InvalidInput`.
        """
        ticks = self._check_range(symbol, start, end)
        last = check_after(after, Tick, symbol=ticks.symbol)
        return self._load_ticks("list_market_ticks", ticks, last, check_limit(limit))

    def stream_market_ticks(
        self,
        symbol: str,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        after: Tick | None = None,
    ) -> Iterator[Tick]:
        """Yield every tick of a symbol in [start, end), oldest first; 2,000 are held at a time.

        Without `start` from the first tick on, without `end` up to the end of tomorrow (UTC). Each
        2,000 are one statement, as of then, and no connection is held between them. `after`
        continues behind a tick. Raises `InvalidInput`.
        """
        ticks = self._check_range(symbol, start, end)
        load = partial(self._load_ticks, "stream_market_ticks", ticks)
        return stream_pages(load, check_after(after, Tick, symbol=ticks.symbol))

    def _check_range(self, symbol: Any, start: Any, end: Any) -> queries.Range:
        first = None if start is None else check_time(start, "start")
        beyond = find_end_of_time(self._clock()) if end is None else check_time(end, "end")
        return queries.Range(check_symbol(symbol), first, beyond)

    def _load_ticks(
        self, operation: str, ticks: queries.Range, after: Tick | None, limit: int
    ) -> tuple[Tick, ...]:
        place = None if after is None else check_time(after.timestamp, "after.timestamp")
        return self._read(operation, queries.list_range, ticks, place, limit)

    def get_price_history(
        self, symbol: str, start: datetime, end: datetime, bucket: str | timedelta
    ) -> tuple[Candle, ...]:
        """Return the candles of [start, end), oldest first, aggregated by the database, as of now.

        `bucket` is a timedelta or a text such as 5m, 4h, 1d or 1w. Buckets without ticks are
        left out. Raises `InvalidInput`, also for more than 20,000 buckets.
        """
        checked, width = check_symbol(symbol), check_bucket(bucket)
        first, last = check_time(start, "start"), check_time(end, "end")
        if last <= first:
            raise InvalidInput(f"end {last} is not after start {first}; give a later end")
        if (last - first) / width > MAX_CANDLES:
            raise InvalidInput(
                f"{(last - first) / width:.0f} buckets were asked for; give at most {MAX_CANDLES}"
            )
        return self._read("get_price_history", queries.list_candles, checked, first, last, width)


def _name_keys(symbols: Any) -> Mapping[str, str]:
    """Return the cache key of each symbol, ordered by symbol."""
    if isinstance(symbols, list | tuple):
        try:
            return _name_keys_once(tuple(symbols))
        except TypeError:
            # something that cannot be hashed, and so is no symbol
            pass
    return {market_key(symbol): symbol for symbol in sorted(check_symbols(symbols))}


@lru_cache(maxsize=REMEMBERED_LISTS)
def _name_keys_once(symbols: tuple[str, ...]) -> Mapping[str, str]:
    # callers ask for the same few lists, and checking one takes longer than a hit of all
    return {market_key(symbol): symbol for symbol in sorted(check_symbols(symbols))}


def note_symbols(changes: Changes, symbols: Iterable[str]) -> None:
    """Note what a new tick of these symbols outdates."""
    changes.invalidate(*list_market_keys(symbols))


def list_market_keys(symbols: Iterable[str]) -> list[str]:
    """Return the keys that a new tick of these symbols outdates."""
    return [MARKET_ALL_KEY, *map(market_key, symbols)]
