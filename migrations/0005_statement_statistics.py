"""Create the extension pg_stat_statements where possible, so that PostgreSQL counts the cost of statements.

Many servers lack the extension, or only administrators may create it. Nothing else in the schema needs it;
without it, the exporter has no metrics of statements. An existing extension is kept.
"""

from typing import Any

MARK = "created by a migration of echo-markets"

CREATE = """
    DO $$ BEGIN
        IF EXISTS (SELECT FROM pg_available_extensions
                   WHERE name = 'pg_stat_statements' AND installed_version IS NULL) THEN
            CREATE EXTENSION pg_stat_statements;
            COMMENT ON EXTENSION pg_stat_statements IS '{mark}';
        END IF;
    EXCEPTION WHEN insufficient_privilege THEN
        RAISE NOTICE 'pg_stat_statements needs an administrator';
    END $$"""
DROP = """
    DO $$ BEGIN
        IF EXISTS (SELECT FROM pg_extension e JOIN pg_description d ON d.objoid = e.oid
                   WHERE e.extname = 'pg_stat_statements' AND d.description = '{mark}') THEN
            DROP EXTENSION pg_stat_statements;
        END IF;
    END $$"""


def up(_migrator: Any, db: Any) -> None:
    """Create the extension, if the server has it and this role may create it."""
    db.execute_sql(CREATE.format(mark=MARK))


def down(_migrator: Any, db: Any) -> None:
    """Drop the extension if this migration created it."""
    db.execute_sql(DROP.format(mark=MARK))
