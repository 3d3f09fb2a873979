"""The demo data of a new database: imported prices, replayed sessions.

Owns the order of the steps, which are `echo-markets` commands. Its own SQL only checks whether the database
exists and is filled, creates it, and marks it as incomplete while it is filled.
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

# The comment on the database (COMMENT ON DATABASE) while the demo data is loaded. With it, an interrupted
# seed is run again although there are players already. Seeding twice changes nothing.
UNFINISHED = "echo-markets: the demo data is incomplete"


def create_database(server_url: str, name: str) -> None:
    """Create a database unless it exists."""
    with _open_cursor(server_url) as cursor:
        cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))
        if cursor.fetchone() is None:
            cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))


def load_demo_data(
    environment: Mapping[str, str], *, owner_url: str, root: Path, settings: StackSettings
) -> bool:
    """Import the shipped prices and replay them, unless that is done; return whether it had to be done.

    In both cases, plays the missed sessions up to today. The steps run with `environment`; `owner_url`
    connects as the owner of the database, because only the owner can set its comment.
    Raises `StackError` when a step fails; the step has printed the reason.
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
    """Run one `echo-markets` command and show its output; raises `StackError` when it fails."""
    status = run_command(*arguments, environment=environment, root=root)
    if status != 0:
        raise StackError(f"`echo-markets {' '.join(arguments)}` failed with status {status}, see above")


def run_command(*arguments: str, environment: Mapping[str, str], root: Path) -> int:
    """Run one `echo-markets` command to its end, show its output, and return its exit status."""
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
