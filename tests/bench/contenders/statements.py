"""The SQL that a careful person writes by hand.

Owns the statements of the raw contender: the best known form of each for PostgreSQL.
"""

from collections.abc import Sequence
from decimal import Decimal
from io import StringIO
from uuid import UUID

from psycopg2.extensions import cursor

from core.records import PortfolioUpdate, Tick
from tests.bench.contenders.rows import EntryRow, PortfolioRow, TickRow
from tests.bench.data import CATEGORY, DAY, LIMIT

BOARD = """
    SELECT e.id, e.user_id, u.username, e.session_date, e.category, e.score,
           rank() OVER (ORDER BY e.score DESC) AS rank, e.metadata, e.created_at
    FROM (SELECT * FROM leaderboard_entries WHERE session_date = %s AND category = %s
          ORDER BY score DESC, created_at, id LIMIT %s) AS e
    JOIN users u ON u.id = e.user_id ORDER BY e.score DESC, e.created_at, e.id"""
PORTFOLIO = """
    SELECT id, user_id, session_date, starting_cash, current_cash, total_value, day_change,
           day_change_percent, created_at, updated_at
    FROM portfolios WHERE user_id = %s AND session_date = %s"""
LATEST = """
    SELECT t.symbol, t.timestamp, t.price, t.volume, t.bid, t.ask, t.change_24h, t.change_percent_24h,
           t.volatility, t.open, t.high, t.low
    FROM unnest(%s::text[]) AS s (symbol)
    CROSS JOIN LATERAL (SELECT * FROM ticks WHERE symbol = s.symbol ORDER BY timestamp DESC LIMIT 1) AS t"""
UPDATE_ONE = """
    UPDATE portfolios SET total_value = %s, updated_at = now() WHERE user_id = %s AND session_date = %s"""
# the planner would hash the whole table for a small batch
PROBE = "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off;"
UPDATE_MANY = f"""
    {PROBE}
    UPDATE portfolios p SET total_value = b.total_value, day_change = b.day_change,
        day_change_percent = round(b.day_change / (b.total_value - b.day_change) * 100, 2),
        updated_at = now()
    FROM unnest(%s::uuid[], %s::date[], %s::numeric[], %s::numeric[])
        AS b (user_id, session_date, total_value, day_change)
    WHERE p.user_id = b.user_id AND p.session_date = b.session_date"""
REPLACE = """
    ON CONFLICT (symbol, timestamp) DO UPDATE SET price = EXCLUDED.price, volume = EXCLUDED.volume,
        bid = EXCLUDED.bid, ask = EXCLUDED.ask"""
INSERT_TICK = f"""
    INSERT INTO ticks (symbol, timestamp, price, volume, bid, ask) VALUES (%s, %s, %s, %s, %s, %s)
    {REPLACE}"""
STAGE = "CREATE TEMPORARY TABLE staged (LIKE ticks) ON COMMIT DROP"
COPY = "COPY staged (symbol, timestamp, price, volume, bid, ask) FROM STDIN"
MERGE = f"INSERT INTO ticks SELECT * FROM staged {REPLACE}"


def select_board(cursor: cursor) -> list[EntryRow]:
    """Return the rows of the board."""
    cursor.execute(BOARD, (DAY, CATEGORY, LIMIT))
    return [EntryRow(*row) for row in cursor.fetchall()]


def select_portfolio(cursor: cursor, user_id: UUID) -> PortfolioRow:
    """Return the row of one portfolio."""
    cursor.execute(PORTFOLIO, (str(user_id), DAY))
    [row] = cursor.fetchall()
    return PortfolioRow(*row)


def select_latest(cursor: cursor, symbols: Sequence[str]) -> list[TickRow]:
    """Return the latest tick of each symbol."""
    cursor.execute(LATEST, (list(symbols),))
    return [TickRow(*row) for row in cursor.fetchall()]


def update_portfolio(cursor: cursor, user_id: UUID, total_value: Decimal) -> None:
    """Set one portfolio's value."""
    cursor.execute(UPDATE_ONE, (total_value, str(user_id), DAY))


def update_portfolios(cursor: cursor, updates: Sequence[PortfolioUpdate]) -> int:
    """Set many portfolios' values in one statement; return how many there are."""
    ordered = sorted(updates, key=lambda update: str(update.user_id))
    columns = (
        [str(update.user_id) for update in ordered],
        [update.session_date for update in ordered],
        [update.total_value for update in ordered],
        [update.day_change for update in ordered],
    )
    cursor.execute(UPDATE_MANY, columns)
    return int(cursor.rowcount)


def insert_tick(cursor: cursor, tick: Tick) -> None:
    """Insert one tick."""
    values = (tick.symbol, tick.timestamp, tick.price, tick.volume, tick.bid, tick.ask)
    cursor.execute(INSERT_TICK, values)


def insert_ticks(cursor: cursor, ticks: Sequence[Tick]) -> int:
    """Insert many ticks by COPY."""
    cursor.execute(STAGE)
    lines = [f"{t.symbol}\t{t.timestamp}\t{t.price}\t{t.volume}\t{t.bid}\t{t.ask}\n" for t in ticks]
    cursor.copy_expert(COPY, StringIO("".join(lines)))
    cursor.execute(MERGE)
    return int(cursor.rowcount)
