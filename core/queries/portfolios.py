"""Statements on `portfolios`."""

from collections.abc import Sequence
from datetime import date
from typing import Any
from uuid import UUID

import msgspec

from core.database import Database
from core.queries.arrays import encode_ids, encode_numbers, encode_shared
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
# Without arrays and a join it is planned in a fraction of the time.
UPDATE = f"""UPDATE portfolios SET
            total_value = %(total_value)s,
            day_change = %(day_change)s,
            day_change_percent = CASE WHEN %(total_value)s > %(day_change)s
                THEN round(%(day_change)s / (%(total_value)s - %(day_change)s) * 100, 2) ELSE 0 END,
            current_cash = COALESCE(%(current_cash)s, current_cash),
            updated_at = now()
        WHERE user_id = %(user_id)s AND session_date = %(session_date)s RETURNING {COLUMNS}"""
# Rows are locked in the order of the batch. What was not met is few, and what was is many: only the places
# of the former are sent back, and looked for only when there are any.
UPDATE_MANY = """
    WITH updated AS (
        UPDATE portfolios p SET
            total_value = b.total_value,
            day_change = b.day_change,
            day_change_percent = CASE WHEN b.total_value > b.day_change
                THEN round(b.day_change / (b.total_value - b.day_change) * 100, 2) ELSE 0 END,
            current_cash = COALESCE(b.current_cash, p.current_cash),
            updated_at = now()
        FROM unnest(%(users)s::uuid[], %(days)s::date[], %(totals)s::numeric[], %(changes)s::numeric[],
                    %(cash)s::numeric[]) WITH ORDINALITY
            AS b (user_id, session_date, total_value, day_change, current_cash, place)
        WHERE p.user_id = b.user_id AND p.session_date = b.session_date RETURNING b.place
    )
    SELECT place FROM generate_series(1, %(count)s) AS place
    WHERE (SELECT count(*) FROM updated) < %(count)s AND place NOT IN (SELECT place FROM updated)
    ORDER BY place"""
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

    The updates name each portfolio once. Rows are locked in the order of the updates, which is
    the same everywhere, so that two batches over the same portfolios do not deadlock.
    """

    def find_key(row: Row) -> PlayerSession:
        update = updates[row[0] - 1]
        return PlayerSession(update.user_id, update.session_date)

    return fetch_all(database, find_key, PROBE_INDEX + UPDATE_MANY, _encode_columns(updates))


def _encode_columns(updates: Sequence[PortfolioUpdate]) -> dict[str, Any]:
    """Encode each column as one text, which psycopg2 sends in a fraction of the time of a list."""
    return {
        "users": encode_ids([update.user_id for update in updates]),  # type: ignore[misc]  # checked
        "days": encode_shared([update.session_date for update in updates]),
        "totals": encode_numbers([update.total_value for update in updates]),
        "changes": encode_numbers([update.day_change for update in updates]),
        "cash": encode_numbers([update.current_cash for update in updates]),
        "count": len(updates),
    }


def list_session_dates(database: Database, limit: int, before: date) -> tuple[date, ...]:
    """Return the days before one that have portfolios or leaderboard entries, newest first."""
    parameters = {"limit": limit, "before": before}
    return fetch_all(database, lambda row: row[0], SESSION_DATES, parameters)


DAYS_OF_USER = "SELECT session_date FROM portfolios WHERE user_id = %s"


def list_days_of_user(database: Database, user_id: UUID) -> tuple[date, ...]:
    """Return every session in which the user has a portfolio."""
    return fetch_all(database, lambda row: row[0], DAYS_OF_USER, (user_id,))
