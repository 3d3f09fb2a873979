"""The cost of the service's operations, summed up from pg_stat_statements.

Owns the counters, which never go back: the server forgets rare statements to make room, and
a sum that became less would be taken for a restart, and counted anew as a whole.

The server keeps the text of whoever first ran a statement, and with it that operation's tag:
two operations that run the very same statement are counted under the one that came first.
"""

from collections.abc import Collection, Iterator

from prometheus_client.core import CounterMetricFamily, Metric

from core.queries import operations
from core.queries.operations import Executor

Figures = tuple[int, float, int]
NOTHING: Figures = (0, 0.0, 0)


class StatementCounters:
    """Calls, seconds and rows by operation; of one thread at a time."""

    def __init__(self, operation_names: Collection[str]) -> None:
        self._known = frozenset(operation_names)
        self._operations: dict[int, str] = {}
        self._last: dict[int, Figures] = {}
        self._sums: dict[str, Figures] = {operations.OTHER: NOTHING}

    def collect(self, executor: Executor) -> Iterator[Metric]:
        """Yield the counters; nothing without pg_stat_statements."""
        schema = operations.find_statement_statistics(executor)
        if schema is None:
            return
        self._add(executor, schema)
        calls = CounterMetricFamily("echo_pg_statement_calls", "Statements run", labels=["op"])
        seconds = CounterMetricFamily("echo_pg_statement_seconds", "Time in statements", labels=["op"])
        rows = CounterMetricFamily("echo_pg_statement_rows", "Rows of statements", labels=["op"])
        for name, figures in sorted(self._sums.items()):
            for family, value in zip((calls, seconds, rows), figures, strict=True):
                family.add_metric([name], value)
        yield from (calls, seconds, rows)

    def _add(self, executor: Executor, schema: str) -> None:
        present = operations.read_statement_counters(executor, schema)
        # the texts are read from a file of the server: for new statements only
        if new := present.keys() - self._operations.keys():
            self._operations |= operations.find_statement_operations(executor, schema, new, known=self._known)
        for queryid, figures in present.items():
            name = self._operations[queryid]
            self._sums[name] = _add_up(self._sums.get(name, NOTHING), _grow(self._last.get(queryid), figures))
        self._last = present
        # what comes back may come back with the text of another operation
        self._operations = {queryid: self._operations[queryid] for queryid in present}


def _grow(before: Figures | None, now: Figures) -> Figures:
    """Return what was added; when it is less than before, the server has started over."""
    if before is None or now[0] < before[0]:
        return now
    return now[0] - before[0], max(0.0, now[1] - before[1]), max(0, now[2] - before[2])


def _add_up(one: Figures, other: Figures) -> Figures:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2]
