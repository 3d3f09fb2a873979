"""Statements on `ticks` and `symbols`: prices, candles, sparklines, market returns."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import MAXYEAR, UTC, date, datetime, timedelta
from decimal import Decimal
from operator import attrgetter
from typing import Any, NamedTuple

from core.database import Database
from core.queries.loads import TICKS
from core.queries.rows import (
    Row,
    collect_columns,
    count_changed,
    encode_numbers,
    encode_repeated,
    fetch_all,
    get_first,
    list_columns,
    make_builder,
)
from core.records import (
    TRADING_DAYS_PER_YEAR,
    VOLATILITY_RETURNS,
    Candle,
    MarketReturn,
    PriceStatistics,
    Sparkline,
    Tick,
)

COLUMNS = list_columns(Tick)
_VALUES = COLUMNS.removeprefix("symbol, ")
# Selects the latest tick of each symbol if the tick is in the given month. For any other symbol it selects
# the month of the latest tick instead. A search of all partitions would take longer to plan than to run.
_LATEST_IN_MONTH = f"""
    SELECT CASE WHEN t.timestamp IS NULL THEN s.month END, {{symbol}}, {_VALUES} FROM {{symbols}}
    LEFT JOIN LATERAL (
        SELECT {_VALUES} FROM ticks
        WHERE symbol = s.symbol AND s.month = %(month)s
          AND timestamp >= %(month)s AND timestamp < %(end)s
        ORDER BY timestamp DESC LIMIT 1
    ) AS t ON true"""
LATEST_IN_MONTH = _LATEST_IN_MONTH.format(
    symbol="w.symbol",
    symbols="unnest(%(symbols)s::text[]) AS w (symbol) LEFT JOIN symbols s ON s.symbol = w.symbol",
)
LATEST_OF_ALL_IN_MONTH = _LATEST_IN_MONTH.format(symbol="s.symbol", symbols="symbols s")
# A search reads up to this number of single months before it reads all partitions together.
MONTHS_TRIED = 3
# `beyond` is the end of tomorrow: later ticks, which an earlier release could store, are ignored. If
# partitions exist up to that time, the planner excludes the default partition and orders the others newest
# first. The executor then stops at the first row.
LATEST = f"""
    SELECT t.* FROM unnest(%(symbols)s::text[]) AS s (symbol)
    CROSS JOIN LATERAL (
        SELECT {COLUMNS} FROM ticks WHERE symbol = s.symbol AND timestamp < %(beyond)s
        ORDER BY timestamp DESC LIMIT 1
    ) AS t"""
# `beyond` is the end of tomorrow, which is this long after the beginning of today.
_SINCE_TODAY = timedelta(days=2)
_END_OF_TIME = datetime.max.replace(tzinfo=UTC)
# The condition on `end` lets the planner exclude the default partition and read the other partitions in
# order.
RANGE = f"""
    SELECT {COLUMNS} FROM ticks
    WHERE symbol = %(symbol)s AND timestamp >= %(start)s AND timestamp < %(end)s
      AND (%(after)s::timestamptz IS NULL OR timestamp > %(after)s::timestamptz)
    ORDER BY timestamp LIMIT %(limit)s"""
LIST_SYMBOLS = "SELECT symbol FROM symbols"
LIST_CURRENCIES = "SELECT symbol, currency FROM symbols ORDER BY symbol"
LIST_MOVED_WEEKS = "SELECT symbol, moved_weeks FROM symbols ORDER BY symbol"
# Rows are locked in the order of their symbols, so that no two writers deadlock.
_UPDATE_SYMBOLS = """
    WITH locked AS (
        SELECT s.symbol, g.given FROM symbols s
        JOIN unnest(%s::text[], %s::{kind}[]) AS g (symbol, given) USING (symbol)
        WHERE s.{column} IS DISTINCT FROM g.given ORDER BY symbol FOR UPDATE OF s
    )
    UPDATE symbols s SET {column} = l.given FROM locked l WHERE s.symbol = l.symbol"""
UPDATE_CURRENCIES = _UPDATE_SYMBOLS.format(column="currency", kind="text")
UPDATE_MOVED_WEEKS = _UPDATE_SYMBOLS.format(column="moved_weeks", kind="integer")
# A tick that stands for a whole bar counts with its own open, high and low; any other tick counts with its
# price. `greatest` is needed because the first possible bucket begins before year 1, which Python cannot
# represent.
CANDLES = """
    SELECT symbol, bucket,
           (array_agg(COALESCE(open, price) ORDER BY timestamp))[1],
           max(COALESCE(high, price)),
           min(COALESCE(low, price)),
           (array_agg(price ORDER BY timestamp DESC))[1],
           sum(volume),
           count(*)
    FROM (
        SELECT *, greatest(date_bin(%(bucket)s, timestamp, '1999-12-27T00:00:00Z'),
                           '0001-01-01T00:00:00Z') AS bucket FROM ticks
        WHERE symbol = %(symbol)s AND timestamp >= %(start)s AND timestamp < %(end)s
    ) AS ticks
    GROUP BY symbol, bucket ORDER BY bucket"""
_REPLACE = f"""
    ON CONFLICT ({", ".join(TICKS.key)}) DO UPDATE SET
        {", ".join(f"{name} = EXCLUDED.{name}" for name in TICKS.columns if name not in TICKS.key)}"""
INSERT = f"""
    INSERT INTO ticks ({COLUMNS}) SELECT {{values}} FROM unnest({{arrays}}) AS given ({{names}})
    ORDER BY {TICKS.order}
    {_REPLACE}"""
_TYPES = {"symbol": "text", "timestamp": "timestamptz", "volume": "bigint"}
_get_values = attrgetter(*TICKS.columns)
# Planning INSERT_ONE takes half the time of planning INSERT, which has twelve arrays.
INSERT_ONE = f"INSERT INTO ticks ({COLUMNS}) VALUES ({', '.join(['%s'] * len(TICKS.columns))}) {_REPLACE}"
DELETE = "DELETE FROM ticks WHERE symbol = %s"
_WITHOUT_TICKS = (
    "symbols WHERE symbol = %(symbol)s AND NOT EXISTS (SELECT FROM ticks WHERE symbol = %(symbol)s)"
)
FIND_WITHOUT_TICKS = f"SELECT EXISTS (SELECT FROM {_WITHOUT_TICKS})"
DELETE_UNUSED_SYMBOL = f"DELETE FROM {_WITHOUT_TICKS}"
# Selects the latest price of a symbol and then, step by step, the last price of each earlier period, with one
# index probe for each price. Reading all ticks of a day would read a thousand times as many rows. `beyond` is
# the end of tomorrow, as in LATEST.
_WALK = """
    WITH RECURSIVE walk AS (
        SELECT s.symbol, t.timestamp, t.price, 1 AS place FROM {symbols} s
        CROSS JOIN LATERAL (
            SELECT timestamp, price FROM ticks WHERE symbol = s.symbol AND timestamp < %(beyond)s
            ORDER BY timestamp DESC LIMIT 1
        ) AS t
        UNION ALL
        SELECT w.symbol, t.timestamp, t.price, w.place + 1 FROM walk w
        CROSS JOIN LATERAL (
            SELECT timestamp, price FROM ticks
            WHERE symbol = w.symbol AND timestamp < %(beyond)s
              AND timestamp < date_bin(%(step)s, w.timestamp, '1999-12-27T00:00:00Z')
            ORDER BY timestamp DESC LIMIT 1
        ) AS t
        WHERE w.place < %(points)s
    )"""
LINES = """
    SELECT symbol, array_agg(timestamp ORDER BY timestamp), array_agg(price ORDER BY timestamp)
    FROM walk GROUP BY symbol ORDER BY symbol COLLATE "C" """
SPARKLINES = _WALK.format(symbols="(SELECT unnest(%(symbols)s::text[]) AS symbol)") + LINES
SPARKLINES_OF_ALL = _WALK.format(symbols="symbols") + LINES


def build_statistics_statement(walk: str, *, price: str) -> str:
    """Return the statement that selects each symbol's last price, its change in 24 hours and its volatility.

    `walk` is the WITH clause that selects the last price of each of the latest days. `price` is the query for
    the earlier price from which the change is computed: the newest price that is at least 24 hours older than
    the last price.
    """
    return f"""{walk}, returns AS (
        SELECT symbol, ln(price::float8) - ln(lag(price::float8) OVER days) AS gain
        FROM walk WINDOW days AS (PARTITION BY symbol ORDER BY timestamp)
    ), deviations AS (
        SELECT symbol, stddev_samp(gain) * sqrt({TRADING_DAYS_PER_YEAR}) * 100 AS percent
        FROM returns GROUP BY symbol HAVING count(gain) = {VOLATILITY_RETURNS}
    )
    SELECT w.symbol, w.timestamp, w.price, w.price - b.price,
           round(100 * (w.price - b.price) / b.price, 4), round(d.percent::numeric, 4)
    FROM walk w
    LEFT JOIN LATERAL ({price}) AS b ON true
    LEFT JOIN deviations d ON d.symbol = w.symbol
    WHERE w.place = 1 ORDER BY w.symbol COLLATE "C" """


STATISTICS = build_statistics_statement(
    _WALK.format(symbols="symbols"),
    price="""
        SELECT price FROM ticks
        WHERE symbol = w.symbol AND timestamp <= w.timestamp - interval '24 hours' AND timestamp < %(beyond)s
        ORDER BY timestamp DESC LIMIT 1""",
)
STATISTICS_WALK = {"points": VOLATILITY_RETURNS + 1, "step": timedelta(days=1)}
# `beyond` is the end of tomorrow, as in LATEST.
PRICES_AT = """
    SELECT t.price FROM unnest(%(symbols)s::text[], %(times)s::timestamptz[]) WITH ORDINALITY
        AS p (symbol, time, place)
    LEFT JOIN LATERAL (
        SELECT price FROM ticks WHERE symbol = p.symbol AND timestamp <= p.time AND timestamp < %(beyond)s
        ORDER BY timestamp DESC LIMIT 1
    ) AS t ON true
    ORDER BY p.place"""
# Selects the first or the last tick of a symbol on a day with one index probe. The conditions on `start` and
# `end` exclude the partitions of other months. Days are added to dates instead of timestamps, because the
# length of a day of a timestamptz depends on the time zone of the connection.
_TICK_OF_DAY = """
    SELECT {price} AS price FROM ticks
    WHERE symbol = s.symbol AND timestamp >= d.day::timestamp AT TIME ZONE 'UTC'
      AND timestamp < (d.day + 1)::timestamp AT TIME ZONE 'UTC'
      AND timestamp >= %(start)s::date::timestamp AT TIME ZONE 'UTC'
      AND timestamp < (%(end)s::date + 1)::timestamp AT TIME ZONE 'UTC'
    ORDER BY timestamp {order} LIMIT 1"""
RETURNS = f"""
    SELECT d.day, round(avg(100 * (last.price / first.price - 1)), 4), count(*)
    FROM (
        SELECT %(start)s::date + n AS day FROM generate_series(0, %(end)s::date - %(start)s::date) AS days (n)
    ) AS d
    CROSS JOIN symbols s
    CROSS JOIN LATERAL ({_TICK_OF_DAY.format(price="COALESCE(open, price)", order="")}) AS first
    CROSS JOIN LATERAL ({_TICK_OF_DAY.format(price="price", order="DESC")}) AS last
    GROUP BY 1 ORDER BY 1"""

build_tick = make_builder(Tick)
build_return = make_builder(MarketReturn)
build_statistics = make_builder(PriceStatistics)


def build_candle(row: Row) -> Candle:
    """Build a candle from a row of CANDLES."""
    # sum(volume) is numeric, because the sum of large volumes does not fit a bigint.
    return Candle(*(*row[:6], int(row[6]), row[7]))


def build_sparkline(row: Row) -> Sparkline:
    """Build a sparkline from a row with the symbol, the times and the prices."""
    return Sparkline(row[0], tuple(row[1]), tuple(row[2]))


def list_latest(
    database: Database, symbols: Sequence[str], beyond: datetime, month: datetime | None
) -> tuple[Tick, ...]:
    """Return the latest tick before the time `beyond` of each symbol that has one, ordered by symbol.

    `month` is the month in which most of these ticks are expected (None: the month of today). If the guess is
    right, one statement is enough.
    """
    search = _Search(database, beyond)
    search.search_month(
        LATEST_IN_MONTH, month or month_of(beyond - _SINCE_TODAY), symbols=encode_repeated(symbols)
    )
    return search.finish()


def list_latest_of_all(database: Database, beyond: datetime, month: datetime | None) -> tuple[Tick, ...]:
    """Return the latest tick before `beyond` of every symbol, ordered by symbol.

    `month` is as in `list_latest`.
    """
    search = _Search(database, beyond)
    search.search_month(LATEST_OF_ALL_IN_MONTH, month or month_of(beyond - _SINCE_TODAY))
    return search.finish()


def list_symbols(database: Database) -> tuple[str, ...]:
    """Return every symbol that has ticks, or had ticks since the last maintenance of partitions."""
    return fetch_all(database, get_first, LIST_SYMBOLS)


def list_currencies(database: Database) -> dict[str, str | None]:
    """Return every symbol with its currency, or with None if the currency is not known."""
    return dict(database.execute_sql(LIST_CURRENCIES).fetchall())


def update_currencies(database: Database, currencies: Mapping[str, str]) -> int:
    """Set the currencies of symbols that have ticks, and return how many symbols changed."""
    return count_changed(database, UPDATE_CURRENCIES, (list(currencies), list(currencies.values())))


def list_moved_weeks(database: Database) -> dict[str, int]:
    """Return for every symbol by how many weeks the dates of its ticks were moved when they were imported."""
    return dict(database.execute_sql(LIST_MOVED_WEEKS).fetchall())


def update_moved_weeks(database: Database, weeks: Mapping[str, int]) -> int:
    """Store by how many weeks the dates of each symbol's ticks were moved, without moving any tick.

    Returns how many symbols changed.
    """
    return count_changed(database, UPDATE_MOVED_WEEKS, (list(weeks), list(weeks.values())))


def find_common_month(ticks: Sequence[Tick]) -> datetime | None:
    """Return the start of the month that has the most ticks, or None if there are no ticks."""
    times = [tick.timestamp for tick in ticks]
    if not times:
        return None
    first = month_of(min(times))
    if first == month_of(max(times)):
        return first
    return Counter(map(month_of, times)).most_common(1)[0][0]


class _Search:
    """A search for the latest ticks of symbols, month by month."""

    def __init__(self, database: Database, beyond: datetime) -> None:
        self._database = database
        self._beyond = beyond
        self._found: list[Tick] = []
        # The symbols that were not found yet, with the month of their latest tick. None means that it may be
        # in any month.
        self._missing: dict[str, datetime | None] = {}

    def search_month(self, statement: str, month: datetime, **symbols: Any) -> None:
        """Search one month, and remember the symbols without a tick in it.

        `symbols` is the parameter that names the symbols to search; LATEST_OF_ALL_IN_MONTH has no such
        parameter.
        """
        parameters = {"month": month, "end": min(month_after(month), self._beyond), **symbols}
        for row in fetch_all(self._database, tuple, statement, parameters):
            latest, symbol, time = row[:3]
            if time is not None:
                self._found.append(build_tick(row[1:]))
                self._missing.pop(symbol, None)
            else:
                # `latest` is the month that the table `symbols` stores for this symbol: the symbol has no
                # tick after this month. The month has no tick to return if it is the searched month, or if it
                # begins at or after `beyond`. In both cases the tick to return may be in any month.
                is_elsewhere = latest is not None and month != latest < self._beyond
                self._missing[symbol] = latest if is_elsewhere else None

    def finish(self) -> tuple[Tick, ...]:
        """Search for the missing symbols, and return all found ticks, ordered by symbol."""
        for _ in range(MONTHS_TRIED - 1):
            months = Counter(month for month in self._missing.values() if month is not None)
            for month, _count in months.most_common(1):
                symbols = [symbol for symbol, latest in self._missing.items() if latest == month]
                self.search_month(LATEST_IN_MONTH, month, symbols=encode_repeated(symbols))
        if self._missing:
            parameters = {"symbols": encode_repeated(list(self._missing)), "beyond": self._beyond}
            self._found += fetch_all(self._database, build_tick, LATEST, parameters)
        return tuple(sorted(self._found, key=attrgetter("symbol")))


def month_of(time: datetime) -> datetime:
    """Return the start of the UTC month that contains a time."""
    return time.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def month_after(time: datetime) -> datetime:
    """Return the start of the UTC month that follows the month of a time.

    For a time in December 9999 it is the latest time that Python can represent.
    """
    if (time.year, time.month) == (MAXYEAR, 12):
        return _END_OF_TIME
    return (month_of(time) + timedelta(days=31)).replace(day=1)


def list_candles(
    database: Database, symbol: str, start: datetime, end: datetime, bucket: timedelta
) -> tuple[Candle, ...]:
    """Return the candles of the ticks in [start, end), oldest first. Candles of a week begin on Monday."""
    parameters = {"symbol": symbol, "start": start, "end": end, "bucket": bucket}
    return fetch_all(database, build_candle, CANDLES, parameters)


def list_sparklines(
    database: Database, symbols: Sequence[str] | None, points: int, step: timedelta, beyond: datetime
) -> tuple[Sparkline, ...]:
    """Return the recent prices of each symbol (None: of all symbols), ordered by symbol.

    A sparkline has the last price of each of the latest `points` periods that have prices. A period has the
    length `step`. Prices from `beyond` on are left out.
    """
    parameters: dict[str, Any] = {"points": points, "step": step, "beyond": beyond}
    if symbols is None:
        return fetch_all(database, build_sparkline, SPARKLINES_OF_ALL, parameters)
    return fetch_all(database, build_sparkline, SPARKLINES, {**parameters, "symbols": list(symbols)})


def list_statistics(database: Database, beyond: datetime) -> tuple[PriceStatistics, ...]:
    """Return every symbol's last price before `beyond`, its change in 24 hours and its volatility.

    The result is ordered by symbol.
    """
    return fetch_all(database, build_statistics, STATISTICS, {**STATISTICS_WALK, "beyond": beyond})


def list_prices_at(
    database: Database, places: Sequence[tuple[str, datetime]], beyond: datetime
) -> tuple[Decimal | None, ...]:
    """Return the last price at or before each (symbol, time) pair in `places`.

    The price is None if the symbol has no price at that time or before. Prices from `beyond` on are left out.
    """
    parameters = {
        "symbols": encode_repeated([symbol for symbol, _ in places]),
        "times": encode_repeated([time for _, time in places]),
        "beyond": beyond,
    }
    return fetch_all(database, get_first, PRICES_AT, parameters)


def list_returns(database: Database, start: date, end: date) -> tuple[MarketReturn, ...]:
    """Return the mean gain of all symbols on each day from `start` to `end` (included), oldest first.

    Days without prices are left out.
    """
    return fetch_all(database, build_return, RETURNS, {"start": start, "end": end})


class Range(NamedTuple):
    """The ticks of a symbol in [start, end). If `start` is None, the range begins with the first tick."""

    symbol: str
    start: datetime | None
    end: datetime


def list_range(database: Database, ticks: Range, after: datetime | None, limit: int) -> tuple[Tick, ...]:
    """Return up to `limit` ticks of a range after the time `after` (None: from the start), oldest first."""
    parameters = {
        "symbol": ticks.symbol,
        "start": ticks.start or "-infinity",
        "end": ticks.end,
        "after": after,
        "limit": limit,
    }
    return fetch_all(database, build_tick, RANGE, parameters)


def insert_ticks(database: Database, ticks: Sequence[Tick]) -> None:
    """Insert ticks, or replace stored ticks with the same symbol and time; each pair may occur only once."""
    if len(ticks) == 1:
        database.execute_sql(INSERT_ONE, _get_values(ticks[0]))
        return
    sent = collect_columns(ticks, TICKS.columns)
    statement = INSERT.format(
        values=", ".join(name if name in sent else "NULL::numeric" for name in TICKS.columns),
        arrays=", ".join(f"%s::{_TYPES.get(name, 'numeric')}[]" for name in sent),
        names=", ".join(sent),
    )
    database.execute_sql(statement, [_encode(name, values) for name, values in sent.items()])


def _encode(name: str, values: Sequence[Any]) -> str:
    return encode_repeated(values) if name in {"symbol", "timestamp"} else encode_numbers(values)


def delete_ticks(database: Database, symbol: str) -> int:
    """Delete every tick of a symbol, and return the number of deleted ticks."""
    return count_changed(database, DELETE, (symbol,))


def delete_unused_symbol(database: Database, symbol: str) -> None:
    """Delete a symbol from the table `symbols` if it has no ticks.

    In that case, `ticks` is locked: writers of ticks wait until the transaction ends. A writer does not
    insert a symbol that is in `symbols` already. Without the lock, such a writer could commit a tick just
    after the symbol was deleted, and `symbols` would not list the symbol of this tick.
    """
    parameters = {"symbol": symbol}
    if database.execute_sql(FIND_WITHOUT_TICKS, parameters).fetchone()[0]:
        database.execute_sql("LOCK TABLE ticks IN SHARE ROW EXCLUSIVE MODE")
        database.execute_sql(DELETE_UNUSED_SYMBOL, parameters)
