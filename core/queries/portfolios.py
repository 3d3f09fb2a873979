"""Statements on `portfolios`, `positions` and `trades`."""

from collections.abc import Sequence
from datetime import date
from typing import Any
from uuid import UUID

import msgspec

from core.database import Database
from core.queries.rows import (
    Row,
    encode_ids,
    encode_numbers,
    encode_repeated,
    fetch_all,
    find_one,
    get_first,
    list_columns,
    make_builder,
)
from core.records import (
    PlayerGains,
    PlayerSession,
    Portfolio,
    PortfolioUpdate,
    Position,
    SymbolGain,
    Trade,
)

COLUMNS = list_columns(Portfolio)

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
# A batch has a small part of the rows of the table. Without these settings, the planner would hash the whole
# table.
PROBE_INDEX = "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off;"


def _set_values(new: str, *, cash: str) -> str:
    """Return the SET clause of an UPDATE; `new.format(column)` is SQL for the new value of a column.

    `cash` is SQL for the stored cash, which is kept if the new cash is NULL. The change in percent is
    relative to the value before the change; it is 0 if that value was 0.
    """
    total, change = new.format("total_value"), new.format("day_change")
    return f"""
            total_value = {total},
            day_change = {change},
            day_change_percent = CASE WHEN {total} > {change}
                THEN round({change} / ({total} - {change}) * 100, 2) ELSE 0 END,
            current_cash = COALESCE({new.format("current_cash")}, {cash}),
            updated_at = now()"""


# Updates one row. Without arrays and a join, planning takes a fraction of the time that UPDATE_MANY needs.
UPDATE = f"""
    UPDATE portfolios SET {_set_values("%({})s", cash="current_cash")}
    WHERE user_id = %(user_id)s AND session_date = %(session_date)s RETURNING {COLUMNS}"""
# Rows are locked in the order of the batch. The statement returns the index in the batch (from 1) of each
# update whose portfolio does not exist. It does not return the updated rows, because there are many of them.
UPDATE_MANY = f"""
    WITH updated AS (
        UPDATE portfolios p SET {_set_values("b.{}", cash="p.current_cash")}
        FROM unnest(%(users)s::uuid[], %(days)s::date[], %(totals)s::numeric[], %(changes)s::numeric[],
                    %(cash)s::numeric[]) WITH ORDINALITY
            AS b (user_id, session_date, total_value, day_change, current_cash, place)
        WHERE p.user_id = b.user_id AND p.session_date = b.session_date RETURNING b.place
    )
    SELECT place FROM generate_series(1, %(count)s) AS place
    WHERE (SELECT count(*) FROM updated) < %(count)s AND place NOT IN (SELECT place FROM updated)
    ORDER BY place"""
SESSIONS_OF_USER = "SELECT session_date FROM portfolios WHERE user_id = %s"
POSITIONS = f"""
    SELECT {list_columns(Position)} FROM positions
    WHERE user_id = ANY(%s::uuid[]) AND session_date = %s ORDER BY user_id, symbol"""
TRADES = f"""
    SELECT {list_columns(Trade)} FROM trades
    WHERE user_id = ANY(%s::uuid[]) AND session_date = %s ORDER BY user_id, executed_at, id"""
# Returns one row for each symbol. The first two columns, the number of sessions and the change, are the same
# in every row. A player without trades and positions has one row with only these two columns. Money is
# rounded for each trade and each position, as in the value of a portfolio. The conditions on `start` and
# `end` exclude the partitions of other months. Trades are looked up for each session, in the order of their
# index.
GAINS = """
    WITH sessions AS MATERIALIZED (
        SELECT session_date, day_change FROM portfolios
        WHERE user_id = %(user)s AND session_date BETWEEN %(start)s AND %(end)s
    ), played AS (
        SELECT count(*) AS sessions, COALESCE(sum(day_change), 0) AS change FROM sessions
    ), traded AS (
        SELECT session_date, symbol, count(*) AS trades,
               sum(CASE side WHEN 'BUY' THEN quantity ELSE -quantity END) AS shares,
               sum(CASE side WHEN 'BUY' THEN round(quantity * price, 2) ELSE 0 END) AS bought,
               sum(CASE side WHEN 'SELL' THEN round(quantity * price, 2) ELSE 0 END) AS sold
        FROM trades
        WHERE session_date = ANY(ARRAY(SELECT session_date FROM sessions)) AND user_id = %(user)s
        GROUP BY session_date, symbol
    ), held AS (
        SELECT session_date, symbol, quantity, round(quantity * average_price, 2) AS cost,
               round(quantity * last.price, 2) AS worth
        FROM positions p LEFT JOIN LATERAL (
            SELECT price FROM ticks
            WHERE symbol = p.symbol AND timestamp >= p.session_date::timestamp AT TIME ZONE 'UTC'
              AND timestamp < (p.session_date + 1)::timestamp AT TIME ZONE 'UTC'
              AND timestamp >= %(start)s::date::timestamp AT TIME ZONE 'UTC'
              AND timestamp < (%(end)s::date + 1)::timestamp AT TIME ZONE 'UTC'
            ORDER BY timestamp DESC LIMIT 1
        ) AS last ON true
        WHERE p.user_id = %(user)s AND p.session_date BETWEEN %(start)s AND %(end)s
    ), by_session AS (
        SELECT symbol, COALESCE(trades, 0) AS trades, COALESCE(bought, 0) AS bought,
               COALESCE(sold, 0) AS sold,
               CASE WHEN shares = COALESCE(quantity, 0) THEN sold - bought + COALESCE(cost, 0) END
                   AS realised,
               CASE WHEN quantity IS NULL THEN 0 ELSE worth - cost END AS unrealised
        FROM traded FULL JOIN held USING (session_date, symbol)
    ), by_symbol AS (
        SELECT symbol, count(*) AS sessions, sum(trades)::bigint AS trades, sum(bought) AS bought,
               sum(sold) AS sold, COALESCE(sum(realised), 0) AS realised,
               COALESCE(sum(unrealised), 0) AS unrealised,
               count(*) FILTER (WHERE realised IS NULL OR unrealised IS NULL) AS incomplete
        FROM by_session GROUP BY symbol
    )
    SELECT played.sessions, played.change, by_symbol.* FROM played LEFT JOIN by_symbol ON true
    ORDER BY symbol COLLATE "C" """

build_portfolio = make_builder(Portfolio)
build_position = make_builder(Position)
build_trade = make_builder(Trade)
build_gain = make_builder(SymbolGain)


def find_portfolio(database: Database, user_id: UUID, session_date: date) -> Portfolio | None:
    """Return the portfolio of a user in a session, or None."""
    return find_one(database, build_portfolio, FIND, (user_id, session_date))


def create_portfolio(database: Database, portfolio_id: UUID, user_id: UUID, session_date: date) -> None:
    """Insert a portfolio with the starting cash, if the user has none in the session."""
    database.execute_sql(CREATE, (portfolio_id, user_id, session_date))


def list_history(database: Database, user_id: UUID, limit: int, before: date) -> tuple[Portfolio, ...]:
    """Return up to `limit` of a user's portfolios of sessions before `before`, newest first."""
    return fetch_all(database, build_portfolio, HISTORY, (user_id, before, limit))


def list_in_session(
    database: Database, session_date: date, after: UUID | None, limit: int
) -> tuple[Portfolio, ...]:
    """Return up to `limit` portfolios of a session, by user id, after `after` (None: from the start)."""
    parameters = {"day": session_date, "after": after, "limit": limit}
    return fetch_all(database, build_portfolio, IN_SESSION, parameters)


def update_portfolio(database: Database, update: PortfolioUpdate) -> Portfolio | None:
    """Write the values of one portfolio, and return it. Returns None if the portfolio does not exist."""
    return find_one(database, build_portfolio, UPDATE, msgspec.structs.asdict(update))


def update_portfolios(database: Database, updates: Sequence[PortfolioUpdate]) -> tuple[PlayerSession, ...]:
    """Write the values of many portfolios in one statement; return the keys of portfolios that do not exist.

    Each portfolio may occur only once in `updates`. Rows are locked in the order of `updates`. All callers
    use the same order, so two batches with the same portfolios do not deadlock.
    """

    def find_key(row: Row) -> PlayerSession:
        update = updates[row[0] - 1]
        return PlayerSession(update.user_id, update.session_date)

    return fetch_all(database, find_key, PROBE_INDEX + UPDATE_MANY, _encode_columns(updates))


def _encode_columns(updates: Sequence[PortfolioUpdate]) -> dict[str, Any]:
    return {
        "users": encode_ids([update.user_id for update in updates]),  # type: ignore[misc]  # checked
        "days": encode_repeated([update.session_date for update in updates]),
        "totals": encode_numbers([update.total_value for update in updates]),
        "changes": encode_numbers([update.day_change for update in updates]),
        "cash": encode_numbers([update.current_cash for update in updates]),
        "count": len(updates),
    }


def list_sessions_of_user(database: Database, user_id: UUID) -> tuple[date, ...]:
    """Return every session in which a user has a portfolio, in any order."""
    return fetch_all(database, get_first, SESSIONS_OF_USER, (user_id,))


def list_positions(database: Database, user_ids: Sequence[UUID], day: date) -> tuple[Position, ...]:
    """Return the positions of users in a session, ordered by user id and symbol."""
    return fetch_all(database, build_position, POSITIONS, (list(user_ids), day))


def list_trades(database: Database, user_ids: Sequence[UUID], day: date) -> tuple[Trade, ...]:
    """Return the trades of users in a session, ordered by user id and time of execution."""
    return fetch_all(database, build_trade, TRADES, (list(user_ids), day))


def find_gains(database: Database, user_id: UUID, start: date, end: date) -> PlayerGains:
    """Return the change of a player's portfolio value and the gain of each symbol.

    Both are sums over the sessions from `start` to `end` (included).
    """
    rows: list[Row] = database.execute_sql(GAINS, {"user": user_id, "start": start, "end": end}).fetchall()
    sessions, change = rows[0][:2]
    return PlayerGains(sessions, change, tuple(build_gain(row[2:]) for row in rows if row[2] is not None))
