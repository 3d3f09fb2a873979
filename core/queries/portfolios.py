"""Statements on `portfolios`."""

from collections.abc import Sequence
from datetime import date
from uuid import UUID

from core.database import Database
from core.queries.rows import Row, fetch_all, find_one
from core.records import PlayerSession, Portfolio, PortfolioUpdate

COLUMNS = (
    "id, user_id, session_date, starting_cash, current_cash, total_value,"
    " day_change, day_change_percent, created_at, updated_at"
)
_RETURNED = ", ".join(f"p.{column.strip()}" for column in COLUMNS.split(","))

FIND = f"SELECT {COLUMNS} FROM portfolios WHERE user_id = %s AND session_date = %s"
CREATE = f"""
    INSERT INTO portfolios (id, user_id, session_date) VALUES (%s, %s, %s)
    ON CONFLICT (user_id, session_date) DO NOTHING RETURNING {COLUMNS}"""
HISTORY = f"""
    SELECT {COLUMNS} FROM portfolios
    WHERE user_id = %s AND session_date < COALESCE(%s, 'infinity'::date)
    ORDER BY session_date DESC LIMIT %s"""
# A batch is a small part of the table, but the planner would rather hash all of it.
PROBE_INDEX = "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off;"
# The change is in percent of the value before it; a value that was nothing has none.
UPDATE = f"""
    UPDATE portfolios p SET
        total_value = b.total_value,
        day_change = b.day_change,
        day_change_percent = CASE WHEN b.total_value > b.day_change
            THEN round(b.day_change / (b.total_value - b.day_change) * 100, 2) ELSE 0 END,
        current_cash = COALESCE(b.current_cash, p.current_cash),
        updated_at = now()
    FROM (
        SELECT * FROM unnest(%s::uuid[], %s::date[], %s::numeric[], %s::numeric[], %s::numeric[])
            AS batch (user_id, session_date, total_value, day_change, current_cash)
        ORDER BY user_id, session_date
    ) AS b
    WHERE p.user_id = b.user_id AND p.session_date = b.session_date
    RETURNING {_RETURNED}"""
# Each step jumps to the next older session in the index instead of reading every row.
SESSION_DATES = """
    WITH RECURSIVE sessions AS (
        (SELECT max(session_date) AS day FROM portfolios
         WHERE session_date < COALESCE(%(before)s, 'infinity'::date))
        UNION ALL
        SELECT (SELECT max(session_date) FROM portfolios WHERE session_date < day)
        FROM sessions WHERE day IS NOT NULL
    ), boards AS (
        (SELECT max(session_date) AS day FROM leaderboard_entries
         WHERE session_date < COALESCE(%(before)s, 'infinity'::date))
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


def create_portfolio(
    database: Database, portfolio_id: UUID, user_id: UUID, session_date: date
) -> Portfolio | None:
    """Open a portfolio with the starting cash, or return None when there is one already."""
    return find_one(database, build_portfolio, CREATE, (portfolio_id, user_id, session_date))


def list_history(database: Database, user_id: UUID, limit: int, before: date | None) -> tuple[Portfolio, ...]:
    """Return a user's portfolios before a session, newest first."""
    return fetch_all(database, build_portfolio, HISTORY, (user_id, before, limit))


def update_portfolios(database: Database, updates: Sequence[PortfolioUpdate]) -> tuple[Portfolio, ...]:
    """Write values of portfolios, one statement for all; return the rows that exist.

    The updates name each portfolio once. Rows are locked in the order of their key, so
    that two batches over the same portfolios do not deadlock.
    """
    ordered = sorted(updates, key=lambda update: (str(update.user_id), update.session_date))
    columns: tuple[list[object], ...] = (
        [update.user_id for update in ordered],
        [update.session_date for update in ordered],
        [update.total_value for update in ordered],
        [update.day_change for update in ordered],
        [update.current_cash for update in ordered],
    )
    return fetch_all(database, build_portfolio, PROBE_INDEX + UPDATE, columns)


def find_missing(
    updates: Sequence[PortfolioUpdate], updated: Sequence[Portfolio]
) -> tuple[PlayerSession, ...]:
    """Return the keys of updates that met no row."""
    there = {(portfolio.user_id, portfolio.session_date) for portfolio in updated}
    keys = ((UUID(str(u.user_id)), u.session_date) for u in updates)
    return tuple(PlayerSession(*key) for key in keys if key not in there)


def list_session_dates(database: Database, limit: int, before: date | None) -> tuple[date, ...]:
    """Return the days that have portfolios or leaderboard entries, newest first."""
    parameters = {"limit": limit, "before": before}
    return fetch_all(database, lambda row: row[0], SESSION_DATES, parameters)


DAYS_OF_USER = "SELECT session_date FROM portfolios WHERE user_id = %s"


def list_days_of_user(database: Database, user_id: UUID) -> tuple[date, ...]:
    """Return every session in which the user has a portfolio."""
    return fetch_all(database, lambda row: row[0], DAYS_OF_USER, (user_id,))
