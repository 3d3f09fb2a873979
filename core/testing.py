"""Runs PostgreSQL and Valkey servers for tests, each during a `with` block, and builds settings for them.

For the tests of other projects, and for the tests and benchmarks of this one. Never uses a configured server:
the settings name only servers that were started here.

The pytest fixtures are in `core/entry/pytest_plugin.py`. pytest imports that plugin in every run. The plugin
imports this module only when a test requests a fixture.
"""

import base64
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import redis
from psycopg2 import sql
from pydantic import SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from core.errors import StackError
from core.migration import HISTORY_TABLE, Migrator
from core.settings import Settings
from core.settings.texts import LOOPBACK
from core.stack.embedded_servers import (
    NO_OPTIONS,
    SUPERUSER,
    open_cursor,
    postgres_command,
    prepare_postgres,
    prepare_valkey,
    valkey_command,
)
from core.stack.permissions import ServerUser, run_as
from core.stack.ports import find_free_port, is_port_free, postgres_answers, valkey_answers
from core.stack.processes import read_last_lines

START_SECONDS = 60.0  # a cold start takes 2 s; on a machine under load it may take thirty times as long
STOP_SECONDS = 30.0  # long enough for the checkpoint of a fast shutdown
POLL_SECONDS = 0.02
PORT_ATTEMPTS = 3  # another program may take the free port first

# Tests need no durability, which takes most of the time of a small transaction.
FAST = MappingProxyType({"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"})
DATABASE = "echo_markets_tests"
# This key is not a secret: it encrypts only test data.
ENCRYPTION_KEYS = f"tests:{base64.b64encode(bytes(range(32))).decode()}"
# DATABASE_CONNECT_TIMEOUT and DATABASE_POOL_TIMEOUT in tests. Their default is a minute: a test that has
# stopped a server would wait that long for its error.
TIMEOUT_MS = 5_000

# Ends all other connections: a connection that a test has left open may hold locks.
DISCONNECT_OTHERS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()"""
LIST_TABLES = """
    SELECT relname FROM pg_class
    WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
      AND relname <> %s"""


class PostgresServer(NamedTuple):
    """A running PostgreSQL server; `password` is the password of the superuser `postgres`."""

    port: int
    pid: int
    password: str
    host: str = LOOPBACK

    def url(self, database: str = "postgres") -> str:
        """Return the connection URL of one database."""
        return f"postgresql://{SUPERUSER}:{self.password}@{self.host}:{self.port}/{database}"


class ValkeyServer(NamedTuple):
    """A running Valkey server; `url` does not contain the `password`."""

    port: int
    pid: int
    password: str

    @property
    def url(self) -> str:
        """Return the connection URL of database 0."""
        return f"redis://{LOOPBACK}:{self.port}/0"


class ServerProgram(NamedTuple):
    """The commands to start, probe and stop one kind of server."""

    name: str
    command: Callable[[int], list[str]]
    answers: Callable[[int], bool]
    user: ServerUser | None
    log: Path
    stop_signal: signal.Signals


@contextmanager
def run_postgres(
    directory: Path, *, port: int | None = None, options: Mapping[str, str] = NO_OPTIONS
) -> Iterator[PostgresServer]:
    """Run a PostgreSQL 18 server during the `with` block; create its files in `directory` if needed.

    With `port` None, a free port is chosen. `options` are server settings such as `fsync`. Raises
    `StackError` if the server does not answer; the error contains the end of the server's log.
    """
    files = prepare_postgres(directory)
    program = ServerProgram(
        name="PostgreSQL",
        command=lambda chosen: postgres_command(files, port=chosen, options=options),
        answers=lambda chosen: postgres_answers(PostgresServer(chosen, 0, files.password).url()),
        user=files.user,
        log=directory / "postgres.log",
        stop_signal=signal.SIGINT,  # a fast shutdown: it does not wait for clients to disconnect
    )
    with run_server(program, port) as (chosen, pid):
        yield PostgresServer(port=chosen, pid=pid, password=files.password)


@contextmanager
def run_valkey(directory: Path, *, port: int | None = None) -> Iterator[ValkeyServer]:
    """Run a Valkey 9 server during the `with` block; `directory` gets its configuration, and no data.

    With `port` None, a free port is chosen. Raises `StackError` if the server does not answer; the error
    contains the end of the server's log.
    """
    files = prepare_valkey(directory)
    program = ServerProgram(
        name="Valkey",
        command=lambda chosen: valkey_command(files, port=chosen),
        answers=lambda chosen: valkey_answers(chosen, files.password),
        user=files.user,
        log=directory / "valkey.log",
        stop_signal=signal.SIGTERM,
    )
    with run_server(program, port) as (chosen, pid):
        yield ValkeyServer(port=chosen, pid=pid, password=files.password)


@contextmanager
def serve_postgres() -> Iterator[PostgresServer]:
    """Run an empty PostgreSQL 18 server in a temporary folder, with durability switched off."""
    # not in the temporary folder of pytest: each run of pytest makes this folder private to its user, and the
    # server may run as another user
    with (
        tempfile.TemporaryDirectory(prefix="echo-markets-") as folder,
        run_postgres(Path(folder), options=FAST) as server,
    ):
        yield server


@contextmanager
def serve_valkey() -> Iterator[ValkeyServer]:
    """Run an empty Valkey 9 server in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="echo-markets-") as folder, run_valkey(Path(folder)) as server:
        yield server


@contextmanager
def run_server(program: ServerProgram, port: int | None) -> Iterator[tuple[int, int]]:
    """Run a server on `port` (None: a free port) during the `with` block; yield its port and process id."""
    chosen, process = _start(program, port)
    try:
        yield chosen, process.pid
    finally:
        _stop(process, program.stop_signal)


def _start(program: ServerProgram, port: int | None) -> tuple[int, subprocess.Popen[bytes]]:
    for _ in range(PORT_ATTEMPTS if port is None else 1):
        chosen = port or find_free_port()
        if not is_port_free(chosen):
            continue  # another server uses the port, and would answer our probe
        process = _launch(program, chosen)
        try:
            if _wait_until_ready(program, chosen, process):
                return chosen, process
        except BaseException:  # stop the server also after Ctrl-C
            _stop(process, program.stop_signal)
            raise
    if not is_port_free(chosen):
        raise StackError(f"{program.name} cannot listen on port {chosen}, which is taken")
    raise StackError(f"{program.name} ended while starting on port {chosen}: {read_last_lines(program.log)}")


def _launch(program: ServerProgram, port: int) -> subprocess.Popen[bytes]:
    with program.log.open("wb") as log:
        process: subprocess.Popen[bytes] = subprocess.Popen(  # noqa: S603  # the command is built here
            program.command(port),
            **run_as(program.user),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C must reach only this process, which then stops the server
        )
    return process


def _wait_until_ready(program: ServerProgram, port: int, process: subprocess.Popen[bytes]) -> bool:
    """Wait until the server answers, and return True; return False if its process ends first.

    Raises `StackError` after START_SECONDS.
    """
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None:
        if program.answers(port):
            return True
        if time.monotonic() > deadline:
            waited = f"{program.name} did not answer on port {port} within {START_SECONDS:.0f} s"
            raise StackError(f"{waited}: {read_last_lines(program.log)}")
        time.sleep(POLL_SECONDS)
    return False


def _stop(process: subprocess.Popen[bytes], stop_signal: signal.Signals) -> None:
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGCONT)  # a test may have paused the server, and a paused process cannot stop
    process.send_signal(stop_signal)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def create_database(server: PostgresServer, name: str = DATABASE) -> str:
    """Create a database with every migration applied; return its URL."""
    with open_cursor(server.url()) as cursor:
        cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    url = server.url(name)
    Migrator(GivenSettings(database_url=SecretStr(url))).up()
    return url


def clear_database(url: str) -> None:
    """Delete every row of a database, and end all other connections to it.

    Takes a few milliseconds; TRUNCATE, or a new copy of an empty database, takes at least ten times as long.
    """
    with open_cursor(url) as cursor:
        cursor.execute(DISCONNECT_OTHERS)
        cursor.execute(LIST_TABLES, (HISTORY_TABLE,))
        tables = [sql.Identifier(name) for (name,) in cursor.fetchall()]
        # switch off foreign keys and triggers: when all rows are deleted, nothing can become inconsistent
        cursor.execute("SET session_replication_role = replica")
        for table in tables:
            cursor.execute(sql.SQL("DELETE FROM {}").format(table))


def clear_cache(server: ValkeyServer) -> None:
    """Delete every key of a server."""
    with redis.Redis.from_url(server.url, password=server.password) as client:
        client.flushall()


class GivenSettings(Settings):
    """Settings that are given as arguments. The environment and files are not read."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  # pydantic's signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # as above
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # as above
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # as above
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return one source: the arguments."""
        return (init_settings,)


def build_settings(database_url: str, valkey: ValkeyServer, **settings: Any) -> Settings:
    """Return settings for these servers, with short timeouts. `settings` replaces any of the values."""
    given = {
        "database_url": SecretStr(database_url),
        "redis_url": SecretStr(valkey.url),
        "redis_password": SecretStr(valkey.password),
        "encryption_keys": SecretStr(ENCRYPTION_KEYS),
        "database_connect_timeout": TIMEOUT_MS,
        "database_pool_timeout": TIMEOUT_MS,
    }
    return GivenSettings(**{**given, **settings})


def build_environment(settings: Settings) -> dict[str, str]:
    """Return the settings from `build_settings` as environment variables, for another process."""
    values = settings.model_dump(exclude_unset=True)
    return {
        name.upper(): value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        for name, value in values.items()
        if value is not None
    }
