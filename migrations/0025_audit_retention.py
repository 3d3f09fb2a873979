"""Let the owner decide how long the audit log is kept, and record each month that is dropped.

The application requests that old months are dropped, and could pass any number of months to keep. The table
`audit_retention`, which the application cannot write, contains the minimum number. Without a row in this
table, no month is dropped. For each dropped month, a seal of that month without events is added to the chain
of seals. A missing month without such a seal was removed in another way.
"""

from typing import Any

# The same as in migration 0021: the key of the advisory lock for seals, and the hash of a seal.
SEAL_LOCK = 0x7365616C
HASH = """sha256(convert_to(jsonb_build_array(
        dropped.number, EXTRACT(epoch FROM dropped.sealed_at), dropped.partition,
        EXTRACT(epoch FROM dropped.first_at), EXTRACT(epoch FROM dropped.last_at), dropped.events,
        dropped.up_to, dropped.system)::text, 'UTF8') || dropped.previous_hash || dropped.manifest)"""
TABLE = """
    CREATE TABLE audit_retention (
        id integer NOT NULL PRIMARY KEY DEFAULT 1,
        keep_months integer NOT NULL,
        CONSTRAINT audit_retention_one CHECK (id = 1),
        CONSTRAINT audit_retention_months CHECK (keep_months BETWEEN 1 AND 1200)
    )"""
# Without an earlier seal, `up_to` of the new seal is 0, which is lower than every transaction id. So the next
# seal searches all events.
DROP_MONTH = f"""
    CREATE FUNCTION audit_drop_month(month text) RETURNS void LANGUAGE plpgsql
    SET search_path FROM CURRENT AS $$
    DECLARE
        begins timestamp := to_date(right(month, 7), 'YYYY_MM');
        newest audit_seals;
        dropped audit_seals;
    BEGIN
        PERFORM pg_advisory_xact_lock({SEAL_LOCK});
        SELECT * INTO newest FROM audit_seals ORDER BY number DESC LIMIT 1;
        dropped := (COALESCE(newest.number, 0) + 1, clock_timestamp(), month, begins AT TIME ZONE 'UTC',
                    (begins + interval '1 month') AT TIME ZONE 'UTC', 0,
                    COALESCE(newest.up_to, 0), COALESCE(newest.system, 0), '', COALESCE(newest.hash, ''), '');
        dropped.hash := {HASH};
        INSERT INTO audit_seals SELECT dropped.*;
        EXECUTE format('DROP TABLE IF EXISTS %I', month);
    END $$"""
KEPT = """
        kept integer;"""
REFUSE = """
        SELECT r.keep_months INTO kept FROM audit_retention r;
        IF keep_months IS NOT NULL AND (kept IS NULL OR keep_months < kept) THEN
            RAISE EXCEPTION 'keep_months is %, and the owner of the database keeps % months of the audit log',
                keep_months, COALESCE(kept::text, 'all') USING ERRCODE = 'insufficient_privilege',
                HINT = 'run `echo-markets migrate up` with AUDIT_KEEP_MONTHS';
        END IF;"""

# Runs with the rights of its owner, so it does only what the application needs.
MAINTAIN = """
    CREATE OR REPLACE FUNCTION audit_maintain(months_ahead integer, keep_months integer,
                                              OUT created text[], OUT dropped text[])
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    DECLARE
        present timestamp with time zone := date_trunc('month', now(), 'UTC');
        name text;
        step integer;{declared}
        begun boolean := false;
    BEGIN
        IF months_ahead IS NULL OR months_ahead NOT BETWEEN 0 AND 24 OR keep_months < 1 THEN
            RAISE EXCEPTION 'months_ahead is % and keep_months is %; give 0 to 24, and at least 1 or NULL',
                months_ahead, keep_months USING ERRCODE = 'invalid_parameter_value';
        END IF;{refuse}
        -- without this lock, two calls at the same time would create the same month
        PERFORM pg_advisory_xact_lock({lock});
        created := '{{}}';
        dropped := '{{}}';
        FOR step IN 0 .. months_ahead LOOP
            name := audit_create_month((present AT TIME ZONE 'UTC' + step * interval '1 month')
                                       AT TIME ZONE 'UTC');
            IF name IS NOT NULL THEN
                created := created || name;
            END IF;
        END LOOP;
        FOR name IN
            SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            WHERE i.inhparent = 'audit_events'::regclass AND c.relname ~ '^audit_events_\\d{{4}}_\\d\\d$'
              AND to_date(right(c.relname, 7), 'YYYY_MM')
                  < (present AT TIME ZONE 'UTC' - keep_months * interval '1 month')::date
            ORDER BY c.relname
        LOOP
            IF NOT begun THEN
                -- this lock keeps writers out, so every event is sealed before it is dropped
                LOCK TABLE audit_events IN ACCESS EXCLUSIVE MODE;
                PERFORM audit_seal();
                begun := true;
            END IF;
            {drop};
            dropped := dropped || name;
        END LOOP;
    END $$"""
BOUNDED = MAINTAIN.format(declared=KEPT, refuse=REFUSE, lock=SEAL_LOCK, drop="PERFORM audit_drop_month(name)")
UNBOUNDED = MAINTAIN.format(
    declared="", refuse="", lock=SEAL_LOCK, drop="EXECUTE format('DROP TABLE %I', name)"
)
NOTE_EARLIER = """
    SELECT audit_drop_month(partition) FROM (
        SELECT DISTINCT partition FROM audit_seals WHERE to_regclass(partition) IS NULL ORDER BY 1
    ) AS gone"""
HAS_TRACES = "SELECT EXISTS (SELECT FROM audit_seals WHERE events = 0)"


def up(_migrator: Any, db: Any) -> None:
    """Limit which months can be dropped. Months that are missing already count as dropped by retention."""
    for statement in (TABLE, DROP_MONTH, BOUNDED, NOTE_EARLIER):
        run(db, statement)


def down(_migrator: Any, db: Any) -> None:
    """Remove the minimum number of months. Fails if the audit log has seals of dropped months."""
    [(has_traces,)] = db.execute_sql(HAS_TRACES).fetchall()
    if has_traces:
        raise RuntimeError("months of the audit log were dropped, and earlier code cannot read their seals")
    for statement in (UNBOUNDED, "DROP FUNCTION audit_drop_month(text)", "DROP TABLE audit_retention"):
        run(db, statement)


def run(db: Any, statement: str) -> None:
    """Run a statement without parameters."""
    db.execute_sql(statement.replace("%", "%%"))
