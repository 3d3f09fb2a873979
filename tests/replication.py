"""A standby of a test's PostgreSQL: a copy of its files that streams what the primary writes."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.stack.embedded_servers import SUPERUSER, find_postgres_programs
from core.stack.permissions import allow_access, ensure_server_user, give_to, run_as
from core.stack.ports import LOOPBACK
from core.testing import FAST, PostgresServer, run_postgres

# A promoted standby accepts writes without waiting for a standby of its own.
STANDBY_OPTIONS = {**FAST, "synchronous_standby_names": "", "hot_standby_feedback": "off"}


@contextmanager
def run_standby(
    primary: PostgresServer, primary_directory: Path, directory: Path, *, port: int | None = None
) -> Iterator[PostgresServer]:
    """Serve a standby called `standby` of a running primary, which it reaches on `port`, else directly."""
    shutil.copy2(primary_directory / "postgres.password", directory / "postgres.password")
    user, data = ensure_server_user(), directory.resolve() / "postgres"
    data.mkdir(mode=0o700)
    give_to(user, data, mode=0o700)
    allow_access(user, programs=find_postgres_programs(), data=data)
    launch = run_as(user)
    conninfo = f"host={LOOPBACK} port={port or primary.port} user={SUPERUSER} application_name=standby"
    subprocess.run(
        [
            str(find_postgres_programs() / "bin" / "pg_basebackup"),
            *("--dbname", conninfo, "--pgdata", str(data)),
            *("--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast"),
        ],
        **{**launch, "env": {**launch["env"], "PGPASSWORD": primary.password}},
        cwd=data,
        check=True,
        capture_output=True,
    )
    with run_postgres(directory, options=STANDBY_OPTIONS) as standby:
        yield standby
