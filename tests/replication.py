"""A primary and its standby on embedded servers: streaming, killed, promoted, started again."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
from pydantic import SecretStr

from core import Settings
from core.migration import Migrator
from core.stack.embedded_servers import SUPERUSER, find_postgres_programs, open_cursor
from core.stack.permissions import allow_access, ensure_server_user, give_to, run_as
from core.stack.ports import LOOPBACK
from core.testing import FAST, PostgresServer, run_postgres

DATABASE = "replicated"
# The name of every standby in pg_stat_replication and for synchronous_standby_names.
STANDBY = "standby"
# What returns after a crash is what was acknowledged.
OPTIONS = {**FAST, "synchronous_commit": "on", "wal_level": "replica", "max_wal_senders": "4"}


@contextmanager
def run_standby(
    primary: PostgresServer, primary_directory: Path, directory: Path, *, port: int | None = None
) -> Iterator[PostgresServer]:
    """Serve a standby of a running primary, which it reaches on `port`, else directly."""
    shutil.copy2(primary_directory / "postgres.password", directory / "postgres.password")
    user, data = ensure_server_user(), directory.resolve() / "postgres"
    data.mkdir(mode=0o700)
    give_to(user, data, mode=0o700)
    allow_access(user, programs=find_postgres_programs(), data=data)
    launch = run_as(user)
    conninfo = f"host={LOOPBACK} port={port or primary.port} user={SUPERUSER} application_name={STANDBY}"
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
    with run_postgres(directory, options=OPTIONS) as standby:
        yield standby


class Pair:
    """A migrated primary and its standby; after a failover the former standby is the primary."""

    def __init__(
        self, stack: ExitStack, make_directory: Callable[[], Path], *, through: Callable[[int], int] = int
    ) -> None:
        """Start both; `through` gets the primary's port and returns that for the standby's stream."""
        self._stack = stack
        self._directory = make_directory()
        self.primary = stack.enter_context(run_postgres(self._directory, options=OPTIONS))
        with open_cursor(self.primary.url()) as cursor:
            cursor.execute(f"CREATE DATABASE {DATABASE}")
        Migrator(Settings(database_url=SecretStr(self.primary.url(DATABASE)))).up()
        stream = through(self.primary.port)
        self.standby = stack.enter_context(
            run_standby(self.primary, self._directory, make_directory(), port=stream)
        )

    @property
    def url(self) -> SecretStr:
        """The URL that names both, the first primary first."""
        one, both = f"{LOOPBACK}:{self.primary.port}", f"{LOOPBACK}:{self.primary.port},{LOOPBACK}:"
        return SecretStr(self.primary.url(DATABASE).replace(one, f"{both}{self.standby.port}"))

    def make_synchronous(self) -> None:
        """Acknowledge a commit once the standby has it."""
        with open_cursor(self.primary.url()) as cursor:
            cursor.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{STANDBY}'")
            cursor.execute("SELECT pg_reload_conf()")

    def has_replayed(self) -> bool:
        """Say whether the standby has everything that was committed."""
        with open_cursor(self.primary.url()) as cursor, open_cursor(self.standby.url()) as other:
            cursor.execute("SELECT pg_current_wal_insert_lsn()")
            other.execute("SELECT pg_last_wal_replay_lsn() >= %s", cursor.fetchone())
            return other.fetchone() == (True,)

    def kill_primary(self) -> None:
        """Kill every process of the first primary, as a power cut does."""
        postmaster = psutil.Process(self.primary.pid)
        for process in (postmaster, *postmaster.children()):
            process.kill()
        # a process that nobody has waited for keeps the lock file
        os.waitpid(postmaster.pid, 0)

    def promote(self) -> float:
        """Promote the standby; return when it accepted writes."""
        with open_cursor(self.standby.url()) as cursor:
            cursor.execute("SELECT pg_promote()")
            if cursor.fetchone() != (True,):
                raise RuntimeError("the standby was not promoted")
        return time.monotonic()

    def start_former_primary(self) -> PostgresServer:
        """Start the first primary again as it was, on its port: it accepts writes."""
        options = {**OPTIONS, "synchronous_standby_names": ""}
        return self._stack.enter_context(
            run_postgres(self._directory, port=self.primary.port, options=options)
        )
