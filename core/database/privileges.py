"""The privileges of each role on tables and functions, and the hand-over of a database to the owner role.

Owns the list of all privileges. `migrate up` applies the list at its end. Afterwards each role has exactly
the privileges in the list. The list is applied only to a schema that belongs to the owner role: in any other
schema a single role is used for everything.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from psycopg2 import extensions, sql

from core.database.roles import APP, MONITOR, OWNER, PLAYER, ROLES, SEALER, administer, may_become
from core.database.row_security import create_policies
from core.errors import DatabaseError

Execute = Callable[..., Any]

_ROWS: Final = {APP: "SELECT, INSERT, UPDATE, DELETE"}
# The player role may read these tables. In the tables of `core.database.row_security` it sees only the rows
# of one player.
_SEEN_BY_PLAYERS: Final = {**_ROWS, PLAYER: "SELECT"}
# The columns that the application may write. The other columns describe a changed row and its transaction;
# only triggers fill them.
_AUDIT_COLUMNS: Final = "id, created_at, actor, action, target, outcome, detail, request_id, start_id"

# Table or view -> role -> privileges in the syntax of GRANT, with columns in parentheses. Partitions need no
# privileges: a role uses them through their table.
TABLES: Final[Mapping[str, Mapping[str, str]]] = {
    "users": {
        **_ROWS,
        PLAYER: "SELECT, UPDATE (username, name, email, email_index, preferences, last_active, updated_at)",
    },
    "usernames": {APP: "SELECT", PLAYER: "SELECT"},
    "ticks": _SEEN_BY_PLAYERS,
    "symbols": _SEEN_BY_PLAYERS,
    "portfolios": {
        **_ROWS,
        PLAYER: "SELECT, INSERT (id, user_id, session_date),"
        " UPDATE (total_value, day_change, day_change_percent, current_cash, updated_at)",
    },
    "positions": _SEEN_BY_PLAYERS,
    "trades": _SEEN_BY_PLAYERS,
    "quests": {**_ROWS, PLAYER: "SELECT, UPDATE (current_progress, status, completed_at)"},
    "quest_counters": {APP: "SELECT"},
    "leaderboard_entries": _SEEN_BY_PLAYERS,
    "leaderboard_counters": _SEEN_BY_PLAYERS,
    "market_events": _SEEN_BY_PLAYERS,
    "audit_events": {APP: f"SELECT, INSERT ({_AUDIT_COLUMNS})", SEALER: "SELECT"},
    "audit_seals": {APP: "SELECT", SEALER: "SELECT, INSERT"},
    "audit_retention": {APP: "SELECT"},
    # read by the health check
    "schema_migration": {APP: "SELECT", MONITOR: "SELECT"},
}

SEALING: Final = "audit_seal"
"""The function that belongs to the sealer role. Only this function can add a seal to the audit log."""

# Function -> the roles that may call it. A trigger runs its function even for a role that may not call it.
FUNCTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "audit_create_month": (),
    "audit_drop_month": (),
    "audit_hide": (),
    "audit_maintain": (APP,),
    "audit_record": (),
    "audit_refuse": (),
    "audit_seal": (APP, OWNER),
    "leaderboard_analyze": (APP,),
    "leaderboard_bucket_size": (APP,),
    "leaderboard_count": (),
    "leaderboard_fold": (APP,),
    "leaderboard_fold_later": (),
    "leaderboard_lock_slot": (APP,),
    "leaderboard_rank": (APP, PLAYER),
    "leaderboard_set_score": (APP,),
    "quest_count": (),
    "quest_fold": (),
    "replica_require": (APP, PLAYER),
    "ticks_create_partition": (APP,),
    "ticks_drop_partitions": (APP,),
    "ticks_note_move": (),
    "ticks_note_symbols": (),
    "users_search": (APP,),
}

_FIND_OWNERSHIP = """
    SELECT quote_ident(nspname) FROM pg_namespace JOIN pg_roles r ON r.rolname = %s
    WHERE nspname = current_schema() AND pg_has_role(r.oid, nspowner, 'USAGE')"""
_LIST_TABLES = """
    SELECT relname::text FROM pg_class
    WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'v')
      AND NOT relispartition"""
_LIST_FUNCTIONS = """
    SELECT proname::text, oid::regprocedure::text FROM pg_proc
    WHERE pronamespace = current_schema()::regnamespace"""
# The migrations create no sequences, but a table that existed before the first migration may have one.
_LIST_SEQUENCES = """
    SELECT DISTINCT s.oid::regclass::text FROM pg_class s
    JOIN pg_depend d ON d.objid = s.oid AND d.deptype IN ('a', 'i') JOIN pg_class t ON t.oid = d.refobjid
    WHERE s.relkind = 'S' AND t.relkind IN ('r', 'p')
      AND t.relnamespace = current_schema()::regnamespace"""
# The check is needed: on a server without this extension `CREATE EXTENSION IF NOT EXISTS` fails.
_CREATE_EXTENSION = """
    DO $$ BEGIN
        IF EXISTS (SELECT FROM pg_available_extensions
                   WHERE name = 'pg_stat_statements' AND installed_version IS NULL) THEN
            CREATE EXTENSION pg_stat_statements;
        END IF;
    EXCEPTION WHEN insufficient_privilege THEN NULL;
    END $$"""
# Lists partitions too: a new owner of a table does not become the owner of its partitions. The owner of
# indexes and sequences changes with the owner of their table.
_LIST_RELATIONS = """
    SELECT c.oid::regclass::text FROM pg_class c
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p', 'v')
      AND c.relowner <> %(owner)s::regrole
      AND (c.relname = ANY(%(tables)s) OR EXISTS (
        SELECT FROM pg_inherits JOIN pg_class parent ON parent.oid = inhparent
        WHERE inhrelid = c.oid AND parent.relname = ANY(%(tables)s)))"""
_LIST_ROUTINES = """
    SELECT p.oid::regprocedure::text FROM pg_proc p
    WHERE pronamespace = current_schema()::regnamespace AND proname = ANY(%(functions)s)
      AND proowner NOT IN (%(owner)s::regrole, %(sealer)s::regrole)"""


def find_owned_schema(execute_sql: Execute) -> str | None:
    """Return the quoted name of the current schema, or None if the owner role does not own the schema."""
    rows = execute_sql(_FIND_OWNERSHIP, (OWNER,)).fetchall()
    return str(rows[0][0]) if rows else None


def apply_privileges(execute_sql: Execute, schema: str) -> None:
    """Grant each role the privileges in TABLES and FUNCTIONS, and revoke all other privileges.

    `schema` is the result of `find_owned_schema`. `execute_sql` runs a statement as the owner role, in a
    transaction, and returns a cursor.
    """
    run = _escaped(execute_sql)
    others = ", ".join(["PUBLIC", *(name for name in ROLES if name != OWNER)])
    run(f"REVOKE ALL ON SCHEMA {schema} FROM {others}")
    run(f"GRANT USAGE ON SCHEMA {schema} TO {APP}, {PLAYER}, {MONITOR}, {SEALER}")
    create_policies(execute_sql)
    there = {name for (name,) in execute_sql(_LIST_TABLES).fetchall()}
    for table, granted in TABLES.items():
        if table in there:
            run(f"REVOKE ALL ON TABLE {table} FROM {others}")
            for role, privileges in granted.items():
                run(f"GRANT {privileges} ON TABLE {table} TO {role}")
    for name, routine in execute_sql(_LIST_FUNCTIONS).fetchall():
        if name in FUNCTIONS and name != SEALING:
            run(f"REVOKE ALL ON ROUTINE {routine} FROM {others}")
            for role in FUNCTIONS[name]:
                run(f"GRANT EXECUTE ON ROUTINE {routine} TO {role}")
        elif name == SEALING:
            _assign_to_sealer(run, routine, schema, others)
    for (sequence,) in execute_sql(_LIST_SEQUENCES).fetchall():
        run(f"GRANT USAGE ON SEQUENCE {sequence} TO {APP}")


def _assign_to_sealer(run: Execute, routine: str, schema: str, others: str) -> None:
    """Make the sealer the owner of the sealing function; the roles in FUNCTIONS may call it."""
    [(owner,)] = run("SELECT quote_ident(current_user)").fetchall()
    # PostgreSQL requires that the new owner of a function may create objects in the function's schema
    run(f"GRANT CREATE ON SCHEMA {schema} TO {SEALER}")
    run(f"ALTER ROUTINE {routine} OWNER TO {SEALER}")
    run(f"REVOKE CREATE ON SCHEMA {schema} FROM {SEALER}")
    run(f"SET LOCAL ROLE {SEALER}")
    run(f"REVOKE ALL ON ROUTINE {routine} FROM {others}, {OWNER}")
    for role in FUNCTIONS[SEALING]:
        run(f"GRANT EXECUTE ON ROUTINE {routine} TO {role}")
    run(f"SET LOCAL ROLE {owner}")


def _escaped(execute_sql: Execute) -> Execute:
    # the driver would treat a percent sign, for example in the name of a schema, as a placeholder
    return lambda statement: execute_sql(statement.replace("%", "%%"))


def hand_over(admin: extensions.connection) -> None:
    """Make the owner role the owner of the administrator's current schema, and of its tables and functions.

    Can be repeated. The roles must exist. If the schema is `public`, the owner role also becomes the owner of
    the database, and only roles with a grant may connect to it. `migrate up` sets the privileges on tables
    and functions later. Raises `DatabaseError`.
    """
    administer(admin, _hand_over)


def _hand_over(cursor: extensions.cursor) -> None:
    cursor.execute("SELECT current_database(), current_schema()")
    database, schema = cursor.fetchone() or ("", None)
    if schema is None:
        raise DatabaseError("no schema of ADMIN_URL's search path exists; create one, then try again")

    def run(statement: str) -> None:
        names = {"database": database, "schema": schema, "owner": OWNER, "app": APP, "monitor": MONITOR}
        cursor.execute(
            sql.SQL(statement).format(**{name: sql.Identifier(text) for name, text in names.items()})
        )

    # an administrator can give objects only to a role of which it is a member
    is_member = may_become(cursor, OWNER)
    if not is_member:
        run("GRANT {owner} TO CURRENT_USER")
    cursor.execute(_CREATE_EXTENSION)
    if schema == "public":
        run("ALTER DATABASE {database} OWNER TO {owner}")
        run("SET LOCAL ROLE {owner}")
        run("REVOKE ALL ON DATABASE {database} FROM PUBLIC")
    run("GRANT CONNECT, TEMPORARY ON DATABASE {database} TO {owner}, {app}")
    run("GRANT CONNECT ON DATABASE {database} TO {monitor}, SESSION_USER")
    run("SET LOCAL ROLE NONE")
    cursor.execute(_FIND_OWNERSHIP, (OWNER,))
    if cursor.fetchone() is None:
        run("ALTER SCHEMA {schema} OWNER TO {owner}")
    _assign_objects_to_owner(cursor)
    # an administrator who is not a superuser needs this to repeat the hand-over, for example to set passwords
    run("SET LOCAL ROLE {owner}")
    run("GRANT USAGE ON SCHEMA {schema} TO SESSION_USER")
    run("SET LOCAL ROLE NONE")
    if not is_member:
        run("REVOKE {owner} FROM CURRENT_USER")


def _assign_objects_to_owner(cursor: extensions.cursor) -> None:
    parameters = {"owner": OWNER, "sealer": SEALER, "tables": list(TABLES), "functions": list(FUNCTIONS)}
    for query, kind in ((_LIST_RELATIONS, "TABLE"), (_LIST_ROUTINES, "ROUTINE")):
        cursor.execute(query, parameters)
        for (name,) in cursor.fetchall():
            # `name` comes from the server: quoted, and with its schema if necessary
            cursor.execute(f"ALTER {kind} {name} OWNER TO {OWNER}")
