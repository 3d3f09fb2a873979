"""Statements for distributed tables, where they differ from those for ordinary tables.

If the tables are distributed, `core.queries.rows` runs these statements instead of those for ordinary tables.

Citus runs a statement on one shard if the statement compares the distribution column with a value. It can
also join co-located shards on their nodes. Most statements here use one of these two ways, or call a database
function of `core.database.citus` that queries the shards one after the other.
"""

from core.queries import leaderboard_reports, leaderboards, sessions, ticks
from core.queries.rows import DISTRIBUTED


def _edit(statement: str, *changes: tuple[str, str]) -> None:
    """Register a copy of a statement for distributed tables, in which some of its SQL is replaced.

    `changes` are pairs of the SQL to replace and its replacement. Raises `ValueError` if the statement does
    not contain the SQL to replace.
    """
    edited = statement
    for part, replacement in changes:
        if part not in edited:
            raise ValueError(f"no {part!r} in {statement}")
        edited = edited.replace(part, replacement)
    DISTRIBUTED[statement] = edited


# -- ticks --------------------------------------------------------------------------------

# LATEST_IN_MONTH and LATEST join `symbols`, which lists every symbol that has ticks, with `ticks`. Both
# tables are filtered by the given symbols, so that Citus queries only the shards of these symbols.
_GIVEN = "= ANY(%(symbols)s::text[])"
DISTRIBUTED[ticks.LATEST_IN_MONTH] = (
    ticks.LATEST_OF_ALL_IN_MONTH.replace(
        "WHERE symbol = s.symbol", f"WHERE symbol = s.symbol AND symbol {_GIVEN}"
    )
    + f" WHERE s.symbol {_GIVEN}"
)
DISTRIBUTED[ticks.LATEST] = f"""
    SELECT t.* FROM symbols s CROSS JOIN LATERAL (
        SELECT {ticks.COLUMNS} FROM ticks
        WHERE symbol = s.symbol AND symbol {_GIVEN} AND timestamp < %(beyond)s
        ORDER BY timestamp DESC LIMIT 1
    ) AS t WHERE s.symbol {_GIVEN}"""
_WALK = """
    WITH walk AS MATERIALIZED (
        SELECT * FROM distributed_walk({symbols}, %(beyond)s, %(step)s, %(points)s)
    )"""
_WALK_OF_ALL = _WALK.format(symbols="NULL")
DISTRIBUTED[ticks.SPARKLINES] = _WALK.format(symbols="%(symbols)s::text[]") + ticks.LINES
DISTRIBUTED[ticks.SPARKLINES_OF_ALL] = _WALK_OF_ALL + ticks.LINES
DISTRIBUTED[ticks.STATISTICS] = ticks.build_statistics_statement(
    _WALK_OF_ALL,
    price="SELECT distributed_price_at(w.symbol, w.timestamp - interval '24 hours', %(beyond)s) AS price",
)
DISTRIBUTED[ticks.PRICES_AT] = """
    SELECT distributed_price_at(p.symbol, p.time, %(beyond)s)
    FROM unnest(%(symbols)s::text[], %(times)s::timestamptz[]) WITH ORDINALITY AS p (symbol, time, place)
    ORDER BY p.place"""
# Citus cannot run two index probes for each symbol and day on the shards. Here each shard reads all ticks of
# the days once.
DISTRIBUTED[ticks.RETURNS] = """
    SELECT day, round(avg(100 * (last / first - 1)), 4), count(*) FROM (
        SELECT symbol, (timestamp AT TIME ZONE 'UTC')::date AS day,
               (array_agg(COALESCE(open, price) ORDER BY timestamp))[1] AS first,
               (array_agg(price ORDER BY timestamp DESC))[1] AS last
        FROM ticks
        WHERE timestamp >= %(start)s::date::timestamp AT TIME ZONE 'UTC'
          AND timestamp < (%(end)s::date + 1)::timestamp AT TIME ZONE 'UTC'
        GROUP BY 1, 2
    ) AS days GROUP BY 1 ORDER BY 1"""
for _column, _kind, _statement in (
    ("currency", "text", ticks.UPDATE_CURRENCIES),
    ("moved_weeks", "integer", ticks.UPDATE_MOVED_WEEKS),
):
    # The statements for ordinary tables lock their rows in a fixed order first. This is not needed here:
    # Citus changes the shards one after the other, always in the same order.
    DISTRIBUTED[_statement] = f"""
        UPDATE symbols s SET {_column} = g.given
        FROM unnest(%s::text[], %s::{_kind}[]) AS g (symbol, given)
        WHERE s.symbol = g.symbol AND s.{_column} IS DISTINCT FROM g.given"""

# -- leaderboards -------------------------------------------------------------------------

_edit(leaderboards.PAGE, ("ON e.id = page.id", "ON e.id = page.id AND e.session_date = %(day)s"))
for _statement in (*leaderboard_reports.LIST.values(), *leaderboard_reports.LIST_MATCHES.values()):
    _edit(_statement, ("ON e.id = found.id", "ON e.id = found.id AND e.session_date = %(day)s"))
_edit(leaderboards.UPSERT, ("SELECT FROM users", "SELECT FROM usernames"))
_edit(
    leaderboards.CLOSE,
    ("WHERE e.ctid = ranked.ctid", "WHERE e.session_date = %(day)s AND e.ctid = ranked.ctid"),
)
# The FROM clause makes Citus take the lock on the node that has the shard of the leaderboard.
DISTRIBUTED[leaderboards.TRY_WRITERS_LOCK] = (
    f"{leaderboards.TRY_WRITERS_LOCK} FROM leaderboard_counters WHERE {leaderboards.LEADERBOARD} LIMIT 1"
)

# -- dates and seen players ---------------------------------------------------------------

DISTRIBUTED[sessions.DATES] = """
    SELECT * FROM (
        SELECT distributed_dates('portfolios', %(before)s, %(limit)s)
        UNION
        SELECT distributed_dates('leaderboard_entries', %(before)s, %(limit)s)
    ) AS days (day) ORDER BY day DESC LIMIT %(limit)s"""
DISTRIBUTED[sessions.DATES_WITH_ENTRIES] = (
    "SELECT distributed_dates('leaderboard_entries', %(before)s, %(limit)s)"
)
DISTRIBUTED[leaderboard_reports.DATES] = (
    "SELECT distributed_dates('leaderboard_entries', %(before)s, %(limit)s, %(category)s)"
)
DISTRIBUTED[sessions.SEEN] = """
    SELECT seen.players, joined.players FROM (SELECT count(*) AS players FROM (
        SELECT id FROM users WHERE last_active >= %(first)s::timestamp AT TIME ZONE 'UTC'
        UNION
        SELECT user_id FROM portfolios WHERE session_date BETWEEN %(first)s AND %(last)s
    ) AS each) AS seen CROSS JOIN (SELECT count(*) AS players FROM users) AS joined"""
