"""Let a reader make sure that a replica has what the reader must see.

A statement before the query, in the same message: its snapshot is older than that of the query, so what it
found replayed is in the query's answer.
"""

from typing import Any

# The conditions have SQLSTATEs of their own (core/database/replica.py): a class that neither the standard nor
# PostgreSQL uses.
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
    """Create the function, which changes nothing and which every role may call."""
    db.execute_sql(REQUIRE.replace("%", "%%"))


def down(_migrator: Any, db: Any) -> None:
    """Drop the function."""
    db.execute_sql("DROP FUNCTION replica_require(pg_lsn)")
