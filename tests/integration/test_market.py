"""The market: ticks, latest prices, candles."""

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
    """Return a tick some minutes after the start."""
    return Tick(symbol, START + timedelta(minutes=minutes), Decimal(price), **more)


def test_a_tick_is_the_latest_at_once(service: EnhancedDatabaseService) -> None:
    """The insert invalidates the cached prices of the symbol and of all symbols."""
    service.insert_market_tick("AAPL", Decimal("10.25"), timestamp=START)
    service.get_latest_market_data()
    service.get_latest_market_data(["AAPL"])
    newer = service.insert_market_tick(
        "AAPL", Decimal("10.50"), volume=5, bid=Decimal("10.4"), ask=Decimal("10.6")
    )
    assert service.get_latest_market_data(["AAPL"]) == (newer,)
    assert service.get_latest_market_data() == (newer,)


def test_latest_is_by_time_not_by_insertion(service: EnhancedDatabaseService) -> None:
    """An old price that arrives late is not the latest."""
    newest = tick("AAPL", 5, "12")
    service.insert_market_ticks([newest, tick("AAPL", 1, "11")])
    service.insert_market_tick("AAPL", Decimal(10), timestamp=START)
    assert service.get_latest_market_data(["AAPL"]) == (newest,)


def test_many_symbols_are_ordered_and_missing_ones_left_out(
    service: EnhancedDatabaseService,
) -> None:
    """One answer has symbols from the cache and from the database."""
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


def test_symbols_are_stored_as_people_write_them(service: EnhancedDatabaseService) -> None:
    """They pass through the database, both caches, candles, sparklines, events and loads unchanged."""
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
def test_the_database_has_the_same_rule_for_symbols(execute: Execute, symbol: str) -> None:
    """The database refuses what the service refuses, and accepts what the service accepts."""
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
def test_the_database_refuses_a_bar_that_cannot_be(execute: Execute, bar: tuple[float | None, ...]) -> None:
    """Open and close must lie within low and high; a tick may have none of these."""
    statement = """INSERT INTO ticks (symbol, timestamp, open, high, low, price)
                   VALUES ('A', clock_timestamp(), %s, %s, %s, %s)"""
    for possible in ((10, 11, 9, 10.5), (9, 11, 9, 11), (None, None, None, 10), (None, 11, 9, 10)):
        execute(statement, possible)
    with pytest.raises(psycopg2.errors.CheckViolation, match="ticks_bar"):
        execute(statement, bar)


def test_a_symbol_has_a_currency(service: EnhancedDatabaseService) -> None:
    """The currency is None until it is set; a symbol without ticks has none."""
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


def test_a_symbol_knows_by_how_much_its_history_was_moved(service: EnhancedDatabaseService) -> None:
    """For prices with their own dates it is 0; a symbol without ticks has no history."""
    service.insert_market_ticks([tick("AAPL", 0, "1"), tick("FB", 0, "2")])
    assert service.update_moved_weeks({"AAPL": 715, "NONE": 715}) == 1
    assert service.update_moved_weeks({"AAPL": 715}) == 0
    assert service.get_moved_weeks() == {"AAPL": 715, "FB": 0}
    for wrong in ({"AAPL": 0.5}, {"aapl": 1}, {"AAPL": 10**6}, "AAPL"):
        with pytest.raises(InvalidInput):
            service.update_moved_weeks(wrong)  # type: ignore[arg-type]  # on purpose


def test_a_multi_symbol_read_is_one_query(service: EnhancedDatabaseService) -> None:
    """The month of the latest ticks is known, so there is not one query per symbol."""
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
def test_a_bad_tick_is_refused(
    service: EnhancedDatabaseService, execute: Execute, values: dict[str, Any], message: str
) -> None:
    """It is refused before any SQL, and the table is unchanged."""
    with pytest.raises(InvalidInput, match=message):
        service.insert_market_tick(**values)
    assert execute("SELECT count(*) FROM ticks") == [(0,)]


def test_a_bad_tick_in_a_batch_is_named_by_its_place(
    service: EnhancedDatabaseService, execute: Execute
) -> None:
    """All ticks of the batch are written or none."""
    with pytest.raises(InvalidInput, match="tick 1: price is"):
        service.insert_market_ticks([tick("AAPL", 0, "1"), tick("AAPL", 1, "-1")])
    assert execute("SELECT count(*) FROM ticks") == [(0,)]


def test_of_two_ticks_of_one_time_the_last_wins(service: EnhancedDatabaseService) -> None:
    """This holds in one batch and over several."""
    assert service.insert_market_ticks([tick("AAPL", 0, "1"), tick("AAPL", 0, "2")]) == 1
    assert service.get_latest_market_data(["AAPL"])[0].price == 2
    service.insert_market_tick("AAPL", Decimal(3), timestamp=START)
    assert service.get_latest_market_data(["AAPL"])[0].price == 3


def test_candles_are_aggregated(service: EnhancedDatabaseService) -> None:
    """Open is the first price, close the last, high and low the extremes, volume the sum."""
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


def test_a_bar_brings_its_own_extremes(service: EnhancedDatabaseService) -> None:
    """An imported day is one tick with the open, high and low of a candle."""
    bar = tick("AAPL", 0, "10", open=Decimal(8), high=Decimal(13), low=Decimal(7))
    service.insert_market_ticks([bar])
    [candle] = service.get_price_history("AAPL", START, START + timedelta(days=1), "1d")
    assert (candle.open, candle.high, candle.low, candle.close) == (8, 13, 7, 10)


def test_the_end_is_outside(service: EnhancedDatabaseService) -> None:
    """In [start, end) a tick at the end belongs to the next page."""
    service.insert_market_ticks([tick("AAPL", 0, "1"), tick("AAPL", 5, "2")])
    candles = service.get_price_history("AAPL", START, START + timedelta(minutes=5), "1m")
    assert [candle.close for candle in candles] == [1]


def test_weeks_begin_on_monday(service: EnhancedDatabaseService) -> None:
    """2026-03-02 is a Monday."""
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
def test_bad_ranges_are_refused(
    service: EnhancedDatabaseService, start: datetime, end: datetime, bucket: str, message: str
) -> None:
    """They are refused before any SQL."""
    with pytest.raises(InvalidInput, match=message):
        service.get_price_history("AAPL", start, end, bucket)


def test_clear_and_delete(service: EnhancedDatabaseService, redis_client: redis.Redis) -> None:
    """Clearing drops cached prices only; deleting removes the ticks of one symbol."""
    service.insert_market_ticks([tick("AAPL", 0, "1"), tick("MSFT", 0, "1")])
    service.get_latest_market_data()
    service.get_latest_market_data(["AAPL", "MSFT"])
    service.clear_market_data_cache()
    assert list(redis_client.scan_iter(match="market:*")) == []
    assert service.delete_market_ticks("AAPL") == 1
    assert [each.symbol for each in service.get_latest_market_data()] == ["MSFT"]


def test_a_symbol_goes_with_its_ticks(service: EnhancedDatabaseService, execute: Execute) -> None:
    """The symbol is not listed after its last tick is deleted."""
    service.insert_market_ticks([tick("AAPL", 0, "1"), tick("MSFT", 0, "1")])
    service.delete_market_ticks("AAPL")
    assert execute("SELECT symbol FROM symbols") == [("MSFT",)]
    assert list(service.get_symbol_currencies()) == ["MSFT"]
    assert service.delete_market_ticks("AAPL") == 0


def test_a_symbol_that_gets_a_tick_meanwhile_stays(
    service: EnhancedDatabaseService, execute: Execute, database_url: str
) -> None:
    """The deletion waits for a writer of the symbol that has not committed."""
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
    """The keys are the design's, and live up to 30 s."""
    service.insert_market_ticks([tick("AAPL", 0, "1")])
    service.get_latest_market_data(["AAPL"])
    service.get_latest_market_data()
    for key in ("market:AAPL", "market:all"):
        assert 20 < redis_client.ttl(key) <= 30


@pytest.mark.parametrize("bucket", ["1d", "366d"])
def test_candles_begin_with_time(service: EnhancedDatabaseService, bucket: str) -> None:
    """A request from the year 1 on is answered, with a shorter first bucket."""
    begin = datetime.min.replace(tzinfo=UTC)
    service.insert_market_tick("AAPL", Decimal(1), timestamp=begin)
    [candle] = service.get_price_history("AAPL", begin, begin + timedelta(days=20), bucket)
    assert (candle.bucket, candle.close) == (begin, 1)


def test_volumes_of_a_candle_add_up_beyond_64_bits(service: EnhancedDatabaseService) -> None:
    """Each volume fits its column, and the sum is exact from the database and from the cache."""
    most = 2**63 - 1
    service.insert_market_ticks([tick("AAPL", minute, "1", volume=most) for minute in range(3)])
    for _ in range(2):
        [candle] = service.get_price_history("AAPL", START, START + timedelta(hours=1), "1h")
        assert (candle.volume, type(candle.volume)) == (3 * most, int)


def deviate(prices: list[float]) -> float:
    """Return the deviation of daily log returns, annualised in percent."""
    returns = [math.log(after / before) for before, after in pairwise(prices)]
    return statistics.stdev(returns) * math.sqrt(252) * 100


def test_the_last_price_at_or_before_a_time(service: EnhancedDatabaseService) -> None:
    """Many symbols and times are answered in the order given; None before the first price."""
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


def test_statistics_follow_from_the_prices_alone(service: EnhancedDatabaseService) -> None:
    """The stored changes are ignored; days without a price are left out, today counts so far."""
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
    # the price of 20 hours before is too young, and the last one of its day
    assert aapl.change_24h == 120 - closes[-2]
    assert aapl.change_percent_24h == round(Decimal(120 - closes[-2]) * 100 / closes[-2], 4)
    days = [*closes[:-2], 500, 120]
    assert float(aapl.volatility or 0) == pytest.approx(deviate([float(day) for day in days[-21:]]), abs=1e-4)
    assert (fb.change_24h, fb.change_percent_24h, fb.volatility) == (None, None, None)
    assert (ibm.change_24h, ibm.change_percent_24h, ibm.volatility) == (1, Decimal("33.3333"), None)


def test_statistics_of_no_market(service: EnhancedDatabaseService) -> None:
    """The answer is empty and no error."""
    assert service.get_price_statistics() == ()


def test_volatility_needs_twenty_one_days(service: EnhancedDatabaseService) -> None:
    """It needs twenty returns; equal prices have a volatility of zero."""
    days = {"AAPL": 20, "IBM": 21}
    service.insert_market_ticks([tick(symbol, 1440 * n, "5") for symbol in days for n in range(days[symbol])])
    assert [found.volatility for found in service.get_price_statistics()] == [None, 0]
