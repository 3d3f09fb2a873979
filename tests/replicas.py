"""Runs a PostgreSQL primary with a streaming replica, and disturbs the replica.

The primary flushes its WAL at commit, as in production: WAL that is not flushed is not sent to a replica.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from pydantic import SecretStr

from core import EnhancedDatabaseService, Settings
from core.stack.embedded_servers import postgres_command, prepare_replica
from core.stack.ports import postgres_answers
from core.testing import (
    ENCRYPTION_KEYS,
    PostgresServer,
    ServerProgram,
    ValkeyServer,
    run_postgres,
    run_server,
)
from tests.conftest import connected
from tests.patience import wait_until

DATABASE = "postgres"
ON_REPLICA = ("replica", "replayed")
OPTIONS = {"fsync": "off", "full_page_writes": "off"}


class ReplicaPair(NamedTuple):
    """A primary and its replica."""

    primary: PostgresServer
    replica: PostgresServer

    def settings(self, valkey: ValkeyServer | None, **more: Any) -> Settings:
        """Return the settings of a process that uses primary and replica."""
        return Settings(
            database_url=SecretStr(self.primary.url(DATABASE)),
            database_replica_urls=SecretStr(self.replica.url(DATABASE)),
            redis_url=SecretStr(valkey.url if valkey else "redis://127.0.0.1:1/0"),
            redis_password=SecretStr(valkey.password) if valkey else None,
            enable_redis_cache=valkey is not None,
            encryption_keys=SecretStr(ENCRYPTION_KEYS),
            **{"database_pool_timeout": 5_000, "database_connect_timeout": 5_000, **more},
        )

    def paused(self) -> AbstractContextManager[None]:
        """Pause replay on the replica for the duration of a `with` block; it still receives the WAL."""
        return paused_replay(self.replica.url(DATABASE))

    @contextmanager
    def stopped_receiver(self) -> Iterator[None]:
        """Stop the replica's WAL receiver with SIGSTOP for the duration of a `with` block."""
        with connected(self.replica.url(DATABASE)) as run:
            # there is no receiver while the replica connects
            pids = [pid for (pid,) in run("SELECT pid FROM pg_stat_wal_receiver")]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def wait_until_replayed(self) -> None:
        """Wait until the replica has replayed all WAL that the primary has flushed."""
        wait_until_replayed(self.primary, self.replica)


def wait_until_replayed(primary: PostgresServer, replica: PostgresServer) -> None:
    """Wait until a replica has replayed all WAL that the primary has flushed."""
    with connected(primary.url()) as run:
        [(lsn,)] = run("SELECT pg_current_wal_flush_lsn()::text")
    with connected(replica.url()) as run:
        wait_until(
            lambda: run("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", (lsn,)) == [(True,)],
            "the replica has everything",
            20.0,
        )


@contextmanager
def paused_replay(url: str) -> Iterator[None]:
    """Pause replay on a replica for the duration of a `with` block; it still receives the WAL."""
    with connected(url) as run:
        run("SELECT pg_wal_replay_pause()")
        wait_until(
            lambda: run("SELECT pg_get_wal_replay_pause_state()") == [("paused",)], "replay is paused", 20.0
        )
        try:
            yield
        finally:
            run("SELECT pg_wal_replay_resume()")


@contextmanager
def run_replica(
    directory: Path, primary: PostgresServer, *, port: int | None = None, through: int | None = None
) -> Iterator[PostgresServer]:
    """Yield a running replica whose files are in `directory`; an empty directory is filled from the primary.

    The replica connects to the primary on the port `through` (such as that of a proxy); None: directly.
    """
    files = prepare_replica(
        directory,
        primary_host=primary.host,
        primary_port=through or primary.port,
        password=primary.password,
    )
    program = ServerProgram(
        name="the replica",
        command=lambda chosen: postgres_command(files, port=chosen, options=OPTIONS),
        answers=lambda chosen: postgres_answers(PostgresServer(chosen, 0, files.password).url()),
        user=files.user,
        log=directory / "postgres.log",
        stop_signal=signal.SIGINT,
    )
    with run_server(program, port) as (chosen, pid):
        yield PostgresServer(port=chosen, pid=pid, password=files.password)


@contextmanager
def run_pair(make_directory: Callable[[], Path]) -> Iterator[ReplicaPair]:
    """Yield a running primary and its replica."""
    with (
        run_postgres(make_directory(), options=OPTIONS) as primary,
        run_replica(make_directory(), primary) as replica,
    ):
        yield ReplicaPair(primary, replica)


@contextmanager
def hung(server: PostgresServer) -> Iterator[None]:
    """Stop every process of a server with SIGSTOP for the duration of a `with` block."""
    parent = psutil.Process(server.pid)
    stopped = [parent, *parent.children(recursive=True)]
    for process in stopped:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    try:
        yield
    finally:
        for process in stopped:
            with suppress(psutil.NoSuchProcess):
                process.resume()


@contextmanager
def disturbed(pair: ReplicaPair) -> Iterator[None]:
    """During a `with` block, pause replay, stop the WAL receiver and delay replay, again and again."""
    stopping = threading.Event()

    def disturb() -> None:
        with connected(pair.replica.url(DATABASE)) as run:
            while not stopping.is_set():
                with pair.paused():
                    stopping.wait(0.3)
                stopping.wait(0.3)
                with pair.stopped_receiver():
                    stopping.wait(0.2)
                for delay in (50, 0):
                    run(f"ALTER SYSTEM SET recovery_min_apply_delay = {delay}")
                    run("SELECT pg_reload_conf()")
                    stopping.wait(0.5)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def count_reads(service: EnhancedDatabaseService) -> dict[tuple[str, str], int]:
    """Return the values of `echo_db_reads_total` by its labels server and reason."""
    return {
        (sample.labels["server"], sample.labels["reason"]): int(sample.value)
        for family in service.metrics.collect_own()
        for sample in family.samples
        if sample.name == "echo_db_reads_total"
    }


def wait_until_used(service: EnhancedDatabaseService) -> None:
    """Wait until the service reads from every replica."""
    wait_until(
        lambda: all(state.reason is None for state in service.replica_stats()), "the replicas are used", 20.0
    )
