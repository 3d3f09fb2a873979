"""Make `audit_events` the audit log: append-only, partitioned by month, with changes of rows, and with seals.

An event is an action of an operator or a change of a row by a person. The outcome of an action is a second
event, because no event is ever updated. Triggers write row changes while `app.actor` is set; without this
setting they cost nothing. Events never contain e-mail addresses. Events are removed only together with all
events of their month.

A seal lists a batch of events with a digest of each. The hash of a seal includes the hash of the previous
seal, so no event or seal can be changed or removed without a trace. Events of a transaction that commits late
are not missed: a seal contains every event that is visible and in no seal yet. The column `up_to` of a seal
only limits the search for the next seal: all events of transactions with lower ids than `up_to` are sealed,
because none of these transactions was still running (`pg_snapshot_xmin`).

If a dump is restored on another server, transaction ids start anew; the column `system` shows which server
wrote a seal. The first seal on the new server searches all events. Restored events can have transaction ids
above `up_to`, so the search for a later seal finds them again. It leaves them out, because the first seal
contains them.
"""

from datetime import UTC, datetime
from typing import Any

ACTIONS = "'clear_cache', 'warm_cache', 'close_session', 'expire_quests'"
CHANGES = "'insert', 'update', 'delete'"
MONTHS_AHEAD = 2
MONTHS_BACK = 36
# The key of an advisory lock: an arbitrary constant ("seal" in ASCII).
SEAL_LOCK = 0x7365616C
# Maximum number of events in a seal. A seal has 48 bytes per event, so it has at most a few hundred
# kilobytes.
SEALED_AT_ONCE = 5_000

TABLE = f"""
    CREATE TABLE audit_events (
        id uuid NOT NULL DEFAULT gen_random_uuid(),
        created_at timestamp with time zone NOT NULL DEFAULT now(),
        actor varchar(320) NOT NULL,
        action varchar(50) NOT NULL,
        target varchar(200) NOT NULL,
        row_key uuid,
        before jsonb,
        after jsonb,
        outcome varchar(20) NOT NULL DEFAULT 'done',
        detail text,
        request_id varchar(200),
        start_id uuid,
        transaction_id bigint NOT NULL DEFAULT (pg_current_xact_id()::text)::bigint,
        PRIMARY KEY (created_at, id),
        CONSTRAINT audit_events_action CHECK (action IN ({ACTIONS}, 'sign_in', 'sign_out', {CHANGES})),
        CONSTRAINT audit_events_outcome CHECK (outcome IN ('started', 'done', 'failed', 'refused')),
        CONSTRAINT audit_events_row_key CHECK ((row_key IS NOT NULL) = (action IN ({CHANGES})))
    ) PARTITION BY RANGE (created_at)"""
INDEXES = (
    """CREATE INDEX audit_events_actions ON audit_events (created_at DESC, id DESC)
       WHERE row_key IS NULL AND start_id IS NULL""",
    """CREATE INDEX audit_events_row ON audit_events (row_key, created_at DESC, id DESC)
       WHERE row_key IS NOT NULL""",
    "CREATE INDEX audit_events_start ON audit_events (start_id) WHERE start_id IS NOT NULL",
    "CREATE INDEX audit_events_transaction ON audit_events (transaction_id)",
)
SEALS = (
    """CREATE TABLE audit_seals (
        number bigint NOT NULL PRIMARY KEY,
        sealed_at timestamp with time zone NOT NULL,
        partition text NOT NULL,
        first_at timestamp with time zone NOT NULL,
        last_at timestamp with time zone NOT NULL,
        events integer NOT NULL,
        up_to bigint NOT NULL,
        system bigint NOT NULL,
        manifest bytea NOT NULL,
        previous_hash bytea NOT NULL,
        hash bytea NOT NULL
    )""",
    # EXTERNAL stores a value uncompressed: digests cannot be compressed, and a part of the value can be read
    # alone
    "ALTER TABLE audit_seals ALTER COLUMN manifest SET STORAGE EXTERNAL",
    "CREATE INDEX audit_seals_range ON audit_seals USING gist (tstzrange(first_at, last_at, '[]'))",
)

# -- append-only ---------------------------------------------------------------------------

REFUSE = """
    CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
    BEGIN
        RAISE EXCEPTION '% of % is refused: the audit log is append-only', TG_OP, TG_TABLE_NAME
            USING ERRCODE = 'insufficient_privilege', HINT = 'only dropping a month removes events';
    END $$"""
REFUSED = "EXECUTE FUNCTION audit_refuse()"
KEEP = tuple(
    f"CREATE TRIGGER {table}_kept BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW {REFUSED};"
    f" CREATE TRIGGER {table}_not_truncated BEFORE TRUNCATE ON {table} FOR EACH STATEMENT {REFUSED}"
    for table in ("audit_events", "audit_seals")
)

# -- changes of rows -----------------------------------------------------------------------

# For each audited table, the columns whose changes are not recorded, because no person makes these changes.
AUDITED = {
    "users": "last_active,updated_at",
    "portfolios": "updated_at",
    "quests": "",
    "leaderboard_entries": "rank",
}
# Replaces the e-mail address in the JSON document of a row: the result shows only whether the row has one.
HIDE = """
    CREATE FUNCTION audit_hide(document jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE
    RETURN CASE WHEN document ->> 'email' IS NULL THEN document - 'email_index'
                ELSE document - 'email_index' || '{"email": "hidden"}' END"""
_INTO = """INSERT INTO audit_events (created_at, actor, action, target, row_key, before, after, request_id)
            SELECT clock_timestamp(), current_setting('app.actor'), lower(TG_OP), TG_TABLE_NAME"""
_REQUEST = "nullif(current_setting('app.request_id', true), '')"
# The settings force a hash join. A plan is cached for the life of the connection, and may be made for one row
# or for a caller that has disabled hash joins. A nested loop would compare all pairs in a batch of 10,000
# rows. OFFSET 0 keeps the planner from converting a row to jsonb again for every column.
RECORD = f"""
    CREATE FUNCTION audit_record() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path FROM CURRENT SET timezone = 'UTC' SET enable_hashjoin = on SET enable_nestloop = off AS $$
    DECLARE
        ignored text[] := string_to_array(TG_ARGV[0], ',');
    BEGIN
        IF TG_OP = 'INSERT' THEN
            {_INTO}, id, NULL, audit_hide(to_jsonb(n) - ignored), {_REQUEST} FROM new_rows n;
        ELSIF TG_OP = 'DELETE' THEN
            {_INTO}, id, audit_hide(to_jsonb(o) - ignored), NULL, {_REQUEST} FROM old_rows o;
        ELSE
            {_INTO}, id, audit_hide(changed.was), audit_hide(changed.became), {_REQUEST}
            FROM (
                SELECT id, to_jsonb(o) AS was, to_jsonb(n) - ignored AS became
                FROM old_rows o JOIN new_rows n USING (id) OFFSET 0
            ) AS pair
            CROSS JOIN LATERAL (
                SELECT jsonb_object_agg(key, pair.was -> key) AS was, jsonb_object_agg(key, value) AS became
                FROM jsonb_each(pair.became) WHERE pair.was -> key IS DISTINCT FROM value
            ) AS changed
            WHERE changed.became IS NOT NULL;
        END IF;
        RETURN NULL;
    END $$"""
ROWS = {
    "inserted": "INSERT ON {table} REFERENCING NEW TABLE AS new_rows",
    "updated": "UPDATE ON {table} REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows",
    "deleted": "DELETE ON {table} REFERENCING OLD TABLE AS old_rows",
}
TRIGGERS = tuple(
    f"""CREATE TRIGGER {table}_audit_{name} AFTER {event.format(table=table)}
        FOR EACH STATEMENT WHEN (current_setting('app.actor', true) <> '')
        EXECUTE FUNCTION audit_record('{ignored}')"""
    for table, ignored in AUDITED.items()
    for name, event in ROWS.items()
)

# -- seals ---------------------------------------------------------------------------------

# `core.queries.audit_seals` has the same two expressions, because it does not trust the functions here.
DIGEST = """sha256(convert_to(jsonb_build_array(
        id, EXTRACT(epoch FROM created_at), actor, action, target, row_key, before, after, outcome, detail,
        request_id, start_id, transaction_id)::text, 'UTF8'))"""
HASH = """sha256(convert_to(jsonb_build_array(
        {0}number, EXTRACT(epoch FROM {0}sealed_at), {0}partition, EXTRACT(epoch FROM {0}first_at),
        EXTRACT(epoch FROM {0}last_at), {0}events, {0}up_to, {0}system)::text, 'UTF8')
        || {0}previous_hash || {0}manifest)"""
# Events are new when no seal lists them. Only seals whose time range contains the event's time are searched.
SEAL = f"""
    CREATE FUNCTION audit_seal() RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER
    SET search_path FROM CURRENT AS $$
    DECLARE
        newest audit_seals;
        batch record;
        here bigint := 0;
        horizon bigint;
        since bigint := 0;
        below bigint := 9223372036854775807;
        sealed bigint := 0;
    BEGIN
        IF current_setting('transaction_isolation') <> 'read committed' THEN
            RAISE EXCEPTION 'the audit log is sealed at %; seal at read committed',
                current_setting('transaction_isolation') USING ERRCODE = 'feature_not_supported';
        END IF;
        PERFORM pg_advisory_xact_lock({SEAL_LOCK});
        -- each statement has its own snapshot: what has ended before this statement is visible to the next
        SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint INTO horizon;
        SELECT * INTO newest FROM audit_seals ORDER BY number DESC LIMIT 1;
        IF has_function_privilege('pg_control_system()', 'EXECUTE') THEN
            SELECT system_identifier INTO here FROM pg_control_system();
        END IF;
        IF newest.number IS NOT NULL AND newest.system = here THEN
            since := newest.up_to;
            SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint INTO below;
        END IF;
        FOR batch IN
            WITH found AS (
                SELECT id, created_at, tableoid::regclass::text AS partition, {DIGEST} AS digest
                FROM audit_events e
                WHERE transaction_id >= since AND transaction_id < below
                  AND NOT EXISTS (
                      SELECT FROM audit_seals s
                      WHERE tstzrange(s.first_at, s.last_at, '[]') @> e.created_at
                        AND position(uuid_send(e.id) IN s.manifest) > 0)
            ), numbered AS (
                SELECT *, (row_number() OVER (PARTITION BY partition ORDER BY created_at, id) - 1)
                          / {SEALED_AT_ONCE} AS part
                FROM found
            )
            SELECT partition, min(created_at) AS first_at, max(created_at) AS last_at, count(*) AS events,
                   string_agg(uuid_send(id) || digest, ''::bytea ORDER BY created_at, id) AS manifest
            FROM numbered GROUP BY partition, part ORDER BY partition, part
        LOOP
            newest := (COALESCE(newest.number, 0) + 1, clock_timestamp(), batch.partition, batch.first_at,
                       batch.last_at, batch.events, horizon, here, batch.manifest,
                       COALESCE(newest.hash, ''), '');
            newest.hash := {HASH.format("newest.")};
            INSERT INTO audit_seals SELECT newest.*;
            sealed := sealed + batch.events;
        END LOOP;
        RETURN sealed;
    END $$"""

# -- months --------------------------------------------------------------------------------

# Creates no partition for a month of which the default partition already has events. All events of this month
# then stay in the default partition.
CREATE_MONTH = """
    CREATE FUNCTION audit_create_month(month timestamp with time zone) RETURNS text LANGUAGE plpgsql
    SET search_path FROM CURRENT AS $$
    DECLARE
        name text := 'audit_events_' || to_char(month AT TIME ZONE 'UTC', 'YYYY_MM');
        month_after timestamp with time zone := (month AT TIME ZONE 'UTC' + interval '1 month')
                                                AT TIME ZONE 'UTC';
    BEGIN
        IF to_regclass(name) IS NOT NULL OR EXISTS (
            SELECT FROM audit_events_default WHERE created_at >= month AND created_at < month_after
        ) THEN
            RETURN NULL;
        END IF;
        EXECUTE format('CREATE TABLE %I PARTITION OF audit_events FOR VALUES FROM (%L) TO (%L)',
                       name, month, month_after);
        EXECUTE format('CREATE TRIGGER audit_events_not_truncated BEFORE TRUNCATE ON %I'
                       ' FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse()', name);
        RETURN name;
    END $$"""
# Runs with the rights of its owner. Still, the application cannot drop the current month or unsealed events
# with it.
MAINTAIN = f"""
    CREATE FUNCTION audit_maintain(months_ahead integer, keep_months integer,
                                   OUT created text[], OUT dropped text[])
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    DECLARE
        present timestamp with time zone := date_trunc('month', now(), 'UTC');
        name text;
        step integer;
        begun boolean := false;
    BEGIN
        IF months_ahead IS NULL OR months_ahead NOT BETWEEN 0 AND 24 OR keep_months < 1 THEN
            RAISE EXCEPTION 'months_ahead is % and keep_months is %; give 0 to 24, and at least 1 or NULL',
                months_ahead, keep_months USING ERRCODE = 'invalid_parameter_value';
        END IF;
        -- without this lock, two calls at the same time would create the same month
        PERFORM pg_advisory_xact_lock({SEAL_LOCK});
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
            EXECUTE format('DROP TABLE %I', name);
            dropped := dropped || name;
        END LOOP;
    END $$"""
CALLED_BY_THE_APPLICATION = ("audit_seal()", "audit_maintain(integer, integer)")
FUNCTIONS = (
    "audit_maintain(integer, integer)",
    "audit_create_month(timestamp with time zone)",
    "audit_seal()",
    "audit_record()",
    "audit_hide(jsonb)",
    "audit_refuse()",
)

# -- events of the earlier table -------------------------------------------------------------

_SAME = "actor, action, target"
SET_ASIDE = "CREATE TABLE audit_before AS SELECT * FROM audit_events"
TAKE_OVER = (
    f"""INSERT INTO audit_events (id, created_at, {_SAME}, outcome)
        SELECT id, created_at, {_SAME}, 'started' FROM audit_before""",
    f"""INSERT INTO audit_events (created_at, {_SAME}, outcome, detail, start_id)
        SELECT COALESCE(finished_at, created_at), {_SAME}, outcome, detail, id FROM audit_before
        WHERE outcome <> 'started'""",
    "DROP TABLE audit_before",
)
"""Each action in the earlier table becomes two events: its start and, if known, its outcome."""
OLD_TABLE = (
    f"""CREATE TABLE audit_events (
        id uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY,
        actor varchar(320) NOT NULL,
        action varchar(50) NOT NULL,
        target varchar(200) NOT NULL,
        outcome varchar(20) NOT NULL DEFAULT 'started',
        detail text,
        created_at timestamp with time zone NOT NULL DEFAULT now(),
        finished_at timestamp with time zone,
        CONSTRAINT audit_events_action CHECK (action IN ({ACTIONS})),
        CONSTRAINT audit_events_outcome CHECK (outcome IN ('started', 'done', 'failed'))
    )""",
    "CREATE INDEX audit_events_recent ON audit_events (created_at DESC, id DESC)",
    f"""INSERT INTO audit_events (id, {_SAME}, outcome, detail, created_at, finished_at)
        SELECT DISTINCT ON (b.created_at, b.id) b.id, b.actor, b.action, b.target,
               COALESCE(e.outcome, 'started'), e.detail, b.created_at, e.created_at
        FROM audit_before b LEFT JOIN audit_before e ON e.start_id = b.id
        WHERE b.outcome = 'started' AND b.action IN ({ACTIONS})
        ORDER BY b.created_at, b.id, e.created_at""",
    "DROP TABLE audit_before",
)


def up(_migrator: Any, db: Any) -> None:
    """Create the audit log, and convert the existing events."""
    [(first,)] = db.execute_sql("SELECT min(created_at) FROM audit_events").fetchall()
    for statement in (SET_ASIDE, "DROP TABLE audit_events", TABLE, *INDEXES, *SEALS, REFUSE, *KEEP):
        run(db, statement)
    run(db, "CREATE TABLE audit_events_default PARTITION OF audit_events DEFAULT")
    run(
        db,
        "CREATE TRIGGER audit_events_not_truncated BEFORE TRUNCATE ON audit_events_default"
        f" FOR EACH STATEMENT {REFUSED}",
    )
    for statement in (HIDE, RECORD, SEAL, CREATE_MONTH, MAINTAIN, *TRIGGERS):
        run(db, statement)
    for function in CALLED_BY_THE_APPLICATION:
        run(db, f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC")
    for month in list_months(first, datetime.now(UTC)):
        run(db, f"SELECT audit_create_month('{month}')")
    for statement in TAKE_OVER:
        run(db, statement)


def down(_migrator: Any, db: Any) -> None:
    """Restore the earlier table with the actions of operators; drop everything else."""
    for table in AUDITED:
        for name in ROWS:
            run(db, f"DROP TRIGGER {table}_audit_{name} ON {table}")
    for statement in (SET_ASIDE, "DROP TABLE audit_events, audit_seals"):
        run(db, statement)
    for function in FUNCTIONS:
        run(db, f"DROP FUNCTION {function}")
    for statement in OLD_TABLE:
        run(db, statement)


def list_months(first: datetime | None, now: datetime) -> list[str]:
    """Return the start of each month from the month of the first event to MONTHS_AHEAD months from now.

    The first month is at most MONTHS_BACK months ago.
    """
    month = now.year * 12 + now.month - 1
    oldest = month if first is None else min(month, first.year * 12 + first.month - 1)
    months = range(max(oldest, month - MONTHS_BACK), month + MONTHS_AHEAD + 1)
    return [f"{each // 12:04}-{each % 12 + 1:02}-01 00:00:00+00" for each in months]


def run(db: Any, statement: str) -> None:
    """Run a statement without parameters."""
    db.execute_sql(statement.replace("%", "%%"))
