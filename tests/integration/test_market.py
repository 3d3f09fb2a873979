"""Market data: ticks, latest prices, candles, symbols and price statistics."""

import math
import statistics
import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import psycopg2
import psycopg2.errors
import pytest
import redis

from core import EnhancedDatabaseService
from core.errors import InvalidInput
from core.records import Tick
from core.service.argument_checks import check_symbol
from core.stack.processes import wait_until
from tests.conftest import Execute

START = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)


def tick(symbol: str, minutes: int, price: str, **more: Any) -> Tick:
    """Return a tick with a time some minutes after `START`."""
    return Tick(symbol, START + timedelta(minutes=minutes), Decimal(price), **more)


def test_a_new_tick_is_the_latest_at_once(service: EnhancedDatabaseService) -> None:
    """Inserting a tick invalidates the cached latest price of its symbol and of all symbols."""
    service.insert_market_tick("AAPL", Decimal("10.25"), timestamp=START)
    service.get_latest_market_data()
    service.get_latest_market_data(["AAPL"])
    newer = service.insert_market_tick(
        "AAPL", Decimal("10.50"), volume=5, bid=Decimal("10.4"), ask=Decimal("10.6")
    )
    assert service.get_latest_market_data(["AAPL"]) == (newer,)
    assert service.get_latest_market_data() == (newer,)


def test_the_latest_tick_is_the_one_with_the_latest_time(service: EnhancedDatabaseService) -> None:
    """A tick that is inserted last but has an earlier time is not the latest."""
    newest = tick("AAPL", 5, "12")
    service.insert_market_ticks([newest, tick("AAPL", 1, "11")])
    service.insert_market_tick("AAPL", Decimal(10), timestamp=START)
    assert service.get_latest_market_data(["AAPL"]) == (newest,)


def test_many_symbols_are_ordered_and_missing_ones_left_out(
    service: EnhancedDatabaseService,
) -> None:
    """Latest prices are ordered by symbol and come from cache and database; unknown symbols are left out."""
    service.insert_market_ticks([tick(symbol, 0, "1") for symbol in ("MSFT", "AAPL", "IBM")])
    service.get_latest_market_data(["IBM"])
    found = service.get_latest_market_data(["MSFT", "NONE", "IBM", "AAPL", "AAPL"])
    assert [each.symbol for each in found] == ["AAPL", "IBM", "MSFT"]
    assert service.get_latest_market_data([]) == ()
    assert service.get_latest_market_data() == found


WRITTEN = (
    "$SPX",
    ".DJI",
    "0700.HK",
    "7203.T",
    "BRK/B",
    "BRK_A",
    "BTC/USDT",
    "CAD=X",
    "M&M",
    "NYSE:LMT",
    "^GSPC",
)


def test_symbols_with_special_characters_are_unchanged(service: EnhancedDatabaseService) -> None:
    """Symbols such as `BRK/B` or `^GSPC` are the same in latest prices, sparklines, events and candles."""
    written = sorted(WRITTEN)
    service.insert_market_ticks([tick(symbol, 0, str(place + 1)) for place, symbol in enumerate(written)])
    service.load_market_ticks([tick(symbol, 1, str(place + 1)) for place, symbol in enumerate(written)])
    for _ in range(2):
        found = service.get_latest_market_data(list(WRITTEN))
        assert [(each.symbol, each.price) for each in found] == list(zip(written, range(1, 12), strict=True))
    assert [each.symbol for each in service.get_latest_market_data()] == written
    assert [line.symbol for line in service.get_sparklines(written)] == written
    event = service.create_market_event(type="NEWS", title="All moved", affected_symbols=written)
    assert event.affected_symbols == tuple(written)
    for symbol in written:
        assert service.list_market_events(1, symbol=symbol) == (event,)
        [candle] = service.get_price_history(symbol, START, START + timedelta(hours=1), "1h")
        assert candle.ticks == 2


@pytest.mark.parametrize(
    "symbol",
    ["aapl", "A B", "A,B", "A\nB", "A;B", "A'B", "A*", "..A", "-A", "^", "", "Ä", "A" * 33, *WRITTEN],
)
def test_database_and_service_accept_the_same_symbols(execute: Execute, symbol: str) -> None:
    """The check constraint of ticks accepts a symbol if and only if the service accepts it."""
    statement = "INSERT INTO ticks (symbol, timestamp, price) VALUES (%s, now(), 1)"
    if symbol in WRITTEN:
        assert check_symbol(symbol) == symbol
        execute(statement, (symbol,))
        return
    with pytest.raises(InvalidInput):
        check_symbol(symbol)
    with pytest.raises(psycopg2.errors.CheckViolation, match="ticks_symbol_format"):
        execute(statement, (symbol,))


@pytest.mark.parametrize(
    "bar", [(500, 101, 99, 100), (100, 101, 99, 10), (None, 101, 99, 102), (100, 99, 101, 100)]
)
def test_the_database_refuses_impossible_bars(execute: Execute, bar: tuple[float | None, ...]) -> None:
    """A check constraint requires open and price within low and high; a tick may lack open, high and low."""
    statement = """INSERT INTO ticks (symbol, timestamp, open, high, low, price)
                   VALUES ('A', clock_timestamp(), %s, %s, %s, %s)"""
    for possible in ((10, 11, 9, 10.5), (9, 11, 9, 11), (None, None, None, 10), (None, 11, 9, 10)):
        execute(statement, possible)
    with pytest.raises(psycopg2.errors.CheckViolation, match="ticks_bar"):
        execute(statement, bar)


def test_a_symbol_has_a_currency(service: EnhancedDatabaseService) -> None:
    """The currency of a symbol with ticks is None until it is set; a symbol without ticks is not listed."""
    service.insert_market_ticks([tick("AAPL", 0, "1"), tick("LLOY.L", 0, "50")])
    assert service.get_symbol_currencies() == {"AAPL": None, "LLOY.L": None}
    assert service.update_symbol_currencies({"LLOY.L": "GBX", "NONE": "USD"}) == 1
    assert service.update_symbol_currencies({"LLOY.L": "GBX"}) == 0
    assert service.get_symbol_currencies() == {"AAPL": None, "LLOY.L": "GBX"}
    service.insert_market_tick("LLOY.L", Decimal(51))
    assert service.get_symbol_currencies()["LLOY.L"] == "GBX"
    for wrong in ({"LLOY.L": "pence"}, {"lloy.l": "GBX"}, "GBX"):
        with pytest.raises(InvalidInput):
            service.update_symbol_currencies(wrong)  # type: ignore[arg-type]  # on purpose


def test_moved_weeks_are_stored_per_symbol(service: EnhancedDatabaseService) -> None:
    """`get_moved_weeks` returns 0 for a history that was not moved and leaves out symbols without ticks."""
    service.insert_market_ticks([tick("AAPL", 0, "1"), tick("FB", 0, "2")])
    assert service.update_moved_weeks({"AAPL": 715, "NONE": 715}) == 1
    assert service.update_moved_weeks({"AAPL": 715}) == 0
    assert service.get_moved_weeks() == {"AAPL": 715, "FB": 0}
    for wrong in ({"AAPL": 0.5}, {"aapl": 1}, {"AAPL": 10**6}, "AAPL"):
        with pytest.raises(InvalidInput):
            service.update_moved_weeks(wrong)  # type: ignore[arg-type]  # on purpose


def test_a_multi_symbol_read_is_one_query(service: EnhancedDatabaseService) -> None:
    """Latest prices of 50 symbols are read in one statement, and the second read comes from the cache."""
    symbols = [f"S{n}" for n in range(50)]
    service.insert_market_ticks([tick(symbol, 0, "1") for symbol in [*symbols, "AAPL"]])
    service.get_latest_market_data(["AAPL"])
    statements: list[str] = []
    service._database.query_hooks.append(lambda event: statements.append(event.sql))
    assert len(service.get_latest_market_data(symbols)) == 50
    assert len(service.get_latest_market_data(symbols)) == 50
    assert len(statements) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"symbol": "'; DROP TABLE ticks; --", "price": Decimal(1)}, "symbol is"),
        ({"symbol": "AAPL", "price": Decimal(-1)}, "price is"),
        ({"symbol": "AAPL", "price": 0}, "price is"),
        ({"symbol": "AAPL", "price": math.nan}, "price is nan"),
        ({"symbol": "AAPL", "price": 1, "bid": 2, "ask": 1}, "ask is 1, below the bid 2"),
        ({"symbol": "AAPL", "price": 1, "volume": -1}, "volume is -1"),
        ({"symbol": "AAPL", "price": 1, "volume": 2**63}, "volume is"),
        ({"symbol": "AAPL", "price": 1, "volatility": -1}, "volatility is -1"),
        ({"symbol": "AAPL", "price": 1, "timestamp": datetime(2026, 3, 2)}, "time zone"),  # naive on purpose
    ],
)
def test_an_invalid_tick_is_refused(
    service: EnhancedDatabaseService, execute: Execute, values: dict[str, Any], message: str
) -> None:
    """A tick with an invalid value raises InvalidInput and is not stored."""
    with pytest.raises(InvalidInput, match=message):
        service.insert_market_tick(**values)
    assert execute("SELECT count(*) FROM ticks") == [(0,)]


def test_an_invalid_tick_in_a_batch_is_named_by_position(
    service: EnhancedDatabaseService, execute: Execute
) -> None:
    """A batch with an invalid tick raises InvalidInput with the tick's position and stores no tick."""
    with pytest.raises(InvalidInput, match="tick 1: price is"):
        service.insert_market_ticks([tick("AAPL", 0, "1"), tick("AAPL", 1, "-1")])
    assert execute("SELECT count(*) FROM ticks") == [(0,)]


def test_the_last_of_two_ticks_with_the_same_time_is_stored(service: EnhancedDatabaseService) -> None:
    """Of two ticks with the same symbol and time the last one is stored, in one batch or in two calls."""
    assert service.insert_market_ticks([tick("AAPL", 0, "1"), tick("AAPL", 0, "2")]) == 1
    assert service.get_latest_market_data(["AAPL"])[0].price == 2
    service.insert_market_tick("AAPL", Decimal(3), timestamp=START)
    assert service.get_latest_market_data(["AAPL"])[0].price == 3


def test_candles_are_aggregated(service: EnhancedDatabaseService) -> None:
    """A candle has the first price as open, the last as close, the extremes, and the sum of volumes."""
    service.insert_market_ticks(
        [
            tick("AAPL", 0, "10", volume=1),
            tick("AAPL", 1, "12", volume=2),
            tick("AAPL", 4, "9", volume=3),
            tick("AAPL", 5, "11", volume=4),
            tick("MSFT", 2, "99", volume=9),
        ]
    )
    first, second = service.get_price_history("AAPL", START, START + timedelta(minutes=10), "5m")
    assert (first.open, first.high, first.low, first.close, first.volume) == (10, 12, 9, 9, 6)
    assert (first.bucket, first.ticks) == (START, 3)
    assert (second.open, second.close, second.ticks) == (11, 11, 1)


def test_a_candle_uses_the_open_high_and_low_of_a_tick(service: EnhancedDatabaseService) -> None:
    """The candle of a tick with its own open, high and low, as imported days have, uses these values."""
    bar = tick("AAPL", 0, "10", open=Decimal(8), high=Decimal(13), low=Decimal(7))
    service.insert_market_ticks([bar])
    [candle] = service.get_price_history("AAPL", START, START + timedelta(days=1), "1d")
    assert (candle.open, candle.high, candle.low, candle.close) == (8, 13, 7, 10)


def test_the_end_of_a_price_history_is_exclusive(service: EnhancedDatabaseService) -> None:
    """A tick at the end of the requested range is not in the price history."""
    service.insert_market_ticks([tick("AAPL", 0, "1"), tick("AAPL", 5, "2")])
    candles = service.get_price_history("AAPL", START, START + timedelta(minutes=5), "1m")
    assert [candle.close for candle in candles] == [1]


def test_weeks_begin_on_monday(service: EnhancedDatabaseService) -> None:
    """The weekly candle of ticks from Monday 2026-03-02 to Sunday begins on that Monday."""
    service.insert_market_ticks([tick("AAPL", 0, "1"), tick("AAPL", 60 * 24 * 6, "2")])
    candles = service.get_price_history("AAPL", START, START + timedelta(days=14), "1w")
    assert [candle.bucket for candle in candles] == [datetime(2026, 3, 2, tzinfo=UTC)]


@pytest.mark.parametrize(
    ("start", "end", "bucket", "message"),
    [
        (START, START, "1d", "is not after"),
        (START, START + timedelta(days=365), "1s", "give at most 20000"),
        (START, START + timedelta(days=1), "1x", "bucket is '1x'"),
    ],
)
def test_invalid_ranges_are_refused(
    service: EnhancedDatabaseService, start: datetime, end: datetime, bucket: str, message: str
) -> None:
    """An empty range, a range with too many candles or an unknown candle width raises InvalidInput."""
    with pytest.raises(InvalidInput, match=message):
        service.get_price_history("AAPL", start, end, bucket)


def test_clearing_the_cache_keeps_ticks(service: EnhancedDatabaseService, redis_client: redis.Redis) -> None:
    """`clear_market_data_cache` deletes only cache keys; `delete_market_ticks` deletes one symbol's ticks."""
    service.insert_market_ticks([tick("AAPL", 0, "1"), tick("MSFT", 0, "1")])
    service.get_latest_market_data()
    service.get_latest_market_data(["AAPL", "MSFT"])
    service.clear_market_data_cache()
    assert list(redis_client.scan_iter(match="market:*")) == []
    assert service.delete_market_ticks("AAPL") == 1
    assert [each.symbol for each in service.get_latest_market_data()] == ["MSFT"]


def test_a_symbol_is_removed_with_its_last_tick(service: EnhancedDatabaseService, execute: Execute) -> None:
    """After its last tick is deleted, a symbol is in no table and in no list."""
    service.insert_market_ticks([tick("AAPL", 0, "1"), tick("MSFT", 0, "1")])
    service.delete_market_ticks("AAPL")
    assert execute("SELECT symbol FROM symbols") == [("MSFT",)]
    assert list(service.get_symbol_currencies()) == ["MSFT"]
    assert service.delete_market_ticks("AAPL") == 0


def test_a_symbol_with_a_concurrent_insert_is_kept(
    service: EnhancedDatabaseService, execute: Execute, database_url: str
) -> None:
    """A deletion waits for an uncommitted insert of a tick and keeps the symbol and the new tick."""
    service.insert_market_ticks([tick("AAPL", 0, "1")])
    writer = psycopg2.connect(database_url)
    with writer.cursor() as cursor:
        cursor.execute(
            "INSERT INTO ticks (symbol, timestamp, price) VALUES ('AAPL', %s, 2)",
            (START + timedelta(minutes=1),),
        )
    deleting = threading.Thread(target=service.delete_market_ticks, args=("AAPL",))
    deleting.start()
    assert wait_until(
        lambda: execute("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")[0][0], seconds=30
    )
    writer.commit()
    writer.close()
    deleting.join()
    assert execute("SELECT symbol FROM symbols") == [("AAPL",)]
    assert [each.price for each in service.get_latest_market_data()] == [Decimal(2)]


def test_market_keys_and_ttl(service: EnhancedDatabaseService, redis_client: redis.Redis) -> None:
    """The cache keys of latest prices are `market:<symbol>` and `market:all`, with a TTL up to 30 s."""
    service.insert_market_ticks([tick("AAPL", 0, "1")])
    service.get_latest_market_data(["AAPL"])
    service.get_latest_market_data()
    for key in ("market:AAPL", "market:all"):
        assert 20 < redis_client.ttl(key) <= 30


@pytest.mark.parametrize("bucket", ["1d", "366d"])
def test_candles_can_begin_in_the_year_1(service: EnhancedDatabaseService, bucket: str) -> None:
    """A price history from the earliest `datetime` on returns candles, the first with a shorter bucket."""
    begin = datetime.min.replace(tzinfo=UTC)
    service.insert_market_tick("AAPL", Decimal(1), timestamp=begin)
    [candle] = service.get_price_history("AAPL", begin, begin + timedelta(days=20), bucket)
    assert (candle.bucket, candle.close) == (begin, 1)


def test_the_volume_of_a_candle_can_exceed_64_bits(service: EnhancedDatabaseService) -> None:
    """The sum of three volumes of 2**63 - 1 is exact, from the database and from the cache."""
    most = 2**63 - 1
    service.insert_market_ticks([tick("AAPL", minute, "1", volume=most) for minute in range(3)])
    for _ in range(2):
        [candle] = service.get_price_history("AAPL", START, START + timedelta(hours=1), "1h")
        assert (candle.volume, type(candle.volume)) == (3 * most, int)


def calculate_volatility(prices: list[float]) -> float:
    """Return the standard deviation of the daily log returns, annualised, in percent."""
    returns = [math.log(after / before) for before, after in pairwise(prices)]
    return statistics.stdev(returns) * math.sqrt(252) * 100


def test_prices_at_times_are_the_last_ones_before(service: EnhancedDatabaseService) -> None:
    """`list_prices_at` returns the last price at or before each time, in order, or None if there is none."""
    service.insert_market_ticks(
        [
            tick("AAPL", -60 * 24 * 365 * 20, "1"),
            tick("AAPL", 0, "10"),
            tick("AAPL", 5, "11"),
            tick("IBM", 5, "7"),
        ]
    )
    places = [("AAPL", 5), ("IBM", 4), ("AAPL", 4), ("AAPL", -1), ("NONE", 9), ("AAPL", -60 * 24 * 365 * 21)]
    found = service.list_prices_at([(symbol, START + timedelta(minutes=after)) for symbol, after in places])
    assert found == (11, None, 10, 1, None, None)
    assert service.list_prices_at([]) == ()
    for wrong in ("AAPL", [("AAPL",)], [("AAPL", START.replace(tzinfo=None))], [(1, START)], ["AAPL"]):
        with pytest.raises(InvalidInput):
            service.list_prices_at(wrong)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(InvalidInput, match="at most 50000"):
        service.list_prices_at([("AAPL", START)] * 50_001)


def test_statistics_are_calculated_from_prices(service: EnhancedDatabaseService) -> None:
    """Changes and volatility are calculated from prices, not from stored changes, and skip empty days."""
    closes = [100 + (n * n) % 17 for n in range(30)]
    ticks = [tick("AAPL", 1440 * (n + n // 5 * 2), str(close)) for n, close in enumerate(closes)]
    last = ticks[-1].timestamp
    ticks += [
        Tick("AAPL", last - timedelta(hours=20), Decimal(500), volatility=Decimal(1)),
        Tick("AAPL", last + timedelta(minutes=7), Decimal(120), change_percent_24h=Decimal(99)),
        Tick("FB", START, Decimal(20), change_24h=Decimal(3)),
        Tick("FB", START + timedelta(hours=23, minutes=59), Decimal(30)),
        Tick("IBM", START, Decimal(3)),
        Tick("IBM", START + timedelta(hours=24), Decimal(4)),
    ]
    service.insert_market_ticks(ticks)
    aapl, fb, ibm = service.get_price_statistics()
    assert (aapl.symbol, aapl.price, aapl.timestamp) == ("AAPL", 120, last + timedelta(minutes=7))
    # the price of 20 hours before is too recent for the change, but it is the last price of its day
    assert aapl.change_24h == 120 - closes[-2]
    assert aapl.change_percent_24h == round(Decimal(120 - closes[-2]) * 100 / closes[-2], 4)
    days = [*closes[:-2], 500, 120]
    assert float(aapl.volatility or 0) == pytest.approx(
        calculate_volatility([float(day) for day in days[-21:]]), abs=1e-4
    )
    assert (fb.change_24h, fb.change_percent_24h, fb.volatility) == (None, None, None)
    assert (ibm.change_24h, ibm.change_percent_24h, ibm.volatility) == (1, Decimal("33.3333"), None)


def test_statistics_without_ticks_are_empty(service: EnhancedDatabaseService) -> None:
    """Without ticks `get_price_statistics` returns an empty tuple."""
    assert service.get_price_statistics() == ()


def test_volatility_needs_twenty_one_days(service: EnhancedDatabaseService) -> None:
    """Volatility is None for 20 days of prices and a number for 21; equal prices have a volatility of 0."""
    days = {"AAPL": 20, "IBM": 21}
    service.insert_market_ticks([tick(symbol, 1440 * n, "5") for symbol in days for n in range(days[symbol])])
    assert [found.volatility for found in service.get_price_statistics()] == [None, 0]
