"""Count quests by the day on which they end, so that reports on all quests need not read `quests`.

`quest_counters` has groups of quests with the same day, type, type of reward and status. For each group it
has the number of quests, the number of started quests, the number of quests that reached half of the target,
and the sum of rewards. A group can have several rows, and its values are the sums over these rows.

Triggers on `quests` only insert rows, with the difference that a statement made. So writers do not wait for
each other and cannot deadlock. Sometimes a writer replaces the rows of each group by their sum, in
`quest_fold`. Every deletion of quests does this too: deletions are rare, and counts of deleted quests must
not remain.

The functions run with the owner's rights, because a player may update a quest but not the counters.
"""

from typing import Any

# The probability that a statement calls `quest_fold`. A report reads one row per group, and all rows that
# were inserted since the last call.
FOLD_CHANCE = 0.002
FOLDERS = 0x71666F6C  # the key of an advisory lock ("qfol" in ASCII)

TABLE = """
    CREATE TABLE quest_counters (
        ended_on date,
        type varchar(50) NOT NULL,
        reward_type varchar(50),
        status varchar(20) NOT NULL,
        quests bigint NOT NULL,
        started bigint NOT NULL,
        halfway bigint NOT NULL,
        rewards numeric NOT NULL
    )"""
# A completed quest ends at its completion, any other quest in the last microsecond before it expires.
_SUMS = """
    SELECT (CASE WHEN status = 'COMPLETED' THEN completed_at ELSE expires_at - interval '1 microsecond' END
            AT TIME ZONE 'UTC')::date, type, reward_type, status, sum(sign),
           COALESCE(sum(sign) FILTER (WHERE status = 'COMPLETED' OR current_progress > 0), 0),
           COALESCE(sum(sign) FILTER (WHERE status = 'COMPLETED' OR current_progress * 2 >= target_value), 0),
           COALESCE(sum(sign * reward_value), 0)
    FROM ({rows}) AS changes GROUP BY 1, 2, 3, 4"""
_ADD = f"""
    INSERT INTO quest_counters (ended_on, type, reward_type, status, quests, started, halfway, rewards)
    SELECT * FROM ({_SUMS}) AS added (ended_on, type, reward_type, status, quests, started, halfway, rewards)
    WHERE (quests, started, halfway, rewards) <> (0, 0, 0, 0)"""
_ADDED = "SELECT 1 AS sign, * FROM new_rows"
_REMOVED = "SELECT -1 AS sign, * FROM old_rows"
BACKFILL = _ADD.format(rows="SELECT 1 AS sign, * FROM quests")
_AS_OWNER = "SECURITY DEFINER SET search_path FROM CURRENT"
# Runs only at read committed, because an older snapshot would not have the rows of other transactions. Only
# one transaction runs it at a time.
FOLD = f"""
    CREATE FUNCTION quest_fold() RETURNS void LANGUAGE plpgsql {_AS_OWNER} AS $$
    BEGIN
        IF current_setting('transaction_isolation') <> 'read committed'
           OR NOT pg_try_advisory_xact_lock({FOLDERS}) THEN
            RETURN;
        END IF;
        WITH folded AS (
            DELETE FROM quest_counters WHERE ctid = ANY (ARRAY(
                SELECT ctid FROM (
                    SELECT ctid, count(*) OVER (PARTITION BY ended_on, type, reward_type, status) AS rows
                    FROM quest_counters
                ) AS grouped WHERE rows > 1))
            RETURNING *
        )
        INSERT INTO quest_counters (ended_on, type, reward_type, status, quests, started, halfway, rewards)
        SELECT ended_on, type, reward_type, status, sum(quests), sum(started), sum(halfway), sum(rewards)
        FROM folded GROUP BY 1, 2, 3, 4
        HAVING (sum(quests), sum(started), sum(halfway), sum(rewards)) <> (0, 0, 0, 0);
    END $$"""
COUNT = f"""
    CREATE FUNCTION quest_count() RETURNS trigger LANGUAGE plpgsql {_AS_OWNER} AS $$
    BEGIN
        IF TG_OP = 'TRUNCATE' THEN
            DELETE FROM quest_counters;
        ELSIF TG_OP = 'INSERT' THEN
            {_ADD.format(rows=_ADDED)};
        ELSIF TG_OP = 'DELETE' THEN
            {_ADD.format(rows=_REMOVED)};
        ELSE
            {_ADD.format(rows=f"{_REMOVED} UNION ALL {_ADDED}")};
        END IF;
        IF TG_OP = 'DELETE' OR random() < {FOLD_CHANCE} THEN
            PERFORM quest_fold();
        END IF;
        RETURN NULL;
    END $$"""
COUNTING = {
    "quests_inserted": "INSERT ON quests REFERENCING NEW TABLE AS new_rows",
    "quests_updated": "UPDATE ON quests REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows",
    "quests_deleted": "DELETE ON quests REFERENCING OLD TABLE AS old_rows",
    "quests_truncated": "TRUNCATE ON quests",
}


def up(_migrator: Any, db: Any) -> None:
    """Count the existing quests, and create triggers that count every change."""
    # no transaction may write between the backfill and the creation of the triggers
    db.execute_sql("LOCK TABLE quests IN SHARE ROW EXCLUSIVE MODE")
    for statement in (TABLE, BACKFILL, FOLD, COUNT):
        db.execute_sql(statement)
    for name, event in COUNTING.items():
        db.execute_sql(
            f"CREATE TRIGGER {name} AFTER {event} FOR EACH STATEMENT EXECUTE FUNCTION quest_count()"
        )
    for function in ("quest_count()", "quest_fold()"):
        db.execute_sql(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
    db.execute_sql("ANALYZE quest_counters")


def down(_migrator: Any, db: Any) -> None:
    """Drop counters, triggers and functions; the quests stay."""
    for name in COUNTING:
        db.execute_sql(f"DROP TRIGGER {name} ON quests")
    db.execute_sql("DROP TABLE quest_counters")
    for function in ("quest_count", "quest_fold"):
        db.execute_sql(f"DROP FUNCTION {function}")
