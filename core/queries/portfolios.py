"""Statements on `portfolios`."""

from collections.abc import Sequence
from datetime import date
from uuid import UUID

import msgspec

from core.database import Database
from core.queries.rows import Row, fetch_all, find_one
from core.records import PlayerSession, Portfolio, PortfolioUpdate

COLUMNS = (
    "id, user_id, session_date, starting_cash, current_cash, total_value,"
    " day_change, day_change_percent, created_at, updated_at"
)

FIND = f"SELECT {COLUMNS} FROM portfolios WHERE user_id = %s AND session_date = %s"
CREATE = """
    INSERT INTO portfolios (id, user_id, session_date) VALUES (%s, %s, %s)
    ON CONFLICT (user_id, session_date) DO NOTHING"""
HISTORY = f"""
    SELECT {COLUMNS} FROM portfolios
    WHERE user_id = %s AND session_date < %s
    ORDER BY session_date DESC LIMIT %s"""
IN_SESSION = f"""
    SELECT {COLUMNS} FROM portfolios
    WHERE session_date = %(day)s AND (%(after)s::uuid IS NULL OR user_id > %(after)s::uuid)
    ORDER BY user_id LIMIT %(limit)s"""
# A batch is a small part of the table, but the planner would rather hash all of it.
PROBE_INDEX = "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off;"
# The change is in percent of the value before it; a value that was nothing has none.
_SET = """UPDATE portfolios p SET
            total_value = b.total_value,
            day_change = b.day_change,
            day_change_percent = CASE WHEN b.total_value > b.day_change
                THEN round(b.day_change / (b.total_value - b.day_change) * 100, 2) ELSE 0 END,
            current_cash = COALESCE(b.current_cash, p.current_cash),
            updated_at = now()"""
_BATCH = """unnest(%s::uuid[], %s::date[], %s::numeric[], %s::numeric[], %s::numeric[])
            AS b (user_id, session_date, total_value, day_change, current_cash)"""
_MATCH = "WHERE p.user_id = b.user_id AND p.session_date = b.session_date"
# Without arrays and a join it is planned in a fraction of the time.
UPDATE = f"""UPDATE portfolios SET
            total_value = %(total_value)s,
            day_change = %(day_change)s,
            day_change_percent = CASE WHEN %(total_value)s > %(day_change)s
                THEN round(%(day_change)s / (%(total_value)s - %(day_change)s) * 100, 2) ELSE 0 END,
            current_cash = COALESCE(%(current_cash)s, current_cash),
            updated_at = now()
        WHERE user_id = %(user_id)s AND session_date = %(session_date)s RETURNING {COLUMNS}"""
# What was not met is few, and what was is many: only the former is worth sending back.
UPDATE_MANY = f"""
    WITH batch AS MATERIALIZED (
        SELECT * FROM {_BATCH} ORDER BY user_id, session_date
    ), updated AS (
        {_SET} FROM batch b {_MATCH} RETURNING p.user_id, p.session_date
    )
    SELECT user_id, session_date FROM batch EXCEPT ALL SELECT user_id, session_date FROM updated"""
# Each step jumps to the next older session in the index instead of reading every row.
SESSION_DATES = """
    WITH RECURSIVE sessions AS (
        (SELECT max(session_date) AS day FROM portfolios
         WHERE session_date < %(before)s)
        UNION ALL
        SELECT (SELECT max(session_date) FROM portfolios WHERE session_date < day)
        FROM sessions WHERE day IS NOT NULL
    ), boards AS (
        (SELECT max(session_date) AS day FROM leaderboard_entries
         WHERE session_date < %(before)s)
        UNION ALL
        SELECT (SELECT max(session_date) FROM leaderboard_entries WHERE session_date < day)
        FROM boards WHERE day IS NOT NULL
    )
    SELECT day FROM (
        (SELECT day FROM sessions WHERE day IS NOT NULL LIMIT %(limit)s)
        UNION
        (SELECT day FROM boards WHERE day IS NOT NULL LIMIT %(limit)s)
    ) AS days ORDER BY day DESC LIMIT %(limit)s"""


def build_portfolio(row: Row) -> Portfolio:
    """Build a portfolio from a row of COLUMNS."""
    return Portfolio(*row)


def find_portfolio(database: Database, user_id: UUID, session_date: date) -> Portfolio | None:
    """Return the portfolio of a user in a session."""
    return find_one(database, build_portfolio, FIND, (user_id, session_date))


def create_portfolio(database: Database, portfolio_id: UUID, user_id: UUID, session_date: date) -> None:
    """Insert a portfolio with the starting cash; does nothing when there is one already."""
    database.execute_sql(CREATE, (portfolio_id, user_id, session_date))


def list_history(database: Database, user_id: UUID, limit: int, before: date) -> tuple[Portfolio, ...]:
    """Return a user's portfolios before a session, newest first."""
    return fetch_all(database, build_portfolio, HISTORY, (user_id, before, limit))


def list_in_session(
    database: Database, session_date: date, after: UUID | None, limit: int
) -> tuple[Portfolio, ...]:
    """Return the portfolios of a session that follow a user's, by user."""
    parameters = {"day": session_date, "after": after, "limit": limit}
    return fetch_all(database, build_portfolio, IN_SESSION, parameters)


def update_portfolio(database: Database, update: PortfolioUpdate) -> Portfolio | None:
    """Write the values of one portfolio and return it, or None when there is none."""
    return find_one(database, build_portfolio, UPDATE, msgspec.structs.asdict(update))


def update_portfolios(database: Database, updates: Sequence[PortfolioUpdate]) -> tuple[PlayerSession, ...]:
    """Write values of portfolios, one statement for all; return the keys that met no row.

    The updates name each portfolio once. Rows are locked in the order of their key, so
    that two batches over the same portfolios do not deadlock.
    """
    return fetch_all(
        database, lambda row: PlayerSession(*row), PROBE_INDEX + UPDATE_MANY, _columns_of(updates)
    )


def _columns_of(updates: Sequence[PortfolioUpdate]) -> tuple[str, ...]:
    """Spell each column as one array, which takes psycopg2 a multiple of the time item by item."""
    columns = (
        # a UUID's own text takes twice as long
        [u.user_id if isinstance(u.user_id, str) else u.user_id.hex for u in updates],
        [str(update.session_date) for update in updates],
        [str(update.total_value) for update in updates],
        [str(update.day_change) for update in updates],
        ["NULL" if update.current_cash is None else str(update.current_cash) for update in updates],
    )
    # no id, date or number needs quotes
    return tuple("{" + ",".join(column) + "}" for column in columns)


def list_session_dates(database: Database, limit: int, before: date) -> tuple[date, ...]:
    """Return the days before one that have portfolios or leaderboard entries, newest first."""
    parameters = {"limit": limit, "before": before}
    return fetch_all(database, lambda row: row[0], SESSION_DATES, parameters)


DAYS_OF_USER = "SELECT session_date FROM portfolios WHERE user_id = %s"


def list_days_of_user(database: Database, user_id: UUID) -> tuple[date, ...]:
    """Return every session in which the user has a portfolio."""
    return fetch_all(database, lambda row: row[0], DAYS_OF_USER, (user_id,))
