"""Describes a database's schema from the catalog, so that two can be compared.

Owns what counts as a difference: columns with types, defaults and nullability,
constraints and indexes with their definitions. Order of columns does not count.
"""

from typing import Any

from tests.conftest import Execute

COLUMNS = """
    SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
           pg_get_expr(d.adbin, d.adrelid)
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
      AND a.attnum > 0 AND NOT a.attisdropped AND c.relname <> 'schema_migration'
    ORDER BY 1, 2"""
CONSTRAINTS = """
    SELECT c.relname, k.conname, pg_get_constraintdef(k.oid), k.convalidated
    FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
    WHERE c.relnamespace = 'public'::regnamespace AND c.relname <> 'schema_migration'
      AND k.contype <> 'n'
    ORDER BY 1, 2"""
INDEXES = """
    SELECT tablename, indexname, indexdef FROM pg_indexes
    WHERE schemaname = 'public' AND tablename <> 'schema_migration' ORDER BY 1, 2"""


def describe(execute: Execute) -> dict[str, list[tuple[Any, ...]]]:
    """Return everything that makes up the schema."""
    return {
        "columns": execute(COLUMNS),
        "constraints": execute(CONSTRAINTS),
        "indexes": execute(INDEXES),
    }
