"""Counts the rows that a statement reads.

`count_rows_read` uses EXPLAIN ANALYZE: it adds up the rows of each scan of a table, including rows that a
filter removed, times the number of loops. `count_reads` uses the server's statistics, which also count the
rows that functions and triggers read.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.conftest import Execute
from tests.patience import wait_until

# Tables with pages that are not marked all-visible: an index-only scan also reads those pages of the table.
_NOT_ALL_VISIBLE = """
    SELECT relname FROM pg_class
    WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r' AND relallvisible < relpages"""


def vacuum(execute: Execute) -> None:
    """Vacuum and analyze all tables, so that a plan does not depend on the order of tests.

    VACUUM cannot mark a page as all-visible while another session's transaction is still ending. It is
    repeated until all pages are marked.
    """

    def is_all_visible() -> bool:
        execute("VACUUM ANALYZE")
        return not execute(_NOT_ALL_VISIBLE)

    wait_until(is_all_visible, "every page is visible to all")


def count_rows_read(execute: Execute, statement: str, parameters: object, table: str) -> float:
    """Return the number of rows read from the tables whose names begin with `table`."""
    [(plans,)] = execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
    rows: float = sum(
        float(node["Actual Loops"]) * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0))
        for node in _walk(plans[0]["Plan"])
        if str(node.get("Relation Name", "")).startswith(table)
    )
    return rows


def list_scans(execute: Execute, statement: str, parameters: object) -> set[tuple[str, str]]:
    """Return the scan type and the table of each scan in the statement's plan."""
    [(plans,)] = execute(f"EXPLAIN (FORMAT JSON) {statement}", parameters)
    return {
        (node["Node Type"], node["Relation Name"])
        for node in _walk(plans[0]["Plan"])
        if "Relation Name" in node
    }


class Reads(NamedTuple):
    """Reads of one table by a statement: its sequential scans, and the rows and index entries read."""

    table_scans: int
    entries: int


# These functions count the reads of the current transaction: subtract the result before from the one after.
_READS = """
    SELECT pg_stat_get_xact_numscans(%(table)s::regclass), (
        SELECT sum(pg_stat_get_xact_tuples_returned(oid)) FROM (
            SELECT %(table)s::regclass::oid AS oid
            UNION SELECT indexrelid FROM pg_index WHERE indrelid = %(table)s::regclass
        ) AS relations)"""


def count_reads(execute: Execute, statement: str, parameters: object, table: str) -> Reads:
    """Run a statement, roll it back, and return its reads of a table, triggers and functions included."""
    execute("BEGIN")
    try:
        [before] = execute(_READS, {"table": table})
        execute(statement, parameters)
        [after] = execute(_READS, {"table": table})
    finally:
        execute("ROLLBACK")
    return Reads(*(int(late - early) for early, late in zip(before, after, strict=True)))


def _walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _walk(child)
