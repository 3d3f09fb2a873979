"""Runs a primary and its standby for failover tests, and kills, promotes and restarts them."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
from pydantic import SecretStr

from core import Settings
from core.migration import Migrator
from core.stack.embedded_servers import open_cursor, postgres_command, prepare_postgres
from core.stack.ports import postgres_answers
from core.testing import PostgresServer, ServerProgram, run_postgres, run_server
from tests.hosts import Host
from tests.replicas import OPTIONS, run_replica

DATABASE = "replicated"
# The default application name of a standby.
STANDBY = "walreceiver"


class Pair:
    """A migrated primary and its standby; after a failover the former standby is the primary."""

    def __init__(
        self,
        stack: ExitStack,
        make_directory: Callable[[], Path],
        *,
        through: Callable[[int], int] = int,
        host: Host | None = None,
    ) -> None:
        """Start both servers; `through` maps the primary's port to the port that the standby connects to.

        With a `host`, the primary runs on it, and the standby on this machine.
        """
        self._stack = stack
        self._directory = make_directory()
        self.primary = stack.enter_context(
            run_postgres(self._directory, options=OPTIONS)
            if host is None
            else run_postgres_on(host, self._directory)
        )
        with open_cursor(self.primary.url()) as cursor:
            cursor.execute(f"CREATE DATABASE {DATABASE}")
        Migrator(Settings(database_url=SecretStr(self.primary.url(DATABASE)))).up()
        stream = through(self.primary.port)
        self.standby = stack.enter_context(run_replica(make_directory(), self.primary, through=stream))

    @property
    def url(self) -> SecretStr:
        """The URL with both servers, the first primary first."""
        first, second = (f"{server.host}:{server.port}" for server in (self.primary, self.standby))
        return SecretStr(self.primary.url(DATABASE).replace(first, f"{first},{second}"))

    def make_synchronous(self) -> None:
        """Make the primary acknowledge a commit only once the standby has it."""
        with open_cursor(self.primary.url()) as cursor:
            cursor.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{STANDBY}'")
            cursor.execute("SELECT pg_reload_conf()")

    def kill_primary(self) -> None:
        """Kill every process of the first primary, as a power cut does."""
        postmaster = psutil.Process(self.primary.pid)
        for process in (postmaster, *postmaster.children()):
            process.kill()
        # until this process has waited for its child, PostgreSQL considers postmaster.pid as in use
        os.waitpid(postmaster.pid, 0)

    def promote(self) -> float:
        """Promote the standby; return the monotonic time when it accepted writes."""
        with open_cursor(self.standby.url()) as cursor:
            cursor.execute("SELECT pg_promote()")
            if cursor.fetchone() != (True,):
                raise RuntimeError("the standby was not promoted")
        return time.monotonic()

    def stop_waiting_for_standby(self) -> None:
        """Let the first primary acknowledge commits without the standby; works while its host is cut off."""
        with (self._directory / "postgres" / "postgresql.auto.conf").open("a", encoding="utf-8") as file:
            file.write("synchronous_standby_names = ''\n")
        os.kill(self.primary.pid, signal.SIGHUP)

    def start_former_primary(self) -> PostgresServer:
        """Start the first primary again, unchanged and on the same port, so that it accepts writes."""
        options = {**OPTIONS, "synchronous_standby_names": ""}
        return self._stack.enter_context(
            run_postgres(self._directory, port=self.primary.port, options=options)
        )


@contextmanager
def run_postgres_on(host: Host, directory: Path) -> Iterator[PostgresServer]:
    """Yield a PostgreSQL on another host that accepts clients and standbys from this machine."""
    files = prepare_postgres(directory)
    with (files.data / "pg_hba.conf").open("a", encoding="utf-8") as rules:
        rules.writelines(
            f"host {name} all {host.outside}/32 scram-sha-256\n" for name in ("all", "replication")
        )
    options = {**OPTIONS, "listen_addresses": host.address}
    program = ServerProgram(
        name="PostgreSQL",
        command=lambda port: host.build_command(
            postgres_command(files, port=port, options=options), files.user
        ),
        answers=lambda port: postgres_answers(PostgresServer(port, 0, files.password, host.address).url()),
        user=None,
        log=directory / "postgres.log",
        stop_signal=signal.SIGINT,
    )
    with run_server(program, None) as (port, pid):
        yield PostgresServer(port, pid, files.password, host.address)
