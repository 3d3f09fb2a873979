"""Reads the schema of a database from the catalog, so that a test can compare two schemas.

The description has the columns with types, defaults and nullability, the constraints, indexes, storage
settings, triggers and functions. It ignores the order of columns. peewee models cannot declare triggers and
functions, so `MODELLED` leaves them out of the comparison between models and migrations.
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
      AND NOT c.relispartition
    ORDER BY 1, 2"""
CONSTRAINTS = """
    SELECT c.relname, k.conname, pg_get_constraintdef(k.oid), k.convalidated
    FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
    WHERE c.relnamespace = 'public'::regnamespace AND c.relname <> 'schema_migration'
      AND k.contype NOT IN ('n', 't') AND NOT c.relispartition
    ORDER BY 1, 2"""
INDEXES = """
    SELECT tablename, indexname, indexdef FROM pg_indexes
    WHERE schemaname = 'public' AND tablename <> 'schema_migration'
      AND tablename NOT IN (SELECT relname FROM pg_class WHERE relispartition)
    ORDER BY 1, 2"""
PARTITIONED = """
    SELECT relname, pg_get_partkeydef(partrelid)
    FROM pg_partitioned_table JOIN pg_class c ON c.oid = partrelid
    WHERE relnamespace = 'public'::regnamespace ORDER BY 1"""
SETTINGS = """
    SELECT relname, reloptions FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND reloptions IS NOT NULL AND relkind IN ('r', 'p')
    ORDER BY 1"""

TRIGGERS = """
    SELECT relname, tgname, pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid
    WHERE NOT tgisinternal AND relnamespace = 'public'::regnamespace ORDER BY 1, 2"""
FUNCTIONS = """
    SELECT proname, pg_get_functiondef(oid) FROM pg_proc
    WHERE pronamespace = 'public'::regnamespace ORDER BY 1"""
MODELLED = ("columns", "constraints", "indexes", "partitioned", "settings")


def describe(execute: Execute) -> dict[str, list[tuple[Any, ...]]]:
    """Return the rows of each catalog query, by the kind of schema object."""
    return {
        "columns": execute(COLUMNS),
        "constraints": execute(CONSTRAINTS),
        "indexes": execute(INDEXES),
        "partitioned": execute(PARTITIONED),
        "settings": execute(SETTINGS),
        "triggers": execute(TRIGGERS),
        "functions": execute(FUNCTIONS),
    }
