"""Runs Debian's PostgreSQL and PgBouncer for the duration of a `with` block.

Owns the paths of the programs, their configuration and their command lines. Both programs refuse to run as
root, so they run as the user of the embedded servers.
"""

import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import pytest
import trustme

from core.settings.texts import LOOPBACK
from core.stack.embedded_servers import prepare_replica
from core.stack.permissions import ServerUser, ensure_server_user, open_ancestors, run_as, set_owner
from core.stack.ports import postgres_answers
from core.testing import PostgresServer, ServerProgram, run_server
from tests.conftest import FAST

PASSWORD = "debian"
PGBOUNCER = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin")


def find_debian_postgres() -> Path | None:
    """Return the folder with the programs of the newest PostgreSQL from Debian; None if there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[4]))
    return found[-1].parent if found else None


def require_pgbouncer() -> str:
    """Return the path of PgBouncer; skip the test if it is not installed."""
    if PGBOUNCER is None:
        pytest.skip("pgbouncer is not installed (Debian package pgbouncer)")
    return PGBOUNCER


def require_debian_postgres() -> Path:
    """Return the folder with Debian's PostgreSQL programs; skip the test if there is none."""
    programs = find_debian_postgres()
    if programs is None:
        pytest.skip("no PostgreSQL of Debian is installed (package postgresql)")
    return programs


def _give_away(directory: Path) -> ServerUser | None:
    """Make the servers' user the owner of a folder that it can reach; return the user, None if not root."""
    user = ensure_server_user()
    if user is not None:
        open_ancestors(directory, user)
    set_owner(user, directory, mode=0o700)
    return user


@contextmanager
def run_debian_postgres(directory: Path) -> Iterator[PostgresServer]:
    """Yield Debian's PostgreSQL with a new cluster in `directory`; clients may use TLS or not."""
    programs, data = require_debian_postgres(), directory / "data"
    user = _give_away(directory)
    password = directory / "password"
    password.write_text(PASSWORD, encoding="utf-8")
    set_owner(user, password, mode=0o600)
    subprocess.run(
        [
            programs / "initdb",
            f"--pgdata={data}",
            "--username=postgres",
            f"--pwfile={password}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
        ],
        check=True,
        capture_output=True,
        cwd=directory,
        **run_as(user),
    )
    certificate = trustme.CA().issue_cert(LOOPBACK)
    for name, content in {
        "server.crt": certificate.cert_chain_pems[0].bytes(),
        "server.key": certificate.private_key_pem.bytes(),
    }.items():
        (data / name).write_bytes(content)
        set_owner(user, data / name, mode=0o600)
    settings = {"listen_addresses": LOOPBACK, "unix_socket_directories": "", "ssl": "on", **FAST}
    settings["shared_preload_libraries"] = "pg_stat_statements"  # part of Debian's server package
    arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]

    def answers(port: int) -> bool:
        try:
            psycopg2.connect(PostgresServer(port, 0, PASSWORD).url(), connect_timeout=2).close()
        except psycopg2.OperationalError:
            return False
        return True

    program = ServerProgram(
        name="Debian's PostgreSQL",
        command=lambda port: [
            str(programs / "postgres"), "-D", str(data), *arguments, "-c", f"port={port}"
        ],
        answers=answers,
        user=user,
        log=directory / "postgres.log",
        stop_signal=signal.SIGINT,
    )  # fmt: skip  # a command line reads better on one line
    with run_server(program, None) as (port, pid):
        yield PostgresServer(port=port, pid=pid, password=PASSWORD)


@contextmanager
def run_debian_replica(directory: Path, primary: PostgresServer) -> Iterator[PostgresServer]:
    """Yield a streaming replica of Debian's PostgreSQL, with its files in `directory`."""
    programs = require_debian_postgres()
    files = prepare_replica(
        directory, primary_port=primary.port, password=primary.password, programs=programs
    )
    settings = {"listen_addresses": LOOPBACK, "unix_socket_directories": "", "fsync": "off"}
    arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    program = ServerProgram(
        name="Debian's replica",
        command=lambda port: [
            str(programs / "postgres"), "-D", str(files.data), *arguments, "-c", f"port={port}"
        ],
        answers=lambda port: postgres_answers(PostgresServer(port, 0, files.password).url()),
        user=files.user,
        log=directory / "postgres.log",
        stop_signal=signal.SIGINT,
    )  # fmt: skip  # a command line reads better on one line
    with run_server(program, None) as (port, pid):
        yield PostgresServer(port=port, pid=pid, password=primary.password)


def prepare_pgbouncer(
    directory: Path, server: PostgresServer, accounts: Mapping[str, str], **options: str
) -> ServerProgram:
    """Return a PgBouncer, not yet started, in front of a server; `accounts` has the password of each role."""
    program = require_pgbouncer()
    user = _give_away(directory)
    users = directory / "users.txt"
    users.write_text(
        "".join(f'"{name}" "{password}"\n' for name, password in accounts.items()), encoding="utf-8"
    )

    def write_configuration(port: int) -> list[str]:
        settings = {
            "listen_addr": LOOPBACK,
            "listen_port": str(port),
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": str(users),
            "pool_mode": "transaction",
            "admin_users": "admin",
            **options,
        }
        configuration = directory / "pgbouncer.ini"
        lines = [
            "[databases]",
            f"* = host={LOOPBACK} port={server.port}",
            "[pgbouncer]",
            *(f"{name} = {value}" for name, value in settings.items()),
        ]
        configuration.write_text("\n".join(lines) + "\n", encoding="utf-8")
        for path in (users, configuration):
            set_owner(user, path, mode=0o600)
        return [program, str(configuration)]

    def answers(port: int) -> bool:
        try:
            psycopg2.connect(
                host=LOOPBACK, port=port, dbname="postgres", user=server_user, password=server_password,
                connect_timeout=2, options="",
            ).close()  # fmt: skip  # keep the arguments on two lines
        except psycopg2.OperationalError:
            return False
        return True

    server_user, server_password = next(iter(accounts.items()))
    return ServerProgram(
        name="PgBouncer",
        command=write_configuration,
        answers=answers,
        user=user,
        log=directory / "pgbouncer.log",
        stop_signal=signal.SIGINT,
    )


@contextmanager
def run_pgbouncer(
    directory: Path, server: PostgresServer, accounts: Mapping[str, str], **options: str
) -> Iterator[int]:
    """Yield the port of a PgBouncer in front of a server; `accounts` has the password of each role."""
    with run_server(prepare_pgbouncer(directory, server, accounts, **options), None) as (port, _):
        yield port
