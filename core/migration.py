"""Applies and reverts the numbered files of `migrations/`.

Owns the advisory lock under which two starters wait for each other. Runs on a
connection of its own through DIRECT_URL when that is set, because a transaction
pooler between would share the session that holds the lock.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import peewee
from playhouse.migrations import Migration, MigrationError, Runner

from core.database.database import add_options, connection_parameters
from core.database.faults import DRIVER_ERRORS, translate, translate_connect
from core.errors import InvalidInput, MigrationFailed
from core.resources import MIGRATIONS
from core.settings import Settings

logger = logging.getLogger(__name__)

MIGRATIONS_DIR = MIGRATIONS
HISTORY_TABLE = "schema_migration"
# Any fixed number: "echo" in ASCII. Every starter of every version must use the same.
ADVISORY_LOCK = 0x6563686F


class MigrationStatus(msgspec.Struct, frozen=True):
    """One migration; `applied_at` is None while it is pending."""

    name: str
    applied_at: datetime | None


class MigrationCount(NamedTuple):
    """How many migrations are applied, those of a newer version included, and how many are pending."""

    applied: int
    pending: int


class Migrator:
    """Brings one database's schema up or down.

    Raises `MigrationFailed` when there are no migrations: an incomplete installation must not
    pass for an up-to-date schema.
    """

    def __init__(self, settings: Settings, *, directory: Path = MIGRATIONS_DIR) -> None:
        _list_names(directory)
        self._settings = settings
        self._directory = directory

    def up(self) -> list[str]:
        """Apply what is pending; return the names applied. Raises `MigrationFailed`."""
        with self._locked() as runner, _named("up"):
            return list(runner.up())

    def down(self, target: str | None = None) -> list[str]:
        """Revert the newest migration, or all back through `target`; return the names.

        Raises `InvalidInput` when `target` is not applied, `MigrationFailed` otherwise.
        """
        with self._locked() as runner:
            if target is not None and target not in runner.applied():
                raise InvalidInput(f"migration {target!r} is not applied; see `echo-markets migrate status`")
            if not runner.applied():
                return []
            with _named("down"):
                return list(runner.down(target))

    def status(self) -> list[MigrationStatus]:
        """Return every migration in order; reads only and waits for nobody."""
        with self._connected() as database:
            runner = self._runner(database)
            return [MigrationStatus(row.name, row.applied) for row in runner.status()]

    @contextmanager
    def _locked(self) -> Iterator[Runner]:
        with self._connected() as database:
            database.execute_sql("SELECT pg_advisory_lock(%s)", (ADVISORY_LOCK,))
            # the lock belongs to the session and goes with it, however it ends
            yield self._runner(database)

    def _runner(self, database: Any) -> Runner:
        return Runner(database, str(self._directory), HISTORY_TABLE)

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        url = self._settings.direct_url or self._settings.database_url
        parameters = connection_parameters(self._settings, "echo-markets-migrate")
        # building an index over years of ticks may take longer than any query may
        parameters["options"] = add_options(url.get_secret_value(), statement_timeout_ms=0)
        database = peewee.PostgresqlDatabase(url.get_secret_value(), **parameters)
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


@contextmanager
def _named(direction: str) -> Iterator[None]:
    try:
        yield
    except (MigrationError, RuntimeError, *DRIVER_ERRORS) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise MigrationFailed(
            f"migrating {direction} failed and was rolled back: {reason};"
            " `echo-markets migrate status` lists what is applied"
        ) from error


def count_migrations(execute_sql: Callable[..., Any], directory: Path) -> MigrationCount:
    """Return how many migrations are applied and how many are not; `execute_sql` returns a cursor."""
    names = _list_names(directory)
    [(history,)] = execute_sql("SELECT to_regclass(%s)", (HISTORY_TABLE,)).fetchall()
    if history is None:
        return MigrationCount(applied=0, pending=len(names))
    applied = {name for (name,) in execute_sql(f"SELECT name FROM {HISTORY_TABLE}").fetchall()}
    return MigrationCount(applied=len(applied), pending=len(names - applied))


@cache
def _list_names(directory: Path) -> frozenset[str]:
    # the files do not change under a process
    names = frozenset(migration.name for migration in Migration.load_directory(str(directory)))
    if not names:
        raise MigrationFailed(
            f"no migrations found in {directory}; the installation is incomplete, reinstall echo-markets"
        )
    return names
