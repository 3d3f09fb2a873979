"""Fills a new database with demo data: imports prices, and replays them as sessions of demo players.

Runs three `echo-markets` commands in order: `import-prices`, `seed` and `catch-up`. The SQL in this module
creates the database, checks whether it has players, and marks it as incomplete while the commands run.
"""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import psycopg2.extensions
from psycopg2 import sql

from core.errors import StackError
from core.stack.embedded_servers import open_cursor
from core.stack.programs import CLI
from core.stack.settings import StackSettings

# The comment of the database (COMMENT ON DATABASE) while the demo data is loaded. After an interruption the
# comment is still there, so the next start loads the data again, although the database has players. The
# result is the same as after a single load.
UNFINISHED = "echo-markets: the demo data is incomplete"


def create_database(server_url: str, name: str) -> None:
    """Create the database `name` unless it exists.

    `server_url` connects to another database of the same server.
    """
    with _open_cursor(server_url) as cursor:
        cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))
        if cursor.fetchone() is None:
            cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))


def load_demo_data(
    environment: Mapping[str, str], *, owner_url: str, root: Path, settings: StackSettings
) -> bool:
    """Import the shipped prices and replay them if the database has no players. Return whether it did so.

    An interrupted load is repeated. In all cases, `catch-up` then plays the missed sessions up to today. The
    commands run with `environment`. `owner_url` connects as the owner of the database, because only the
    owner can set its comment. Raises `StackError` if a command fails; the command has printed the reason.
    """
    is_incomplete = _is_incomplete(owner_url)
    if is_incomplete:
        _write_comment(owner_url, UNFINISHED)
        keep_dates = ["--keep-dates"] if settings.keep_dates else []
        run_step("import-prices", "--demo", *keep_dates, environment=environment, root=root)
        size = ("--players", str(settings.seed_players), "--sessions", str(settings.seed_sessions))
        run_step("seed", *size, environment=environment, root=root)
        _write_comment(owner_url, None)
    run_step("catch-up", environment=environment, root=root)
    return is_incomplete


def run_step(*arguments: str, environment: Mapping[str, str], root: Path) -> None:
    """Run one `echo-markets` command and show its output. Raises `StackError` if the command fails."""
    status = run_command(*arguments, environment=environment, root=root)
    if status != 0:
        raise StackError(f"`echo-markets {' '.join(arguments)}` failed with status {status}, see above")


def run_command(*arguments: str, environment: Mapping[str, str], root: Path) -> int:
    """Run one `echo-markets` command, show its output, and return its exit status."""
    command = [sys.executable, *CLI, *arguments]
    return subprocess.run(command, env=environment, cwd=root, check=False).returncode


def _is_incomplete(database_url: str) -> bool:
    with _open_cursor(database_url) as cursor:
        cursor.execute("SELECT NOT EXISTS (SELECT FROM users)")
        is_empty = cursor.fetchone() == (True,)
        cursor.execute(
            "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database()"
        )
        return is_empty or cursor.fetchone() == (UNFINISHED,)


def _write_comment(database_url: str, comment: str | None) -> None:
    with _open_cursor(database_url) as cursor:
        cursor.execute("SELECT current_database()")
        (name,) = cursor.fetchone() or ("",)
        statement = sql.SQL("COMMENT ON DATABASE {} IS %s").format(sql.Identifier(name))
        cursor.execute(statement, (comment,))


@contextmanager
def _open_cursor(url: str) -> Iterator[psycopg2.extensions.cursor]:
    try:
        with open_cursor(url) as cursor:
            yield cursor
    except psycopg2.Error as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise StackError(f"the database cannot be filled: {reason}; is DATABASE_URL right?") from error
