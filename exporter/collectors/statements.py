"""The cost of each operation of the service, summed from pg_stat_statements.

Owns the SQL statements and the metrics of this collector. Its sums never decrease. PostgreSQL discards rare
statements to make room for others. A sum without them would be lower; Prometheus would take this for a
counter reset, and count the whole sum again.

The text of a statement contains the tag of its operation. PostgreSQL stores only the text of the first
execution. If two operations run the same statement, both are counted as the operation that ran it first.
"""

from collections.abc import Collection, Iterator

from prometheus_client.core import Metric

from core.metrics.names import OTHER, counter
from core.queries.server_statistics import OWN_STATEMENTS, TAG, Executor, find_statement_schema, in_schema

CALLS = counter("echo_pg_statement_calls_total", "Statements run", "op")
SECONDS = counter("echo_pg_statement_seconds_total", "Time in statements", "op")
ROWS = counter("echo_pg_statement_rows_total", "Rows of statements", "op")

# `false` leaves out the texts of the statements: this query does not need them, and PostgreSQL would read
# them from a file
_COUNTERS = f"""
    SELECT queryid, sum(calls)::bigint, sum(total_exec_time) / 1000, sum(rows)::bigint
    FROM {OWN_STATEMENTS.replace("{texts}", "false")} GROUP BY 1"""
_TEXTS = f"""
    SELECT queryid, min(query) FROM {OWN_STATEMENTS.replace("{texts}", "true")}
    AND queryid = ANY(%s) GROUP BY 1"""

Cost = tuple[int, float, int]
"""The calls, seconds and rows of a statement or an operation."""
NO_COST: Cost = (0, 0.0, 0)


class StatementCounters:
    """Sums of calls, seconds and rows by operation. Not thread safe."""

    def __init__(self, operations: Collection[str]) -> None:
        self._known = frozenset(operations)
        self._operations: dict[int, str] = {}
        self._last: dict[int, Cost] = {}
        self._sums: dict[str, Cost] = {OTHER: NO_COST}

    def collect(self, executor: Executor) -> Iterator[Metric]:
        """Yield the counters, or nothing if pg_stat_statements is not installed."""
        schema = find_statement_schema(executor)
        if schema is None:
            return
        self._add(executor, schema)
        for place, definition in enumerate((CALLS, SECONDS, ROWS)):
            yield definition.build({(name,): cost[place] for name, cost in sorted(self._sums.items())})

    def _add(self, executor: Executor, schema: str) -> None:
        rows = executor.execute_sql(in_schema(_COUNTERS, schema)).fetchall()
        present: dict[int, Cost] = {row[0]: (row[1], row[2], row[3]) for row in rows}
        if new := present.keys() - self._operations.keys():
            self._operations |= self._find_operations(executor, schema, list(new))
        for queryid, cost in present.items():
            name = self._operations[queryid]
            increase = _subtract(cost, self._last.get(queryid))
            self._sums[name] = _add_up(self._sums.get(name, NO_COST), increase)
        self._last = present
        # forget statements that PostgreSQL has discarded: they can appear again with the text of another
        # operation
        self._operations = {queryid: self._operations[queryid] for queryid in present}

    def _find_operations(self, executor: Executor, schema: str, queryids: list[int]) -> dict[int, str]:
        """Return the operation of each statement, `other` for an unknown operation."""
        found = dict.fromkeys(queryids, OTHER)
        for queryid, text in executor.execute_sql(in_schema(_TEXTS, schema), (queryids,)).fetchall():
            tag = TAG.search(text or "")
            if tag is not None and tag[1] in self._known:
                found[queryid] = tag[1]
        return found


def _subtract(now: Cost, before: Cost | None) -> Cost:
    """Return the cost since `before`.

    If there are fewer calls than before, PostgreSQL has reset its counters.
    """
    if before is None or now[0] < before[0]:
        return now
    return now[0] - before[0], max(0.0, now[1] - before[1]), max(0, now[2] - before[2])


def _add_up(one: Cost, other: Cost) -> Cost:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2]
