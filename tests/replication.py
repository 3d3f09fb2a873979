"""A primary and its standby that change places: killed, promoted, started again."""

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import psutil
from pydantic import SecretStr

from core import Settings
from core.migration import Migrator
from core.stack.embedded_servers import open_cursor
from core.stack.ports import LOOPBACK
from core.testing import PostgresServer, run_postgres
from tests.replicas import OPTIONS, run_replica

DATABASE = "replicated"
# The name that a standby has without one of its own.
STANDBY = "walreceiver"


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
        self.standby = stack.enter_context(run_replica(make_directory(), self.primary, through=stream))

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
