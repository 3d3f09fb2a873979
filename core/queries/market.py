"""Statements on `ticks`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import MAXYEAR, UTC, datetime, timedelta
from operator import attrgetter
from typing import Any, NamedTuple

from core.database import Database
from core.queries.arrays import encode_numbers, encode_shared
from core.queries.bulk import TICKS
from core.queries.rows import Row, count_changed, fetch_all
from core.records import Candle, Tick

_VALUES = "timestamp, price, volume, bid, ask, change_24h, change_percent_24h, volatility, open, high, low"
COLUMNS = f"symbol, {_VALUES}"
# Planning a search through all partitions takes longer than the search, so each symbol is
# looked for in the one partition that has its latest tick; a symbol whose latest tick is of
# another month comes back with that month instead. What is not needed is not sent.
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
# After this one and the two that most symbols are in, every month is searched at once.
MONTHS_TRIED = 3
# `beyond` is the end of tomorrow: later ticks, which an older release could store, count for
# nothing. Where partitions have been created up to it, the rest is without a gap, so the planner
# leaves the default partition out and visits the others newest first, and the executor stops at
# the first hit.
LATEST = f"""
    SELECT t.* FROM unnest(%(symbols)s::text[]) AS s (symbol)
    CROSS JOIN LATERAL (
        SELECT {COLUMNS} FROM ticks WHERE symbol = s.symbol AND timestamp < %(beyond)s
        ORDER BY timestamp DESC LIMIT 1
    ) AS t"""
# From the end of tomorrow back to some time of today.
TODAY = timedelta(days=2)
_END_OF_TIME = datetime.max.replace(tzinfo=UTC)
# The end leaves the default partition out where it can: then the others are read one after the other.
RANGE = f"""
    SELECT {COLUMNS} FROM ticks
    WHERE symbol = %(symbol)s AND timestamp >= %(start)s AND timestamp < %(end)s
      AND (%(after)s::timestamptz IS NULL OR timestamp > %(after)s::timestamptz)
    ORDER BY timestamp LIMIT %(limit)s"""
LIST_SYMBOLS = "SELECT symbol FROM symbols"
LIST_CURRENCIES = "SELECT symbol, currency FROM symbols ORDER BY symbol"
LIST_MOVED_WEEKS = "SELECT symbol, moved_weeks FROM symbols ORDER BY symbol"
# In one order everywhere, so that no two writers wait for each other.
_UPDATE_SYMBOLS = """
    WITH locked AS (
        SELECT s.symbol, g.given FROM symbols s
        JOIN unnest(%s::text[], %s::{kind}[]) AS g (symbol, given) USING (symbol)
        WHERE s.{column} IS DISTINCT FROM g.given ORDER BY symbol FOR UPDATE OF s
    )
    UPDATE symbols s SET {column} = l.given FROM locked l WHERE s.symbol = l.symbol"""
UPDATE_CURRENCIES = _UPDATE_SYMBOLS.format(column="currency", kind="text")
UPDATE_MOVED_WEEKS = _UPDATE_SYMBOLS.format(column="moved_weeks", kind="integer")
# A tick that stands for a bar brings its own open, high and low. The first bucket of all may begin
# in a year that Python does not have.
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
_REPLACE = """
    ON CONFLICT (symbol, timestamp) DO UPDATE SET
        price = EXCLUDED.price, volume = EXCLUDED.volume, bid = EXCLUDED.bid, ask = EXCLUDED.ask,
        change_24h = EXCLUDED.change_24h, change_percent_24h = EXCLUDED.change_percent_24h,
        volatility = EXCLUDED.volatility, open = EXCLUDED.open, high = EXCLUDED.high,
        low = EXCLUDED.low"""
# Live ticks are written once each, so a batch with one of a known time replaces it.
INSERT = f"""
    INSERT INTO ticks ({COLUMNS}) SELECT {{values}} FROM unnest({{arrays}}) AS given ({{names}})
    ORDER BY {TICKS.order}
    {_REPLACE}"""
_TYPES = {"symbol": "text", "timestamp": "timestamptz", "volume": "bigint"}
# A single tick is planned in half of the time that twelve arrays take.
_LIST_VALUES = attrgetter(*TICKS.columns)
INSERT_ONE = f"INSERT INTO ticks ({COLUMNS}) VALUES ({', '.join(['%s'] * 12)}) {_REPLACE}"


def build_tick(row: Row) -> Tick:
    """Build a tick from a row of COLUMNS."""
    return Tick(*row)


def build_candle(row: Row) -> Candle:
    """Build a candle from a row of CANDLES."""
    # the sum is a numeric: of large volumes it is more than a bigint holds
    return Candle(*(*row[:6], int(row[6]), row[7]))


def list_latest(
    database: Database, symbols: Sequence[str], beyond: datetime, month: datetime | None = None
) -> tuple[Tick, ...]:
    """Return the latest tick before a time of each of the symbols that has one, by symbol.

    `month` is where most of them are expected, by default today's: a right guess saves a statement.
    """
    search = _Search(database, beyond)
    search.look(LATEST_IN_MONTH, month or month_of(beyond - TODAY), symbols=encode_shared(symbols))
    return search.finish()


def list_latest_of_all(
    database: Database, beyond: datetime, month: datetime | None = None
) -> tuple[Tick, ...]:
    """Return the latest tick before a time of every symbol, by symbol; `month` as above."""
    search = _Search(database, beyond)
    search.look(LATEST_OF_ALL_IN_MONTH, month or month_of(beyond - TODAY))
    return search.finish()


def list_symbols(database: Database) -> tuple[str, ...]:
    """Return every symbol that has ticks, or had them when partitions were maintained last."""
    return fetch_all(database, lambda row: row[0], LIST_SYMBOLS)


def list_currencies(database: Database) -> dict[str, str | None]:
    """Return the currency of every symbol, None where it is not known."""
    return dict(database.execute_sql(LIST_CURRENCIES).fetchall())


def update_currencies(database: Database, currencies: Mapping[str, str]) -> int:
    """Set the currency of symbols that have ticks; return how many changed."""
    return count_changed(database, UPDATE_CURRENCIES, (list(currencies), list(currencies.values())))


def list_moved_weeks(database: Database) -> dict[str, int]:
    """Return by how many weeks the history of every symbol was moved."""
    return dict(database.execute_sql(LIST_MOVED_WEEKS).fetchall())


def update_moved_weeks(database: Database, weeks: Mapping[str, int]) -> int:
    """Set by how many weeks the history of symbols was moved; return how many changed."""
    return count_changed(database, UPDATE_MOVED_WEEKS, (list(weeks), list(weeks.values())))


def find_common_month(ticks: Sequence[Tick]) -> datetime | None:
    """Return the month that most of the ticks are in."""
    times = [tick.timestamp for tick in ticks]
    if not times:
        return None
    first = month_of(min(times))
    if first == month_of(max(times)):
        return first
    return Counter(map(month_of, times)).most_common(1)[0][0]


class _Search:
    """Finds latest ticks month by month; knows what was found and where the rest is."""

    def __init__(self, database: Database, beyond: datetime) -> None:
        self._database = database
        self._beyond = beyond
        self._found: list[Tick] = []
        # symbol -> month of its latest tick; None when it may be in any
        self._left: dict[str, datetime | None] = {}

    def look(self, statement: str, month: datetime, **symbols: Any) -> None:
        """Look into one month."""
        parameters = {"month": month, "end": min(month_after(month), self._beyond), **symbols}
        rows: list[Row] = self._database.execute_sql(statement, parameters).fetchall()
        for row in rows:
            latest, symbol, time = row[:3]
            if time is not None:
                self._found.append(build_tick(row[1:]))
                self._left.pop(symbol, None)
            else:
                # it should have been there, so it was deleted, or is later than what counts
                is_elsewhere = latest is not None and month != latest < self._beyond
                self._left[symbol] = latest if is_elsewhere else None

    def finish(self) -> tuple[Tick, ...]:
        """Find what is left; return everything."""
        for _ in range(MONTHS_TRIED - 1):
            months = Counter(month for month in self._left.values() if month is not None)
            for month, _count in months.most_common(1):
                symbols = [symbol for symbol, latest in self._left.items() if latest == month]
                self.look(LATEST_IN_MONTH, month, symbols=encode_shared(symbols))
        if self._left:
            parameters = {"symbols": encode_shared(list(self._left)), "beyond": self._beyond}
            self._found += fetch_all(self._database, build_tick, LATEST, parameters)
        return tuple(sorted(self._found, key=attrgetter("symbol")))


def month_of(time: datetime) -> datetime:
    """Return the begin of a time's month."""
    return time.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def month_after(time: datetime) -> datetime:
    """Return the begin of the next month; after the last there is only the end of time."""
    if (time.year, time.month) == (MAXYEAR, 12):
        return _END_OF_TIME
    return (month_of(time) + timedelta(days=31)).replace(day=1)


def list_candles(
    database: Database, symbol: str, start: datetime, end: datetime, bucket: timedelta
) -> tuple[Candle, ...]:
    """Return the candles of [start, end), oldest first; weeks begin on Monday."""
    parameters = {"symbol": symbol, "start": start, "end": end, "bucket": bucket}
    return fetch_all(database, build_candle, CANDLES, parameters)


class Range(NamedTuple):
    """The ticks of a symbol in [start, end); `start` None is the first."""

    symbol: str
    start: datetime | None
    end: datetime


def list_range(database: Database, ticks: Range, after: datetime | None, limit: int) -> tuple[Tick, ...]:
    """Return the ticks of a range that follow a time, oldest first."""
    parameters = {
        "symbol": ticks.symbol,
        "start": ticks.start or "-infinity",
        "end": ticks.end,
        "after": after,
        "limit": limit,
    }
    return fetch_all(database, build_tick, RANGE, parameters)


def insert_ticks(database: Database, ticks: Sequence[Tick]) -> None:
    """Insert ticks, which replace those there, in order; each (symbol, timestamp) may come once."""
    if len(ticks) == 1:
        database.execute_sql(INSERT_ONE, _LIST_VALUES(ticks[0]))
        return
    columns = {name: list(map(attrgetter(name), ticks)) for name in TICKS.columns}
    # a column without any value is not sent: most ticks have half of theirs
    nothing = [None] * len(ticks)
    sent = {name: values for name, values in columns.items() if values != nothing}
    statement = INSERT.format(
        values=", ".join(name if name in sent else "NULL::numeric" for name in columns),
        arrays=", ".join(f"%s::{_TYPES.get(name, 'numeric')}[]" for name in sent),
        names=", ".join(sent),
    )
    database.execute_sql(statement, [_encode(name, values) for name, values in sent.items()])


def _encode(name: str, values: Sequence[Any]) -> str:
    return encode_shared(values) if name in {"symbol", "timestamp"} else encode_numbers(values)


DELETE = "DELETE FROM ticks WHERE symbol = %s"
_WITHOUT_TICKS = (
    "symbols WHERE symbol = %(symbol)s AND NOT EXISTS (SELECT FROM ticks WHERE symbol = %(symbol)s)"
)
FIND_WITHOUT_TICKS = f"SELECT EXISTS (SELECT FROM {_WITHOUT_TICKS})"
FORGET_SYMBOL = f"DELETE FROM {_WITHOUT_TICKS}"


def delete_ticks(database: Database, symbol: str) -> int:
    """Delete every tick of a symbol; return how many there were."""
    return count_changed(database, DELETE, (symbol,))


def forget_symbol(database: Database, symbol: str) -> None:
    """Remove a symbol that has no ticks; then writers of ticks are kept out until the transaction ends.

    A writer that found its symbol listed does not list it again, so it must have committed before.
    """
    parameters = {"symbol": symbol}
    if database.execute_sql(FIND_WITHOUT_TICKS, parameters).fetchone()[0]:
        database.execute_sql("LOCK TABLE ticks IN SHARE ROW EXCLUSIVE MODE")
        database.execute_sql(FORGET_SYMBOL, parameters)
