"""The SQL statements of the raw contenders, written by hand.

Owns the fastest known statement for each call. Each call is one statement and one round trip, and a batch is
sent as arrays. The statements run on both drivers.
"""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from uuid import UUID

from core.records import PortfolioUpdate, Tick
from tests.bench.contenders.connections import Connections
from tests.bench.contenders.rows import EntryRow, PortfolioRow, QuestRow, TickRow, UserRow
from tests.bench.data import CATEGORY, DAY, SEARCH_LIMIT

LEADERBOARD = """
    SELECT e.id, e.user_id, u.username, e.session_date, e.category, e.score,
           rank() OVER (ORDER BY e.score DESC) AS rank, e.metadata, e.created_at
    FROM (SELECT * FROM leaderboard_entries WHERE session_date = %s AND category = %s
          ORDER BY score DESC, created_at, id LIMIT %s) AS e
    JOIN users u ON u.id = e.user_id ORDER BY e.score DESC, e.created_at, e.id"""
_RANKED = """
    SELECT w.id, w.user_id, u.username, w.session_date, w.category, w.score,
           1 + (SELECT count(*) FROM leaderboard_entries e
                WHERE e.session_date = w.session_date AND e.category = w.category
                  AND e.score > w.score AND e.user_id <> w.user_id),
           w.metadata, w.created_at
    FROM {rows} AS w JOIN users u ON u.id = w.user_id"""
RANK = _RANKED.format(rows="leaderboard_entries") + (
    " WHERE w.user_id = %s AND w.session_date = %s AND w.category = %s"
)
UPSERT_SCORE = f"""
    WITH written AS (
        INSERT INTO leaderboard_entries (user_id, session_date, category, score) VALUES (%s, %s, %s, %s)
        ON CONFLICT (user_id, session_date, category) DO UPDATE SET score = EXCLUDED.score
        RETURNING *
    ) {_RANKED.format(rows="written")}"""
_PORTFOLIO_COLUMNS = """id, user_id, session_date, starting_cash, current_cash, total_value, day_change,
           day_change_percent, created_at, updated_at"""
PORTFOLIO = f"SELECT {_PORTFOLIO_COLUMNS} FROM portfolios WHERE user_id = %s AND session_date = %s"
LATEST = """
    SELECT t.symbol, t.timestamp, t.price, t.volume, t.bid, t.ask, t.change_24h, t.change_percent_24h,
           t.volatility, t.open, t.high, t.low
    FROM unnest(%s::text[]) AS s (symbol)
    CROSS JOIN LATERAL (SELECT * FROM ticks WHERE symbol = s.symbol ORDER BY timestamp DESC LIMIT 1) AS t"""
UPDATE_ONE = f"""
    UPDATE portfolios SET total_value = %s, updated_at = now() WHERE user_id = %s AND session_date = %s
    RETURNING {_PORTFOLIO_COLUMNS}"""
# Arrays are sent as text: drivers send one long text much faster than a list of values. The planner
# expects few rows from an array parameter and probes the index for each row.
UPDATE_MANY = """
    UPDATE portfolios p SET total_value = b.total_value, day_change = b.day_change,
        day_change_percent = round(b.day_change / (b.total_value - b.day_change) * 100, 2),
        updated_at = now()
    FROM unnest(%s::text::uuid[], %s::text::date[], %s::text::numeric[], %s::text::numeric[])
        AS b (user_id, session_date, total_value, day_change)
    WHERE p.user_id = b.user_id AND p.session_date = b.session_date"""
_REPLACE = """
    ON CONFLICT (symbol, timestamp) DO UPDATE SET price = EXCLUDED.price, volume = EXCLUDED.volume,
        bid = EXCLUDED.bid, ask = EXCLUDED.ask"""
INSERT_TICK = f"""
    INSERT INTO ticks (symbol, timestamp, price, volume, bid, ask) VALUES (%s, %s, %s, %s, %s, %s)
    {_REPLACE}"""
INSERT_TICKS = f"""
    INSERT INTO ticks (symbol, timestamp, price, volume, bid, ask)
    SELECT * FROM unnest(%s::text::text[], %s::text::timestamptz[], %s::text::numeric[],
                         %s::text::bigint[], %s::text::numeric[], %s::text::numeric[])
    {_REPLACE}"""
_USER_COLUMNS = "id, username, name, email, last_active, preferences, created_at, updated_at"
UPDATE_USER = f"UPDATE users SET name = %s, updated_at = now() WHERE id = %s RETURNING {_USER_COLUMNS}"
SEARCH = f"""
    SELECT {_USER_COLUMNS} FROM (
        (SELECT * FROM users WHERE lower(username) LIKE %s ORDER BY lower(username) USING ~<~, id LIMIT %s)
        UNION
        (SELECT * FROM users WHERE lower(name) LIKE %s ORDER BY lower(name) USING ~<~, id LIMIT %s)
    ) AS found ORDER BY lower(username), id LIMIT %s"""
UPDATE_QUEST = """
    UPDATE quests SET current_progress = %s,
        status = CASE WHEN %s >= target_value THEN 'COMPLETED' ELSE status END
    WHERE id = %s AND status = 'ACTIVE' AND (expires_at IS NULL OR expires_at > now())
    RETURNING id, user_id, type, title, description, target_value, current_progress, status,
        reward_type, reward_value, created_at, expires_at"""


def select_leaderboard(connections: Connections, limit: int) -> list[EntryRow]:
    """Return the first `limit` entries of the leaderboard."""
    return [EntryRow(*row) for row in connections.fetch(LEADERBOARD, (DAY, CATEGORY, limit))]


def select_rank(connections: Connections, user_id: UUID, category: str) -> EntryRow:
    """Return one entry with its rank."""
    [row] = connections.fetch(RANK, (user_id, DAY, category))
    return EntryRow(*row)


def upsert_score(connections: Connections, user_id: UUID, score: Decimal, category: str) -> EntryRow:
    """Set one score and return the entry with its rank."""
    [row] = connections.fetch(UPSERT_SCORE, (user_id, DAY, category, score))
    return EntryRow(*row)


def select_portfolio(connections: Connections, user_id: UUID) -> PortfolioRow:
    """Return the row of one portfolio."""
    [row] = connections.fetch(PORTFOLIO, (user_id, DAY))
    return PortfolioRow(*row)


def select_latest(connections: Connections, symbols: Sequence[str]) -> list[TickRow]:
    """Return the latest tick of each symbol."""
    return [TickRow(*row) for row in connections.fetch(LATEST, (list(symbols),))]


def update_portfolio(connections: Connections, user_id: UUID, total_value: Decimal) -> PortfolioRow:
    """Set one portfolio's value and return the portfolio."""
    [row] = connections.fetch(UPDATE_ONE, (total_value, user_id, DAY))
    return PortfolioRow(*row)


def update_portfolios(connections: Connections, updates: Sequence[PortfolioUpdate]) -> int:
    """Set the values of many portfolios; return the number of updated portfolios."""
    # every batch has the same order of rows, so that two batches cannot deadlock
    ordered = sorted(updates, key=lambda update: str(update.user_id))
    columns = (
        [str(update.user_id) for update in ordered],
        [str(update.session_date) for update in ordered],
        [str(update.total_value) for update in ordered],
        [str(update.day_change) for update in ordered],
    )
    return connections.change(UPDATE_MANY, list(map(_format_array, columns)))


def insert_tick(connections: Connections, tick: Tick) -> None:
    """Insert one tick."""
    values = (tick.symbol, tick.timestamp, tick.price, tick.volume, tick.bid, tick.ask)
    connections.change(INSERT_TICK, values)


def insert_ticks(connections: Connections, ticks: Sequence[Tick]) -> int:
    """Insert many ticks; return the number of ticks."""
    # many ticks have the same time, so each different time is formatted only once
    times = {time: f'"{time}"' for time in {tick.timestamp for tick in ticks}}
    columns = (
        [tick.symbol for tick in ticks],
        [times[tick.timestamp] for tick in ticks],
        [str(tick.price) for tick in ticks],
        [str(tick.volume) for tick in ticks],
        [str(tick.bid) for tick in ticks],
        [str(tick.ask) for tick in ticks],
    )
    return connections.change(INSERT_TICKS, list(map(_format_array, columns)))


def update_user(connections: Connections, user_id: UUID, name: str) -> UserRow:
    """Set one player's name and return the profile."""
    [row] = connections.fetch(UPDATE_USER, (name, user_id))
    return UserRow(*row)


def search_users(connections: Connections, prefix: str) -> list[UserRow]:
    """Return the first players whose username or name starts with a prefix."""
    pattern, limit = f"{prefix.lower()}%", SEARCH_LIMIT
    return [UserRow(*row) for row in connections.fetch(SEARCH, (pattern, limit, pattern, limit, limit))]


def update_quest(connections: Connections, quest_id: UUID, progress: Decimal) -> QuestRow:
    """Set the progress of an active quest and return the quest."""
    [row] = connections.fetch(UPDATE_QUEST, (progress, progress, quest_id))
    return QuestRow(*row)


def _format_array(values: Iterable[str]) -> str:
    return "{" + ",".join(values) + "}"
