"""Statements on PostgreSQL's own statistics: table sizes, unused indexes, slow statements.

Sizes and counts come from the server's statistics, and no table is scanned. Each function takes an
`Executor`, because the exporter must not use the pool that it measures.
"""

import re
from datetime import datetime
from typing import Any, Protocol

from core.metrics.names import OTHER
from core.models import ALL_MODELS
from core.queries.rows import Row
from core.records import StatementFigures, TableFigures, UnusedIndex

TABLES = tuple(model._meta.table_name for model in ALL_MODELS)  # noqa: SLF001  # peewee has no other way
# Matches the comment with which the database layer ends each statement. The comment is at the end because the
# statistics of PostgreSQL 18 omit a comment at the beginning of a statement.
TAG = re.compile(r"/\* op=([a-z_]+) \*/")

# Sizes exclude the free space maps: they are small, and to include them takes ten times as long. The numbers
# of rows come from the cumulative statistics, which follow every write. These statistics are empty after a
# crash of the server, and `reltuples` replaces them.
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
# A partitioned index is used if the index of any partition is used. Unique indexes and those of exclusion
# constraints are left out, because they are needed even if no query uses them.
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
# Finds the schema of the extension pg_stat_statements, if this role may use the schema and the server has
# loaded the library of the extension. Otherwise a query of `pg_stat_statements` would fail. The schema need
# not be on the search path.
_FIND_STATEMENTS = """
    SELECT nspname FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace
    WHERE extname = 'pg_stat_statements' AND has_schema_privilege(n.oid, 'USAGE')
      AND current_setting('pg_stat_statements.track', true) IS NOT NULL"""
OWN_STATEMENTS = """
    {schema}.pg_stat_statements({texts}) WHERE queryid IS NOT NULL
    AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())"""
_SLOWEST_STATEMENTS = f"""
    SELECT substring(query FROM '/[*] op=([a-z_]+) [*]/'), query, calls,
           total_exec_time / 1000, mean_exec_time / 1000, rows
    FROM {OWN_STATEMENTS.replace("{texts}", "true")} AND strpos(query, '/* op=') > 0
    ORDER BY total_exec_time DESC LIMIT %s"""


class Executor(Protocol):
    """An object that runs statements: the pooled database, or a connection outside the pool."""

    def execute_sql(self, sql: str, params: Any = None) -> Any:
        """Run a statement and return a cursor on its rows."""


def list_tables(executor: Executor) -> tuple[TableFigures, ...]:
    """Return the size and the estimated number of rows of each table, including its partitions.

    Tables without a model are summed up as `other`.
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

    Indexes of constraints are not listed. A partitioned index counts as one index. Scans on replicas are not
    included, because each replica has its own statistics.
    """
    return tuple(
        UnusedIndex(table=table, index=index, size_bytes=size, unused_since=reset)
        for table, index, size, reset in _fetch(executor, _UNUSED_INDEXES)
    )


def find_statement_schema(executor: Executor) -> str | None:
    """Return the schema of pg_stat_statements, or None if it is not loaded, not created or not allowed."""
    rows = _fetch(executor, _FIND_STATEMENTS)
    return str(rows[0][0]) if rows else None


def list_slowest_statements(executor: Executor, limit: int) -> tuple[StatementFigures, ...] | None:
    """Return the service's statements with the largest total time, or None without pg_stat_statements.

    If several operations run the same statement, all its calls count for the operation that ran it first. The
    server replaces constants by `$1`. Statements of other programs are not listed, because they may contain a
    secret.
    """
    schema = find_statement_schema(executor)
    if schema is None:
        return None
    statement = in_schema(_SLOWEST_STATEMENTS, schema)
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


def read_clock(executor: Executor) -> datetime:
    """Return the server's time, with the cheapest possible statement."""
    return _fetch(executor, "SELECT now()")[0][0]  # type: ignore[no-any-return]  # a column of one type


def _fetch(executor: Executor, statement: str, parameters: tuple[Any, ...] | None = None) -> list[Row]:
    rows: list[Row] = executor.execute_sql(statement, parameters).fetchall()
    return rows


def in_schema(statement: str, schema: str) -> str:
    """Insert the schema of pg_stat_statements into a statement."""
    quoted = schema.replace('"', '""')
    if "%" in quoted or "\\" in quoted:
        # The driver would read a percent sign as a placeholder, so it is written as a Unicode escape.
        return statement.replace("{schema}", 'U&"{}"'.format(re.sub(r"[%\\]", _encode_letter, quoted)))
    return statement.replace("{schema}", f'"{quoted}"')


def _encode_letter(letter: re.Match[str]) -> str:
    return f"\\{ord(letter[0]):04x}"
