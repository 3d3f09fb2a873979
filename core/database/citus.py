"""Distributes the tables of a migrated database over the nodes of a Citus cluster.

Owns the distribution column of each table, and every difference from a database without Citus: primary keys,
foreign keys, triggers and functions. `docs/citus.md` describes the differences for callers of the service.

Every frequent statement names a value of the distribution column, so one shard answers it. Rows that belong
together are in co-located shards, which Citus keeps on one node: a user with their portfolios, positions,
trades and quests; the leaderboards of a session with their counters; and a symbol with its ticks. Foreign
keys and triggers therefore never need a row of another node.

In a database without Citus `usernames` is a view. With Citus it is a reference table: every node has a copy.
Leaderboards join it, and its index keeps usernames unique.
"""

import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from core.database.session_settings import IS_DISTRIBUTED

Execute = Callable[..., Any]


TOPOLOGY: Final = "citus"
"""The value of DATABASE_TOPOLOGY with which the tables are distributed."""


class Distribution(NamedTuple):
    """How a table is distributed: by the values of `column`.

    Its shards are co-located with those of the table `colocate_with`.
    """

    column: str
    colocate_with: str = "none"


DISTRIBUTED: Final = {
    "users": Distribution("id"),
    "portfolios": Distribution("user_id", "users"),
    "positions": Distribution("user_id", "users"),
    "trades": Distribution("user_id", "users"),
    "quests": Distribution("user_id", "users"),
    "leaderboard_entries": Distribution("session_date"),
    "leaderboard_counters": Distribution("session_date", "leaderboard_entries"),
    "symbols": Distribution("symbol"),
    "ticks": Distribution("symbol", "symbols"),
}
ON_EVERY_NODE: Final = ("usernames", "market_events")

# -- the database -------------------------------------------------------------------------

HAS_CITUS = "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')"
ALLOWS_TRIGGERS = "SELECT current_setting('citus.enable_unsafe_triggers', true) = 'on'"
# With this setting a statement changes its shards one after the other. If it changed them in parallel, Citus
# would refuse to change a username later in the same transaction: `usernames` is a reference table, to which
# foreign keys of all shards refer. A session then also needs only one connection to each worker.
ONE_BY_ONE = "citus.multi_shard_modify_mode = 'sequential'"
SET_FOR_SESSIONS = f"""
    DO $$ BEGIN
        EXECUTE format('ALTER DATABASE %I SET {ONE_BY_ONE.replace("'", "''")}', current_database());
    END $$"""

# -- tables -------------------------------------------------------------------------------

USERNAMES = (
    "ALTER VIEW usernames RENAME TO usernames_view",
    "CREATE TABLE usernames (id uuid NOT NULL PRIMARY KEY, username text NOT NULL)",
    "INSERT INTO usernames SELECT id, username FROM users",
    "CREATE UNIQUE INDEX usernames_username ON usernames (username)",
    "CREATE INDEX usernames_prefix ON usernames (lower(username) text_pattern_ops)",
    "DROP VIEW usernames_view",
    "DROP INDEX users_username",
    "CREATE INDEX users_username ON users (username)",
)
# New primary keys: Citus requires the distribution column in each unique key of a distributed table.
KEYS: Final = {
    "portfolios": "id, user_id",
    "quests": "id, user_id",
    "trades": "id, user_id",
    "leaderboard_entries": "id, session_date",
}
# Lists the foreign keys. They are dropped before the tables are distributed, and created again afterwards.
LIST_REFERENCES = """
    SELECT conrelid::regclass::text, quote_ident(conname), pg_get_constraintdef(oid) FROM pg_constraint
    WHERE contype = 'f' AND conparentid = 0
      AND conrelid IN (SELECT oid FROM pg_class WHERE relname = ANY(%s)
                       AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema()))"""
# Lists the audit triggers, which are dropped. They would run on the workers, but the audit log is a table of
# the coordinator.
LIST_AUDIT_TRIGGERS = """
    SELECT quote_ident(tgname), tgrelid::regclass::text FROM pg_trigger
    WHERE tgfoid = 'audit_record()'::regprocedure"""

# Drops the triggers that count quests, and the table of their counters: a trigger on a shard of `quests`
# would have to change counters on another node.
COUNTED_QUESTS: Final = (
    "DROP TRIGGER quests_inserted ON quests",
    "DROP TRIGGER quests_updated ON quests",
    "DROP TRIGGER quests_deleted ON quests",
    "DROP TRIGGER quests_truncated ON quests",
    "DROP TABLE quest_counters",
)
# Replaces the dropped table: a view that counts the quests on each node when a report reads it.
QUEST_COUNTERS = """
    CREATE VIEW quest_counters AS
    SELECT (CASE WHEN status = 'COMPLETED' THEN completed_at ELSE expires_at - interval '1 microsecond' END
            AT TIME ZONE 'UTC')::date AS ended_on, type, reward_type, status, count(*) AS quests,
           count(*) FILTER (WHERE status = 'COMPLETED' OR current_progress > 0) AS started,
           count(*) FILTER (WHERE status = 'COMPLETED' OR current_progress * 2 >= target_value) AS halfway,
           COALESCE(sum(reward_value), 0) AS rewards
    FROM quests GROUP BY 1, 2, 3, 4"""

# -- functions ----------------------------------------------------------------------------

# A trigger on a shard sees its changed rows as a transition table. Citus cannot join a transition table with
# a distributed table, so a statement of the trigger contains the name of one shard of `sibling`, the table to
# which it writes. This function returns the name of the shard that is co-located with the trigger's `shard`:
# both have the same hash range.
SHARD_BESIDE = """
    CREATE FUNCTION shard_beside(sibling regclass, shard name) RETURNS text LANGUAGE sql STABLE AS $$
        SELECT pg_catalog.shard_name(sibling, other.shardid) FROM pg_catalog.pg_dist_shard mine
        JOIN pg_catalog.pg_dist_shard other ON other.shardminvalue = mine.shardminvalue
        WHERE mine.shardid = substring(shard FROM '[0-9]+$')::bigint AND other.logicalrelid = sibling
    $$"""
# Citus cannot run a recursive statement or a lateral join over several shards. The next three functions
# replace such statements. They run on the coordinator. The first two query the shard of each symbol in
# `wanted`. The third queries all shards once for each date.
WALK = """
    CREATE FUNCTION distributed_walk(
        wanted text[], beyond timestamp with time zone, step interval, points integer
    ) RETURNS TABLE (symbol text, "timestamp" timestamp with time zone, price numeric, place integer)
    LANGUAGE plpgsql STABLE AS $$
    #variable_conflict use_column
    DECLARE
        one text;
    BEGIN
        IF wanted IS NULL THEN
            SELECT array_agg(symbol) INTO wanted FROM symbols;
        END IF;
        FOREACH one IN ARRAY COALESCE(wanted, '{}') LOOP
            RETURN QUERY WITH RECURSIVE walk AS (
                (SELECT symbol, timestamp, price, 1 AS place FROM ticks
                 WHERE symbol = one AND timestamp < beyond ORDER BY timestamp DESC LIMIT 1)
                UNION ALL
                SELECT w.symbol, t.timestamp, t.price, w.place + 1 FROM walk w
                CROSS JOIN LATERAL (
                    SELECT timestamp, price FROM ticks
                    WHERE symbol = one AND timestamp < beyond
                      AND timestamp < date_bin(step, w.timestamp, '1999-12-27T00:00:00Z')
                    ORDER BY timestamp DESC LIMIT 1
                ) AS t
                WHERE w.place < points
            ) SELECT * FROM walk;
        END LOOP;
    END $$"""
PRICE_AT = """
    CREATE FUNCTION distributed_price_at(
        wanted text, moment timestamp with time zone, beyond timestamp with time zone
    ) RETURNS numeric LANGUAGE plpgsql STABLE AS $$
    BEGIN
        RETURN (SELECT price FROM ticks WHERE symbol = wanted AND timestamp <= moment AND timestamp < beyond
                ORDER BY timestamp DESC LIMIT 1);
    END $$"""
DATES = """
    CREATE FUNCTION distributed_dates(source regclass, before date, most bigint, board text DEFAULT NULL)
    RETURNS SETOF date LANGUAGE plpgsql STABLE AS $$
    DECLARE
        day date := before;
    BEGIN
        FOR place IN 1 .. most LOOP
            EXECUTE format('SELECT max(session_date) FROM %s WHERE session_date < $1', source)
                    || CASE WHEN board IS NULL THEN '' ELSE ' AND category = $2' END
            INTO day USING day, board;
            EXIT WHEN day IS NULL;
            RETURN NEXT day;
        END LOOP;
    END $$"""
# Trigger function -> the table to which it writes, which is not the table of the trigger.
WRITTEN_TABLES: Final = {"leaderboard_count()": "leaderboard_counters", "ticks_note_symbols()": "symbols"}
# Functions that the triggers call. They must be created on the workers. The trigger functions themselves are
# created there by Citus, together with the tables.
CALLED_BY_TRIGGERS: Final = (
    "shard_beside(regclass, name)",
    "leaderboard_lock_slot(date, varchar)",
    "leaderboard_bucket_size(date, varchar)",
    "leaderboard_fold(date, varchar, bigint)",
)
# Functions that find an entry by its id alone, and read usernames from `users`. `_change_functions` adds the
# date to the search, because an id does not determine a shard, and replaces `users` by `usernames`.
LOOK_UPS: Final = (
    "leaderboard_rank(uuid, date, varchar)",
    "leaderboard_set_score(uuid, uuid, date, varchar, numeric, jsonb)",
)
# Functions that reuse a cached plan in a database without Citus. With Citus each call must be planned:
# Citus chooses the shard when it plans a statement.
PLANNED_ONCE: Final = (*LOOK_UPS, "leaderboard_bucket_size(date, varchar)", "users_search(text, bigint)")


def is_distributed(execute_sql: Execute) -> bool:
    """Return whether the tables of the current schema are distributed."""
    return bool(execute_sql(f"SELECT {IS_DISTRIBUTED}").fetchone()[0])


def check_topology(execute_sql: Execute, topology: str) -> None:
    """Raise `RuntimeError` if the tables are distributed but `topology` is not `citus`.

    `topology` is DATABASE_TOPOLOGY. `migrate down` passes `plain`, because migrations of distributed tables
    cannot be reverted.
    """
    if topology != TOPOLOGY and is_distributed(execute_sql):
        raise RuntimeError(
            "the tables are distributed over a Citus cluster; apply migrations with DATABASE_TOPOLOGY=citus,"
            " and revert them in a plain database that has the rows"
        )


def begin_migration(execute_sql: Execute, *, has_roles: bool) -> None:
    """Check that the tables can be distributed, and set Citus up for this transaction.

    Until the tables are distributed, schema changes stay on the coordinator. `has_roles` says whether the
    schema belongs to the owner role. Raises `RuntimeError` if the tables cannot be distributed.
    """
    if has_roles:
        raise RuntimeError(
            "the schema belongs to a role of `echo-markets roles`, and tables with such roles are not"
            " distributed; migrate a schema that the role of DATABASE_URL owns"
        )
    [(has_citus,)] = execute_sql(HAS_CITUS).fetchall()
    if not has_citus:
        raise RuntimeError(
            "DATABASE_TOPOLOGY is citus, but the database has no extension citus; create it on every node and"
            " add the workers with citus_add_node, or leave DATABASE_TOPOLOGY at plain"
        )
    [(allows_triggers,)] = execute_sql(ALLOWS_TRIGGERS).fetchall()
    if not allows_triggers:
        raise RuntimeError(
            "citus.enable_unsafe_triggers is off, and triggers count the entries of leaderboards on their"
            " shards; set it to on in postgresql.conf of every node"
        )
    execute_sql(f"SET LOCAL {ONE_BY_ONE}")
    if not is_distributed(execute_sql):
        execute_sql("SET LOCAL citus.enable_ddl_propagation = off")


def distribute(execute_sql: Execute) -> None:
    """Distribute the tables of a migrated database. Does nothing if they are already distributed."""
    if is_distributed(execute_sql):
        return
    references = execute_sql(LIST_REFERENCES, (list(DISTRIBUTED),)).fetchall()
    for table, name, _ in references:
        execute_sql(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    _change_tables(execute_sql)
    _change_functions(execute_sql)
    execute_sql("SET LOCAL citus.enable_ddl_propagation = on")
    for function in CALLED_BY_TRIGGERS:
        execute_sql("SELECT create_distributed_function(%s)", (function,))
    for table in ON_EVERY_NODE:
        execute_sql("SELECT create_reference_table(%s)", (table,))
    for table, (column, colocate_with) in DISTRIBUTED.items():
        execute_sql(
            "SELECT create_distributed_table(%s, %s, colocate_with => %s)", (table, column, colocate_with)
        )
    for table, name, reference in references:
        execute_sql(f"ALTER TABLE {table} ADD CONSTRAINT {name} {_refer_to_node(table, reference)}")
    execute_sql("ALTER TABLE users ADD CONSTRAINT users_named FOREIGN KEY (id) REFERENCES usernames (id)")
    execute_sql(QUEST_COUNTERS)
    execute_sql(SET_FOR_SESSIONS.replace("%", "%%"))


def _refer_to_node(table: str, reference: str) -> str:
    """Return `reference`, the definition of a foreign key, changed if it would refer to rows of another node.

    A table that is distributed by session must refer to the reference table `usernames`, not to `users`.
    """
    if DISTRIBUTED[table].column != "session_date":
        return reference
    return reference.replace("REFERENCES users(", "REFERENCES usernames(")


def _change_tables(execute_sql: Execute) -> None:
    for trigger, table in execute_sql(LIST_AUDIT_TRIGGERS).fetchall():
        execute_sql(f"DROP TRIGGER {trigger} ON {table}")
    for table, columns in KEYS.items():
        execute_sql(f"ALTER TABLE {table} DROP CONSTRAINT {table}_pkey, ADD PRIMARY KEY ({columns})")
    for statement in (*COUNTED_QUESTS, *USERNAMES):
        execute_sql(statement)


def _change_functions(execute_sql: Execute) -> None:
    for function in (SHARD_BESIDE, WALK, PRICE_AT, DATES):
        execute_sql(function.replace("%", "%%"))
    for function, table in WRITTEN_TABLES.items():
        _replace(
            execute_sql, function, rf"(?:INSERT INTO|DELETE FROM) {table}\b[^;]*", _run_on_shard_of(table)
        )
    for function in LOOK_UPS:
        _replace(execute_sql, function, r"WHERE (e\.)?id = place", r"\g<0> AND \1session_date = day")
        _replace(execute_sql, function, r"JOIN users\b", "JOIN usernames")
    _replace(execute_sql, LOOK_UPS[1], r"FROM users WHERE users\.", "FROM usernames u WHERE u.")
    for function in PLANNED_ONCE:
        execute_sql(f"ALTER FUNCTION {function} RESET plan_cache_mode")


def _run_on_shard_of(table: str) -> str:
    """Return a replacement for `re.sub`: PL/pgSQL code that runs the matched statement on a shard of `table`.

    The code finds the shard of `table` that is co-located with the shard of the trigger.
    """
    shard = f"shard_beside('{table}', TG_TABLE_NAME)"
    return rf"EXECUTE replace($statement$\g<0>$statement$, '{table}', {shard})"


def _replace(execute_sql: Execute, function: str, pattern: str, replacement: str) -> None:
    """Replace what matches `pattern` in a function's source. Raises `RuntimeError` if nothing matches."""
    [(source,)] = execute_sql("SELECT pg_get_functiondef(%s::regprocedure)", (function,)).fetchall()
    changed, count = re.subn(pattern, replacement, source)
    if not count:
        raise RuntimeError(f"the function {function} has no {pattern}, which core/database/citus.py replaces")
    execute_sql(changed.replace("%", "%%"))
