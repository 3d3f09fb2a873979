"""Create functions for maintenance that needs the owner's rights. The functions run with these rights.

A role that only reads and writes rows cannot create or drop a partition, and cannot ANALYZE a table. It can
call these functions instead (`core/database/privileges.py`). Their arguments are times, not names. They use
the schema of the migration for any search path of the caller, and refuse a change that would leave a gap
between partitions.
"""

from typing import Any

# Maximum number of partitions, for a hundred years. The planning time of a statement on all ticks grows with
# every partition.
LIMIT = 1200
_AS_OWNER = "LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT"
# The upper bound of each partition except the default partition.
_PARTITIONS = r"""
    SELECT c.relname AS name,
           (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \(''([^'']+)''\)'))[1]::timestamptz AS bound
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'ticks'::regclass AND c.relname <> 'ticks_default'"""
# Moves the rows of the month out of the default partition; they were inserted before this partition existed.
# Uses no temporary table, because a role may lack the privilege to create one.
CREATE = f"""
    CREATE FUNCTION ticks_create_partition(month timestamptz, OUT partition text, OUT moved bigint)
    {_AS_OWNER} AS $$
    DECLARE
        following timestamptz;
        moving text;
    BEGIN
        following := (date_trunc('month', month AT TIME ZONE 'UTC') + interval '1 month') AT TIME ZONE 'UTC';
        LOCK TABLE ticks IN ACCESS EXCLUSIVE MODE;
        IF month IS DISTINCT FROM (SELECT max(bound) FROM ({_PARTITIONS}) AS p)
           OR month <> date_trunc('month', month, 'UTC') THEN
            RAISE invalid_parameter_value USING MESSAGE = format('a partition cannot begin at %s', month),
                HINT = 'the next one begins where the last one ends, with a month in UTC';
        ELSIF (SELECT count(*) FROM ({_PARTITIONS}) AS p) >= {LIMIT} THEN
            RAISE program_limit_exceeded USING MESSAGE = 'ticks has {LIMIT} partitions, which is the limit';
        END IF;
        partition := 'ticks_' || to_char(month AT TIME ZONE 'UTC', 'YYYY_MM');
        moving := partition || '_moving';
        EXECUTE format('CREATE UNLOGGED TABLE %I (LIKE ticks)', moving);
        EXECUTE format('WITH moved AS (DELETE FROM ticks_default WHERE timestamp >= %L AND timestamp < %L
                        RETURNING *) INSERT INTO %I SELECT * FROM moved', month, following, moving);
        GET DIAGNOSTICS moved = ROW_COUNT;
        EXECUTE format('CREATE TABLE %I PARTITION OF ticks FOR VALUES FROM (%L) TO (%L)',
                       partition, month, following);
        EXECUTE format('INSERT INTO %I SELECT * FROM %I', partition, moving);
        EXECUTE format('DROP TABLE %I', moving);
    END $$"""
DROP = f"""
    CREATE FUNCTION ticks_drop_partitions(until timestamptz) RETURNS SETOF text {_AS_OWNER} AS $$
    DECLARE
        expired record;
        last timestamptz;
    BEGIN
        LOCK TABLE ticks IN ACCESS EXCLUSIVE MODE;
        FOR expired IN SELECT * FROM ({_PARTITIONS}) AS p WHERE bound <= until ORDER BY bound LOOP
            EXECUTE format('DROP TABLE %I', expired.name);
            last := expired.bound;
            RETURN NEXT expired.name;
        END LOOP;
        IF last IS NOT NULL THEN
            EXECUTE format('CREATE TABLE ticks_before PARTITION OF ticks
                            FOR VALUES FROM (MINVALUE) TO (%L)', last);
        END IF;
    END $$"""
ANALYZE = f"""
    CREATE FUNCTION leaderboard_analyze() RETURNS void {_AS_OWNER} AS $$
    BEGIN
        ANALYZE leaderboard_entries;
    END $$"""
FUNCTIONS = (
    "ticks_create_partition(timestamptz)",
    "ticks_drop_partitions(timestamptz)",
    "leaderboard_analyze()",
)


def up(_migrator: Any, db: Any) -> None:
    """Create the functions; only the owner can call them until privileges are granted."""
    for statement in (CREATE, DROP, ANALYZE):
        db.execute_sql(statement.replace("%", "%%"))
    for function in FUNCTIONS:
        db.execute_sql(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")


def down(_migrator: Any, db: Any) -> None:
    """Drop the functions."""
    for function in FUNCTIONS:
        db.execute_sql(f"DROP FUNCTION {function}")
