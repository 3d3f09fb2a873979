"""Applies and reverts the numbered files of `migrations/`.

A run is a single transaction: it changes everything or nothing. An advisory lock makes a second run wait for
the first. The lock belongs to the transaction, so it works behind a transaction pooler too. A revert with
`drop_rows=False` fails if it would drop a table that has rows, or a column of such a table.

Names in migrations are resolved only in the current schema, not in the rest of the search path. If the
schema belongs to the owner role of `core.database.roles`, each run switches to this role. `up` then also sets
the privileges of all roles.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import peewee
import psycopg2
from playhouse.migrations import Migration, MigrationError, Runner

from core.database import citus
from core.database.connector import Connector, ServerConnection
from core.database.driver_errors import (
    DRIVER_ERRORS,
    INSUFFICIENT_PRIVILEGE,
    LOCK_NOT_AVAILABLE,
    find_sqlstate,
    translate,
    translate_connect,
)
from core.database.privileges import apply_privileges, find_owned_schema
from core.database.roles import OWNER
from core.database.session_settings import SessionFacts, find_missing_schema
from core.encryption import EMAIL, ColumnCipher
from core.errors import InvalidInput, MigrationFailed, RowsWouldBeLost
from core.installation import MIGRATIONS
from core.settings import Settings

logger = logging.getLogger(__name__)

HISTORY_TABLE = "schema_migration"
# The key of the advisory lock, "echo" in ASCII. It must not change: all versions share the lock.
ADVISORY_LOCK = 0x6563686F
# The longest wait for another run, which may be rewriting years of ticks.
WAIT_SECONDS = 600.0
WAIT_POLL_SECONDS = 0.25
# The longest wait for the lock on a table. While a migration waits for it, all later statements on the table
# wait too.
TABLE_WAIT_SECONDS = 60.0
# Stores AUDIT_KEEP_MONTHS in `audit_retention`, which only the owner role can change; 0 leaves no row.
SET_RETENTION = (
    "DELETE FROM audit_retention",
    "INSERT INTO audit_retention (keep_months) SELECT %(months)s WHERE %(months)s > 0",
)
HAS_HISTORY = "SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = current_schema() AND tablename = %s)"
HISTORY_COLUMNS = """
    SELECT attname FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
    WHERE relname = %s AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
      AND attnum > 0 AND NOT attisdropped"""
FIND_HOLDER = f"""
    SELECT pid, COALESCE(NULLIF(application_name, ''), 'unknown'),
           COALESCE(round(EXTRACT(epoch FROM clock_timestamp() - xact_start)), 0)::bigint
    FROM pg_locks LEFT JOIN pg_stat_activity USING (pid)
    WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND classid = 0 AND objid = {ADVISORY_LOCK}
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
# Rows are counted only up to this number, because counting millions takes seconds.
COUNTED_ROWS = 100_000
# Lists each table with its columns. Leaves out partitions: they are dropped together with their table.
LIST_COLUMNS = """
    SELECT relname, array_agg(attname::text)
    FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped
    WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
    GROUP BY relname"""


class MigrationStatus(msgspec.Struct, frozen=True):
    """The status of one migration; `applied_at` is None while it is pending."""

    name: str
    applied_at: datetime | None


class MigrationCount(NamedTuple):
    """How many migrations are applied (also those of a newer version), and how many are pending."""

    applied: int
    pending: int


class Migrator:
    """Applies and reverts the migrations of one database.

    Raises `MigrationFailed` if there are no migration files: in an incomplete installation, the schema would
    otherwise seem up to date.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        directory: Path = MIGRATIONS,
        wait_seconds: float = WAIT_SECONDS,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """Open no connection yet. `wait_seconds` is the longest wait for another run."""
        _list_names(directory)
        self._directory = directory
        self._wait_seconds = wait_seconds
        self._sleep = sleep
        url = settings.direct_url or settings.database_url
        self._connector = Connector(
            settings,
            "echo-markets-migrate",
            url=url.get_secret_value(),
            # no timeout: building an index over years of ticks may take longer than DATABASE_QUERY_TIMEOUT
            statement_timeout_ms=0,
            lock_timeout_ms=round(TABLE_WAIT_SECONDS * 1000),
            # `_check_database` refuses a missing schema, with a message that is about migrations
            needs_schema=False,
        )
        self._emails = ColumnCipher(settings.read_keyring(), EMAIL)
        self._topology = settings.database_topology
        is_set = "audit_keep_months" in settings.model_fields_set
        self._audit_keep_months = settings.audit_keep_months if is_set else None

    def up(self) -> list[str]:
        """Apply all pending migrations, or none; return their names. Raises `MigrationFailed`.

        If AUDIT_KEEP_MONTHS is set, the database from then on keeps at least this many months of the audit
        log (0: all of it). If it is not set, the limit in the database does not change.
        """
        with self._locked() as runner, _named("up"):
            execute_sql = runner.database.execute_sql
            citus.check_topology(execute_sql, self._topology)
            if self._topology == citus.TOPOLOGY:
                citus.begin_migration(execute_sql, has_roles=find_owned_schema(execute_sql) is not None)
            pending = [row.name for row in runner.status() if row.path and not row.applied]
            for name in pending:
                runner.up(name)
                # run deferred checks now: the next migration cannot alter a table with pending checks
                execute_sql("SET CONSTRAINTS ALL IMMEDIATE")
            if self._audit_keep_months is not None:
                for statement in SET_RETENTION:
                    execute_sql(statement, {"months": self._audit_keep_months})
            if self._topology == citus.TOPOLOGY:
                citus.distribute(execute_sql)
            schema = find_owned_schema(execute_sql)
            if schema is None:
                logger.info("the role %s does not own the schema: privileges are left as they are", OWNER)
            else:
                apply_privileges(execute_sql, schema)
            return pending

    def down(self, target: str | None = None, *, drop_rows: bool = True) -> list[str]:
        """Revert the newest migration, or all from the newest back to `target`; return their names.

        Reverts all of them or none. With `drop_rows` False, raises `RowsWouldBeLost` if a table that has
        rows, or a column of such a table, would be dropped. By default they are dropped without a question.
        Raises `InvalidInput` if `target` is not applied, and `MigrationFailed` for any other failure.
        """
        with self._locked() as runner:
            if target is not None and target not in runner.applied():
                raise InvalidInput(f"migration {target!r} is not applied; see `echo-markets migrate status`")
            if not runner.applied():
                return []
            with _named("down"):
                citus.check_topology(runner.database.execute_sql, "plain")
                before = {} if drop_rows else _read_tables(runner.database)
                names = list(runner.down(target))
                losses = [] if drop_rows else _list_losses(before, _read_tables(runner.database))
            if losses:
                raise RowsWouldBeLost(
                    f"reverting {', '.join(names)} would drop {', '.join(losses)}; nothing was changed"
                )
            return names

    def status(self) -> list[MigrationStatus]:
        """Return the status of every migration, in order. Changes nothing, and waits for no other run."""
        with self._connected() as database, database.atomic():
            runner = self._runner(database)
            return [MigrationStatus(row.name, row.applied) for row in runner.status()]

    @contextmanager
    def _locked(self) -> Iterator[Runner]:
        """Run the `with` block in a transaction that holds the advisory lock."""
        with self._connected() as database:
            _check_database(database.facts)
            wait = _LockWait(self._wait_seconds)
            while True:
                with database.atomic():
                    statement = "SELECT pg_try_advisory_xact_lock(%s)"
                    if database.execute_sql(statement, (ADVISORY_LOCK,)).fetchone()[0]:
                        _become_owner(database)
                        self._check_history(database)
                        yield self._runner(database)
                        return
                    holders = database.execute_sql(FIND_HOLDER).fetchall()
                wait.record(holders)
                # sleep outside the transaction: while it is open, VACUUM cannot remove old rows
                self._sleep(WAIT_POLL_SECONDS)

    def _check_history(self, database: Any) -> None:
        """Raise `MigrationFailed` if the history table belongs to another application."""
        columns = {row[0] for row in database.execute_sql(HISTORY_COLUMNS, (HISTORY_TABLE,)).fetchall()}
        if not columns:
            return
        is_ours = {"name", "applied"} <= columns
        if is_ours:
            # a history table of ours is empty or contains the first migration, in every version of the stack
            first = min(_list_names(self._directory))
            found = f"SELECT COALESCE(bool_or(name = %s), true) FROM {HISTORY_TABLE}"
            [(is_ours,)] = database.execute_sql(found, (first,)).fetchall()
        if not is_ours:
            raise MigrationFailed(
                f"the table {HISTORY_TABLE} in the schema {database.facts.schema!r} is another application's;"
                " give Echo Markets a schema of its own, ?options=-csearch_path%3DNAME in the URL"
            )

    def _runner(self, database: Any) -> Runner:
        return Runner(database, str(self._directory), HISTORY_TABLE)

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        database = _MigrationDatabase(self._connector, self._emails)
        try:
            database.connect()
        except DRIVER_ERRORS as error:
            raise translate_connect(error) from error
        try:
            yield database
        except DRIVER_ERRORS as error:
            raise translate(error, "migrate") from error
        finally:
            database.close()


class _MigrationDatabase(peewee.PostgresqlDatabase):
    """The database class of peewee, on a connection of our `Connector`."""

    def __init__(self, connector: Connector, emails: ColumnCipher) -> None:
        self._connector = connector
        self.emails = emails
        super().__init__(connector.url)

    def _connect(self) -> ServerConnection:
        self._raw = self._connector.open()
        return self._raw

    @property
    def facts(self) -> SessionFacts:
        """The facts that the server reported when the connection was opened."""
        return self._raw.facts

    def begin(self, isolation_level: Any = None) -> None:  # noqa: ARG002  # peewee's signature
        """Begin a transaction, and apply the session settings to it."""
        try:
            with self._raw.cursor() as cursor:
                cursor.execute(f"BEGIN; {self._raw.unit_prefix}")
        except psycopg2.Error as error:
            raise translate(error, "migrate") from error


class _LockWait:
    """The wait for the advisory lock of another run: it is logged once, and limited in time."""

    def __init__(self, limit_seconds: float) -> None:
        self._limit_seconds = limit_seconds
        self._waited_seconds = 0.0

    def record(self, holders: list[tuple[int, str, int]]) -> None:
        """Count one more pause, because the sessions `holders` have the lock.

        Raises `MigrationFailed` when the time limit is reached.
        """
        who = ", ".join(f"{name} (process {pid}) for {seconds} s" for pid, name, seconds in holders)
        if self._waited_seconds == 0:
            logger.warning(
                "another migration holds the lock: %s; waiting for up to %.0f s",
                who or "its holder is not visible",
                self._limit_seconds,
            )
        if self._waited_seconds >= self._limit_seconds:
            raise MigrationFailed(
                f"another migration has held the lock for {self._waited_seconds:.0f} s"
                f" ({who or 'its holder is not visible'}); nothing was changed: end it or migrate again later"
            )
        self._waited_seconds += WAIT_POLL_SECONDS


def _check_database(facts: SessionFacts) -> None:
    """Raise `MigrationFailed` if the tables cannot or must not be created in this database."""
    problem = None
    if facts.encoding != "UTF8":
        problem = (
            f"the database {facts.database!r} has the encoding {facts.encoding}, which lacks characters;"
            " create a database with ENCODING 'UTF8' TEMPLATE template0"
        )
    elif facts.is_standby:
        problem = f"the database {facts.database!r} is a standby; point DATABASE_URL at its primary"
    elif facts.is_read_only:
        problem = (
            f"the database {facts.database!r} is read-only (default_transaction_read_only is on);"
            " find out who set it, such as a quota, before it is switched off"
        )
    elif facts.schema is None:
        problem = f"no schema of the search path ({facts.search_path}) exists for this role; create one"
    elif (missing := find_missing_schema(facts)) is not None:
        problem = (
            f"the schema {missing!r}, which the search path ({facts.search_path}) names first, does not exist"
            f" for this role; create it, because the tables would otherwise be created in {facts.schema!r}"
        )
    if problem is not None:
        raise MigrationFailed(problem)


def _become_owner(database: Any) -> None:
    """Switch to the owner role until the transaction ends, if the owner role owns the schema.

    Raises `MigrationFailed` if the role of the connection may not switch to the owner role.
    """
    if find_owned_schema(database.execute_sql) is None:
        return
    try:
        database.execute_sql(f"SET LOCAL ROLE {OWNER}")
    except DRIVER_ERRORS as error:
        if find_sqlstate(error) != INSUFFICIENT_PRIVILEGE:
            raise
        raise MigrationFailed(
            f"the role {database.facts.user!r} may not change the schema, which belongs to {OWNER}; point"
            " DIRECT_URL at the database as that role"
        ) from error


@contextmanager
def _named(direction: str) -> Iterator[None]:
    try:
        yield
    except (MigrationError, RuntimeError, *DRIVER_ERRORS) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if find_sqlstate(error) == LOCK_NOT_AVAILABLE:
            reason = (
                f"others used a table for more than {TABLE_WAIT_SECONDS:g} s; repeat it when they are done"
            )
        raise MigrationFailed(
            f"migrating {direction} failed and was rolled back: {reason};"
            " `echo-markets migrate status` lists what is applied"
        ) from error


class _Table(NamedTuple):
    """Columns and row count of a table; the count is COUNTED_ROWS + 1 for every larger table."""

    columns: frozenset[str]
    rows: int


def _read_tables(database: Any) -> dict[str, _Table]:
    """Return the tables of the current schema by name. Leaves out the history table of the migrations."""
    found = dict(database.execute_sql(LIST_COLUMNS).fetchall())
    found.pop(HISTORY_TABLE, None)
    return {name: _Table(frozenset(columns), _count(database, name)) for name, columns in found.items()}


def _count(database: Any, name: str) -> int:
    quoted = '"' + name.replace('"', '""') + '"'
    statement = f"SELECT count(*) FROM (SELECT FROM {quoted} LIMIT {COUNTED_ROWS + 1}) AS counted"
    [(rows,)] = database.execute_sql(statement).fetchall()
    return int(rows)


def _list_losses(before: Mapping[str, _Table], after: Mapping[str, _Table]) -> list[str]:
    """Return the tables and columns with rows that are only in `before`, such as `quests (1,200 rows)`."""
    losses = []
    for name, table in sorted(before.items()):
        if not table.rows:
            continue
        if name in after:
            gone = [f"{name}.{column}" for column in sorted(table.columns - after[name].columns)]
        else:
            gone = [name]
        losses += [f"{each} ({_describe_rows(table.rows)})" for each in gone]
    return losses


def _describe_rows(rows: int) -> str:
    if rows > COUNTED_ROWS:
        return f"more than {COUNTED_ROWS:,} rows"
    return f"{rows:,} row{'' if rows == 1 else 's'}"


def count_migrations(execute_sql: Callable[..., Any]) -> MigrationCount:
    """Return how many migrations are applied and how many are pending.

    `execute_sql` runs a statement and returns its cursor.
    """
    names = _list_names(MIGRATIONS)
    [(has_history,)] = execute_sql(HAS_HISTORY, (HISTORY_TABLE,)).fetchall()
    if not has_history:
        return MigrationCount(applied=0, pending=len(names))
    applied = {name for (name,) in execute_sql(f"SELECT name FROM {HISTORY_TABLE}").fetchall()}
    return MigrationCount(applied=len(applied), pending=len(names - applied))


@cache
def _list_names(directory: Path) -> frozenset[str]:
    names = frozenset(migration.name for migration in Migration.load_directory(str(directory)))
    if not names:
        raise MigrationFailed(
            f"no migrations found in {directory}; the installation is incomplete, reinstall echo-markets"
        )
    return names
