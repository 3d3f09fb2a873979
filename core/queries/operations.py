"""Statements on PostgreSQL's own statistics: what the server does, not what the game holds.

Owns what the exporter's collectors and the dashboard's operations figures read. Sizes and
counts are the server's estimates; no table is ever scanned. Takes anything that runs a
statement, because the exporter asks past the pool that it measures.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Protocol

from core.queries.rows import Row
from core.records import StatementFigures, TableFigures, UnusedIndex

# A label set must stay closed: everything else is summed up under OTHER.
OTHER = "other"
TABLES = (
    "users",
    "ticks",
    "symbols",
    "portfolios",
    "positions",
    "trades",
    "quests",
    "leaderboard_entries",
    "leaderboard_counters",
    "market_events",
    "audit_events",
)
APPLICATION_PREFIX = "echo-markets-"
STATES = ("active", "idle", "idle_in_transaction", "idle_in_transaction_aborted", OTHER)
# How the database layer ends each statement. PostgreSQL 18 drops a comment in front of one.
TAG = re.compile(r"/\* op=([a-z_]+) \*/")

_ACTIVITY = """
    SELECT application_name, state, count(*)
    FROM pg_stat_activity WHERE backend_type = 'client backend' GROUP BY 1, 2"""
_MAX_CONNECTIONS = "SELECT current_setting('max_connections')::int"
_OLDEST_TRANSACTION = """
    SELECT COALESCE(max(EXTRACT(epoch FROM clock_timestamp() - xact_start)), 0)::float8
    FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"""
_TRANSACTIONS = """
    SELECT xact_commit, xact_rollback, deadlocks FROM pg_stat_database WHERE datname = current_database()"""
# Without the maps of free space, which are small and would cost ten times as much to look at.
# The cumulative statistics follow every write, but a crash of the server empties them.
_TABLES = """
    SELECT COALESCE(p.relname, c.relname),
           sum(pg_relation_size(c.oid) + COALESCE(pg_relation_size(NULLIF(c.reltoastrelid, 0)), 0))::bigint,
           sum((SELECT COALESCE(sum(pg_relation_size(x.indexrelid)), 0)
                FROM pg_index x WHERE x.indrelid = c.oid))::bigint,
           sum(CASE WHEN s.n_live_tup > 0 THEN s.n_live_tup ELSE greatest(c.reltuples, 0) END)::bigint
    FROM pg_class c
    LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
    LEFT JOIN pg_class p ON p.oid = i.inhparent
    LEFT JOIN pg_stat_user_tables s ON s.relid = c.oid
    WHERE c.relkind = 'r'
    AND c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
    GROUP BY 1 ORDER BY 1"""
# A partitioned index is used when any of its parts is; those of constraints are needed anyway.
_UNUSED_INDEXES = """
    SELECT COALESCE(pt.relname, s.relname), COALESCE(pi.relname, s.indexrelname),
           sum(pg_relation_size(s.indexrelid))::bigint, min(d.stats_reset)
    FROM pg_stat_user_indexes s
    JOIN pg_index x ON x.indexrelid = s.indexrelid
    JOIN pg_stat_database d ON d.datname = current_database()
    LEFT JOIN pg_inherits ih ON ih.inhrelid = s.indexrelid
    LEFT JOIN pg_class pi ON pi.oid = ih.inhparent
    LEFT JOIN pg_inherits th ON th.inhrelid = s.relid
    LEFT JOIN pg_class pt ON pt.oid = th.inhparent
    WHERE NOT x.indisunique AND NOT x.indisexclusion AND s.schemaname = current_schema()
    GROUP BY 1, 2 HAVING sum(s.idx_scan) = 0 ORDER BY 3 DESC, 1, 2"""
# Where the extension is, in a schema that this role may use, and that the server has loaded it:
# else reading it is an error. Extensions are in any schema, on the search path or not.
_FIND_STATEMENTS = """
    SELECT nspname FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace
    WHERE extname = 'pg_stat_statements' AND has_schema_privilege(n.oid, 'USAGE')
      AND current_setting('pg_stat_statements.track', true) IS NOT NULL"""
_OWN_STATEMENTS = """
    {schema}.pg_stat_statements({texts}) WHERE queryid IS NOT NULL
    AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())"""
_STATEMENT_COUNTERS = f"""
    SELECT queryid, sum(calls)::bigint, sum(total_exec_time) / 1000, sum(rows)::bigint
    FROM {_OWN_STATEMENTS.replace("{texts}", "false")} GROUP BY 1"""
_STATEMENT_TEXTS = f"""
    SELECT queryid, min(query) FROM {_OWN_STATEMENTS.replace("{texts}", "true")}
    AND queryid = ANY(%s) GROUP BY 1"""
_SLOWEST_STATEMENTS = f"""
    SELECT substring(query FROM '/[*] op=([a-z_]+) [*]/'), query, calls,
           total_exec_time / 1000, mean_exec_time / 1000, rows
    FROM {_OWN_STATEMENTS.replace("{texts}", "true")} AND strpos(query, '/* op=') > 0
    ORDER BY total_exec_time DESC LIMIT %s"""
# Who has replayed everything is not late, however long ago that was; who stopped answering is.
_REPLICAS = """
    SELECT application_name, CASE
        WHEN replay_lsn >= CASE WHEN pg_is_in_recovery() THEN sent_lsn ELSE pg_current_wal_lsn() END THEN 0
        ELSE EXTRACT(epoch FROM greatest(replay_lag, clock_timestamp() - reply_time))
    END::float8
    FROM pg_stat_replication WHERE state IN ('streaming', 'catchup')"""


class Executor(Protocol):
    """What runs a statement: the pooled database, or a connection of one's own."""

    def execute_sql(self, sql: str, params: Any = None) -> Any:
        """Run a statement and return a cursor on its rows."""


def count_connections(executor: Executor, applications: Collection[str]) -> dict[tuple[str, str], int]:
    """Return the server's client connections, all databases, by application and state; zeros included.

    What is none of the `applications`, named without the prefix of the stack, is `other`.
    """
    counts = {(application, state): 0 for application in (*applications, OTHER) for state in STATES}
    for application_name, state, count in _fetch(executor, _ACTIVITY):
        counts[_name_application(application_name, applications), _name_state(state)] += count
    return counts


def find_max_connections(executor: Executor) -> int:
    """Return how many connections the server allows."""
    return int(_fetch(executor, _MAX_CONNECTIONS)[0][0])


def find_oldest_transaction_seconds(executor: Executor) -> float:
    """Return the age of the server's oldest open transaction in seconds; 0 without any."""
    return float(_fetch(executor, _OLDEST_TRANSACTION)[0][0])


def count_transactions(executor: Executor) -> tuple[int, int, int]:
    """Return the commits, rollbacks and deadlocks of this database since its statistics were reset."""
    [(commits, rollbacks, deadlocks)] = _fetch(executor, _TRANSACTIONS)
    return commits, rollbacks, deadlocks


def list_tables(executor: Executor) -> tuple[TableFigures, ...]:
    """Return sizes and estimated rows by table, partitions summed under their parent's name.

    Tables that the models do not know are summed up as `other`.
    """
    sums = dict.fromkeys((*TABLES, OTHER), (0, 0, 0))
    for name, size, index_size, rows in _fetch(executor, _TABLES):
        table = name if name in TABLES else OTHER
        before = sums[table]
        sums[table] = (before[0] + size, before[1] + index_size, before[2] + rows)
    return tuple(
        TableFigures(table=table, size_bytes=size, index_size_bytes=index_size, rows=rows)
        for table, (size, index_size, rows) in sums.items()
    )


def list_unused_indexes(executor: Executor) -> tuple[UnusedIndex, ...]:
    """Return the indexes that no query used since the statistics were reset, largest first.

    Those that hold a constraint are not listed; a partitioned index counts as one. Replicas
    have statistics of their own, which this does not see.
    """
    return tuple(
        UnusedIndex(table=table, index=index, size_bytes=size, unused_since=reset)
        for table, index, size, reset in _fetch(executor, _UNUSED_INDEXES)
    )


def find_statement_statistics(executor: Executor) -> str | None:
    """Return the schema of pg_stat_statements; None where it is not loaded, created or allowed."""
    rows = _fetch(executor, _FIND_STATEMENTS)
    return str(rows[0][0]) if rows else None


def list_slowest_statements(executor: Executor, limit: int) -> tuple[StatementFigures, ...] | None:
    """Return the service's statements that took most time in all; None without pg_stat_statements.

    The server keeps the text, and with it the operation, of whoever first ran a statement since
    it was last forgotten; another operation that runs the same one is counted there. Constants
    are replaced by `$1`; statements of others, whose texts may hold a secret, are not listed.
    """
    schema = find_statement_statistics(executor)
    if schema is None:
        return None
    statement = _in_schema(_SLOWEST_STATEMENTS, schema)
    return tuple(
        StatementFigures(
            operation=operation,
            statement=TAG.sub("", text).strip(),
            calls=calls,
            total_seconds=total,
            mean_seconds=mean,
            rows=rows,
        )
        for operation, text, calls, total, mean, rows in _fetch(executor, statement, (limit,))
    )


def read_statement_counters(executor: Executor, schema: str) -> dict[int, tuple[int, float, int]]:
    """Return calls, seconds and rows by the server's id of a statement, without the costly texts.

    `schema` is where pg_stat_statements is, as `find_statement_statistics` says.
    """
    return {
        queryid: (calls, seconds, rows)
        for queryid, calls, seconds, rows in _fetch(executor, _in_schema(_STATEMENT_COUNTERS, schema))
    }


def find_statement_operations(
    executor: Executor, schema: str, queryids: Iterable[int], *, known: Collection[str]
) -> Mapping[int, str]:
    """Return the operation of each statement, `other` without one that is `known`; `schema` as above."""
    wanted = list(queryids)
    found = dict.fromkeys(wanted, OTHER)
    for queryid, text in _fetch(executor, _in_schema(_STATEMENT_TEXTS, schema), (wanted,)):
        tag = TAG.search(text or "")
        if tag is not None and tag[1] in known:
            found[queryid] = tag[1]
    return found


def list_replicas(executor: Executor) -> dict[str, float]:
    """Return the lag in seconds of each connected replica by its application name; the largest of a name."""
    lags: dict[str, float] = {}
    for name, seconds in _fetch(executor, _REPLICAS):
        lags[name] = max(lags.get(name, 0.0), seconds or 0.0)
    return lags


def _fetch(executor: Executor, statement: str, parameters: tuple[Any, ...] | None = None) -> list[Row]:
    rows: list[Row] = executor.execute_sql(statement, parameters).fetchall()
    return rows


def _in_schema(statement: str, schema: str) -> str:
    quoted = schema.replace('"', '""')
    if "%" in quoted or "\\" in quoted:
        # the driver would take a percent sign for a placeholder
        return statement.replace("{schema}", 'U&"{}"'.format(re.sub(r"[%\\]", _spell_letter, quoted)))
    return statement.replace("{schema}", f'"{quoted}"')


def _spell_letter(letter: re.Match[str]) -> str:
    return f"\\{ord(letter[0]):04x}"


def _name_application(application_name: str | None, applications: Collection[str]) -> str:
    name = (application_name or "").removeprefix(APPLICATION_PREFIX)
    return name if application_name != name and name in applications else OTHER


def _name_state(state: str | None) -> str:
    name = (state or "").replace(" (", "_").replace(")", "").replace(" ", "_")
    return name if name in STATES else OTHER
