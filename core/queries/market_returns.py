"""The statement that compares players with the market: what symbols gained day by day."""

from datetime import date

from core.database import Database
from core.queries.rows import fetch_all
from core.records import MarketReturn

# Two probes of the index for each symbol and day, whatever number of ticks a day has. The outer
# bounds leave out the partitions of other months before the first probe. Days are counted as dates:
# a day that is added to a time with a zone is as long as that of the session's zone.
_TICK = """
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
    CROSS JOIN LATERAL ({_TICK.format(price="COALESCE(open, price)", order="")}) AS first
    CROSS JOIN LATERAL ({_TICK.format(price="price", order="DESC")}) AS last
    GROUP BY 1 ORDER BY 1"""


def list_returns(database: Database, start: date, end: date) -> tuple[MarketReturn, ...]:
    """Return the mean gain of all symbols in each day that has prices, oldest first."""
    return fetch_all(database, lambda row: MarketReturn(*row), RETURNS, {"start": start, "end": end})
