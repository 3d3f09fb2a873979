"""A streaming replica of an embedded PostgreSQL: makes its data directory, a copy of the primary's.

Starts no server; the command line is that of any embedded PostgreSQL (`core.stack.embedded_servers`).
"""

import shutil
import subprocess
from pathlib import Path

from core.errors import StackError
from core.stack.embedded_servers import PostgresFiles, find_postgres_programs
from core.stack.permissions import allow_access, ensure_server_user, give_to, run_as
from core.stack.ports import LOOPBACK


def prepare_replica(
    directory: Path,
    *,
    primary_port: int,
    password: str,
    primary_host: str = LOOPBACK,
    programs: Path | None = None,
) -> PostgresFiles:
    """Copy the primary that listens on a port into `directory`, unless there is a copy already.

    `password` is the superuser's, on the primary as on the replica. `programs` is the folder of PostgreSQL's
    programs, by default those of the embedded one. Raises `StackError` when the copy fails.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = PostgresFiles(
        data=directory.resolve() / "postgres",
        password=password,
        user=ensure_server_user(),
    )
    allow_access(files.user, programs=find_postgres_programs(), data=files.data)
    if not (files.data / "PG_VERSION").exists():
        _copy_primary(files, primary_host, primary_port, programs or find_postgres_programs() / "bin")
    return files


def _copy_primary(files: PostgresFiles, host: str, port: int, programs: Path) -> None:
    # copy into a new folder, and rename it when complete: a killed copy leaves no half-made replica
    fresh = files.data.with_name("postgres.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    give_to(files.user, fresh, mode=0o700)
    started = run_as(files.user)
    started["env"]["PGPASSWORD"] = files.password
    result = subprocess.run(
        [
            str(programs / "pg_basebackup"),
            f"--host={host}",
            f"--port={port}",
            "--username=postgres",
            f"--pgdata={fresh}",
            "--write-recovery-conf",
            "--checkpoint=fast",
            "--no-sync",
        ],
        **started,
        cwd=fresh,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise StackError(f"pg_basebackup failed in {fresh}: {result.stderr.strip() or result.stdout.strip()}")
    fresh.rename(files.data)
