"""Runs a statement under EXPLAIN ANALYZE and counts what it read.

Owns the counting: rows that scans of a table or its indexes went through, those that a
filter removed included, times how often the scan ran.
"""

from collections.abc import Iterator
from typing import Any

from tests.conftest import Execute


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


def _walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _walk(child)
