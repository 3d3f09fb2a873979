"""Statements on `ticks`."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from core.database import Database
from core.queries.bulk import TICKS, load_rows
from core.queries.rows import Row, count_changed, fetch_all
from core.records import Candle, Tick

COLUMNS = (
    "symbol, timestamp, price, volume, bid, ask, change_24h, change_percent_24h, volatility, open, high, low"
)
# `beyond` is any time that partitions have been created up to. Later ones, and the default
# partition, are asked first and are all but empty. Without those the rest is without a gap,
# so the planner visits it newest first, and the executor stops at the first hit; any other
# value of `beyond` gives the same answer more slowly.
_LATEST = f"""
    SELECT t.* FROM symbols s
    CROSS JOIN LATERAL (
        (SELECT {COLUMNS} FROM ticks WHERE symbol = s.symbol AND timestamp >= %(beyond)s
         ORDER BY timestamp DESC LIMIT 1)
        UNION ALL
        (SELECT {COLUMNS} FROM ticks WHERE symbol = s.symbol AND timestamp < %(beyond)s
         ORDER BY timestamp DESC LIMIT 1)
        LIMIT 1
    ) AS t ORDER BY t.symbol"""
# One probe of the index per symbol, however long the history is.
LATEST = f"WITH symbols AS (SELECT unnest(%(symbols)s::text[]) AS symbol) {_LATEST}"
LATEST_ALL = _LATEST
# A tick that stands for a bar brings its own open, high and low.
CANDLES = """
    SELECT symbol, bucket,
           (array_agg(COALESCE(open, price) ORDER BY timestamp))[1],
           max(COALESCE(high, price)),
           min(COALESCE(low, price)),
           (array_agg(price ORDER BY timestamp DESC))[1],
           sum(volume)::bigint,
           count(*)
    FROM (
        SELECT *, date_bin(%(bucket)s, timestamp, '1999-12-27T00:00:00Z') AS bucket FROM ticks
        WHERE symbol = %(symbol)s AND timestamp >= %(start)s AND timestamp < %(end)s
    ) AS ticks
    GROUP BY symbol, bucket ORDER BY bucket"""
# From here on COPY is faster, although it needs a staging table.
COPY_ROWS = 500
_REPLACE = """
    ON CONFLICT (symbol, timestamp) DO UPDATE SET
        price = EXCLUDED.price, volume = EXCLUDED.volume, bid = EXCLUDED.bid, ask = EXCLUDED.ask,
        change_24h = EXCLUDED.change_24h, change_percent_24h = EXCLUDED.change_percent_24h,
        volatility = EXCLUDED.volatility, open = EXCLUDED.open, high = EXCLUDED.high,
        low = EXCLUDED.low"""
# Live ticks are written once each, so a batch with one of a known time replaces it.
INSERT = f"""
    INSERT INTO ticks ({COLUMNS})
    SELECT * FROM unnest(%s::text[], %s::timestamptz[], %s::numeric[], %s::bigint[], %s::numeric[],
        %s::numeric[], %s::numeric[], %s::numeric[], %s::numeric[], %s::numeric[], %s::numeric[],
        %s::numeric[])
    {_REPLACE}"""
# A single tick is planned in half of the time that twelve arrays take.
INSERT_ONE = f"INSERT INTO ticks ({COLUMNS}) VALUES ({', '.join(['%s'] * 12)}) {_REPLACE}"


def build_tick(row: Row) -> Tick:
    """Build a tick from a row of COLUMNS."""
    return Tick(*row)


def build_candle(row: Row) -> Candle:
    """Build a candle from a row of CANDLES."""
    return Candle(*row)


def list_latest(database: Database, symbols: Sequence[str], now: datetime) -> tuple[Tick, ...]:
    """Return the latest tick of each of the symbols that has one, future ones included."""
    parameters = {"symbols": list(symbols), "beyond": month_after(now)}
    return fetch_all(database, build_tick, LATEST, parameters)


def list_latest_of_all(database: Database, now: datetime) -> tuple[Tick, ...]:
    """Return the latest tick of every symbol, future ones included."""
    return fetch_all(database, build_tick, LATEST_ALL, {"beyond": month_after(now)})


def month_after(time: datetime) -> datetime:
    """Return the begin of the next month."""
    month = time.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (month + timedelta(days=31)).replace(day=1)


def list_candles(
    database: Database, symbol: str, start: datetime, end: datetime, bucket: timedelta
) -> tuple[Candle, ...]:
    """Return the candles of [start, end), oldest first; weeks begin on Monday."""
    parameters = {"symbol": symbol, "start": start, "end": end, "bucket": bucket}
    return fetch_all(database, build_candle, CANDLES, parameters)


def insert_ticks(database: Database, ticks: Sequence[Tick]) -> None:
    """Insert ticks, which replace those there; each (symbol, timestamp) may come once."""
    if len(ticks) >= COPY_ROWS:
        load_rows(database, TICKS, ticks)
        return
    columns = tuple([getattr(tick, name) for tick in ticks] for name in TICKS.columns)
    if len(ticks) == 1:
        database.execute_sql(INSERT_ONE, tuple(value for (value,) in columns))
    else:
        database.execute_sql(INSERT, columns)


DELETE = "DELETE FROM ticks WHERE symbol = %s"


def delete_ticks(database: Database, symbol: str) -> int:
    """Delete every tick of a symbol; return how many there were."""
    return count_changed(database, DELETE, (symbol,))
