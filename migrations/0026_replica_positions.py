"""Create a function that checks whether a replica has replayed the WAL up to a given LSN.

A reader sends the function call and its query in one message, as two statements. The snapshot of the query is
newer than the call, so the query sees every commit up to the LSN.
"""

from typing import Any

# The SQLSTATEs of the errors have a class that is not used by the SQL standard or PostgreSQL
# (core/database/replica.py).
REQUIRE = """
    CREATE FUNCTION replica_require(wanted pg_lsn) RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
    BEGIN
        IF NOT pg_is_in_recovery() THEN
            RAISE SQLSTATE 'RR002' USING MESSAGE = 'this server is no replica';
        ELSIF (pg_last_wal_replay_lsn() >= wanted) IS NOT TRUE THEN
            RAISE SQLSTATE 'RR001' USING MESSAGE = format('replayed up to %s, which is before %s',
                                                          pg_last_wal_replay_lsn(), wanted);
        END IF;
    END $$"""


def up(_migrator: Any, db: Any) -> None:
    """Create the function; it changes nothing, and every role can call it."""
    db.execute_sql(REQUIRE.replace("%", "%%"))


def down(_migrator: Any, db: Any) -> None:
    """Drop the function."""
    db.execute_sql("DROP FUNCTION replica_require(pg_lsn)")
