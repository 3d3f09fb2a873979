"""Real servers for tests: a PostgreSQL and a Valkey for the length of a `with` block, and their settings.

Used by the tests of other projects, and by the tests and benchmarks of this one. Never touches a
configured server: the settings are built from these servers alone. The pytest fixtures are in
`core/entry/pytest_plugin.py`, which pytest loads in every run and which therefore imports this module
only when a test asks for a fixture.
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
from core.stack.ports import LOOPBACK, find_free_port, is_port_free, postgres_answers, valkey_answers
from core.stack.processes import read_last_lines

START_SECONDS = 60.0  # a cold start takes 2 s; a loaded machine gets thirty times that
STOP_SECONDS = 30.0  # a fast shutdown writes one checkpoint
POLL_SECONDS = 0.02
PORT_ATTEMPTS = 3  # another program can take a free port before the server listens on it

# Durability is not under test, and costs most of the time of a small transaction.
FAST = MappingProxyType({"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"})
DATABASE = "echo_markets_tests"
# No secret: it only encrypts data of tests.
ENCRYPTION_KEYS = f"tests:{base64.b64encode(bytes(range(32))).decode()}"
# A test that has stopped a server fails after this time instead of waiting for a minute.
TIMEOUT_MS = 5_000

# A connection that a test has left open may hold locks.
DISCONNECT_OTHERS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()"""
LIST_TABLES = """
    SELECT relname FROM pg_class
    WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
      AND relname <> %s"""


class PostgresServer(NamedTuple):
    """A running PostgreSQL; `password` is that of the superuser `postgres`."""

    port: int
    pid: int
    password: str
    host: str = LOOPBACK

    def url(self, database: str = "postgres") -> str:
        """Return the connection URL of one database."""
        return f"postgresql://{SUPERUSER}:{self.password}@{self.host}:{self.port}/{database}"


class ValkeyServer(NamedTuple):
    """A running Valkey; its URL has no password, which is given separately."""

    port: int
    pid: int
    password: str

    @property
    def url(self) -> str:
        """Return the connection URL of database 0."""
        return f"redis://{LOOPBACK}:{self.port}/0"


class ServerProgram(NamedTuple):
    """How to start, probe and stop one kind of server."""

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
    """Serve a PostgreSQL 18 whose files are in `directory`, created when it has none.

    `port` None chooses a free one; `options` are server settings such as `fsync`.
    Raises `StackError` when the server does not answer, with the end of its log.
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
    """Serve a Valkey 9 whose configuration is in `directory`; it keeps nothing on disk.

    `port` None chooses a free one.
    Raises `StackError` when the server does not answer, with the end of its log.
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
    """Serve an empty PostgreSQL 18, fast and without durability, in a folder of its own."""
    # not below pytest's folder: another run of the same user would close that to the server
    with (
        tempfile.TemporaryDirectory(prefix="echo-markets-") as folder,
        run_postgres(Path(folder), options=FAST) as server,
    ):
        yield server


@contextmanager
def serve_valkey() -> Iterator[ValkeyServer]:
    """Serve an empty Valkey 9 in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="echo-markets-") as folder, run_valkey(Path(folder)) as server:
        yield server


@contextmanager
def run_server(program: ServerProgram, port: int | None) -> Iterator[tuple[int, int]]:
    """Run a server on `port`, or on a free one; yield its port and its process id."""
    chosen, process = _start(program, port)
    try:
        yield chosen, process.pid
    finally:
        _stop(process, program.stop_signal)


def _start(program: ServerProgram, port: int | None) -> tuple[int, subprocess.Popen[bytes]]:
    for _ in range(PORT_ATTEMPTS if port is None else 1):
        chosen = port or find_free_port()
        if not is_port_free(chosen):
            continue  # another server has the port, and would answer the probe
        process = _launch(program, chosen)
        try:
            if _wait_until_ready(program, chosen, process):
                return chosen, process
        except BaseException:  # also after Ctrl-C: leave no server behind
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
            start_new_session=True,  # Ctrl-C reaches only the caller, which then stops the server in order
        )
    return process


def _wait_until_ready(program: ServerProgram, port: int, process: subprocess.Popen[bytes]) -> bool:
    """Return True once the server answers, False when it has ended."""
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
    process.send_signal(signal.SIGCONT)  # a test may have paused it; a paused server cannot stop
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
    """Delete every row, and end all other connections.

    Takes a few milliseconds; TRUNCATE, or a copy of an empty database, takes ten times as long or more.
    """
    with open_cursor(url) as cursor:
        cursor.execute(DISCONNECT_OTHERS)
        cursor.execute(LIST_TABLES, (HISTORY_TABLE,))
        tables = [sql.Identifier(name) for (name,) in cursor.fetchall()]
        # all rows go, so foreign keys and triggers have nothing to keep consistent
        cursor.execute("SET session_replication_role = replica")
        for table in tables:
            cursor.execute(sql.SQL("DELETE FROM {}").format(table))


def clear_cache(server: ValkeyServer) -> None:
    """Delete every key."""
    with redis.Redis.from_url(server.url, password=server.password) as client:
        client.flushall()


class GivenSettings(Settings):
    """Settings from the arguments alone: the environment and files are not read."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  # pydantic's signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # as above
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # as above
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # as above
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the arguments as the only source."""
        return (init_settings,)


def build_settings(database_url: str, valkey: ValkeyServer, **settings: Any) -> Settings:
    """Return settings for these servers with short timeouts; `settings` win."""
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
    """Return the environment variables with the same values as `settings` of `build_settings`."""
    values = settings.model_dump(exclude_unset=True)
    return {
        name.upper(): value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        for name, value in values.items()
        if value is not None
    }
