"""Counts what a statement reads.

Owns two ways of counting: EXPLAIN ANALYZE adds up the rows that scans of a table or its indexes
went through, those that a filter removed included, times how often the scan ran; the server's
statistics also count what a function reads, which EXPLAIN does not show.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.conftest import Execute
from tests.patience import wait_until

# Until a page of a table counts as visible to all, a scan of an index alone looks at the page as well.
_UNSEEN = """
    SELECT relname FROM pg_class
    WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r' AND relallvisible < relpages"""


def vacuum(execute: Execute) -> None:
    """Vacuum and analyze all tables, so that plans are the same in every order of tests.

    A transaction that still ends in another session keeps a VACUUM from marking pages as visible to all, so
    it runs again until all pages are.
    """

    def is_all_visible() -> bool:
        execute("VACUUM ANALYZE")
        return not execute(_UNSEEN)

    wait_until(is_all_visible, "every page is visible to all")


def count_rows_read(execute: Execute, statement: str, parameters: object, table: str) -> float:
    """Return how many rows of a table, or of the tables whose names begin so, were read."""
    [(plans,)] = execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
    rows: float = sum(
        float(node["Actual Loops"]) * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0))
        for node in _walk(plans[0]["Plan"])
        if str(node.get("Relation Name", "")).startswith(table)
    )
    return rows


def list_scans(execute: Execute, statement: str, parameters: object) -> set[tuple[str, str]]:
    """Return the kind of scan and the table of each scan that would run."""
    [(plans,)] = execute(f"EXPLAIN (FORMAT JSON) {statement}", parameters)
    return {
        (node["Node Type"], node["Relation Name"])
        for node in _walk(plans[0]["Plan"])
        if "Relation Name" in node
    }


class Reads(NamedTuple):
    """What one statement read of a table: scans from end to end, and rows or entries of indexes."""

    table_scans: int
    entries: int


# Of what this session has not reported yet, so the difference of two is what came in between.
_READS = """
    SELECT pg_stat_get_xact_numscans(%(table)s::regclass), (
        SELECT sum(pg_stat_get_xact_tuples_returned(oid)) FROM (
            SELECT %(table)s::regclass::oid AS oid
            UNION SELECT indexrelid FROM pg_index WHERE indrelid = %(table)s::regclass
        ) AS relations)"""


def count_reads(execute: Execute, statement: str, parameters: object, table: str) -> Reads:
    """Run a statement, undo it, and return what it read of a table, functions and triggers included."""
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
