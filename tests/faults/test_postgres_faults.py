"""PostgreSQL faults: callers get answers or errors in time, and every call succeeds after the fault."""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import psycopg2
import pytest

from core.database import Database
from core.errors import DatabaseUnavailable
from core.testing import PostgresServer
from tests.conftest import connected
from tests.faults.conftest import QUERY_TIMEOUT_MS
from tests.faults.probe import FaultProbe
from tests.faults.proxy import Proxy
from tests.patience import stretch, wait_until

Stop = Callable[..., AbstractContextManager[None]]
TERMINATE = """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()"""
# Query timeout + grace of the statement watch (1 s) + its interval (0.5 s) + allowance for a slow machine.
BOUND_SECONDS = QUERY_TIMEOUT_MS / 1000 + 1.0 + 0.5 + 1.5


def list_processes(server: PostgresServer) -> list[int]:
    """Return the process ids of the server and its backends."""
    found = [server.pid]
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(encoding="utf-8").rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == server.pid:
            found.append(int(path.parent.name))
    return found


def test_backends_terminated(
    postgres_probe: FaultProbe, postgres_proxy: Proxy, own_database_url: str
) -> None:
    """After all idle backends are terminated, as in a short failover, no call fails."""
    with connected(own_database_url) as run:
        run(TERMINATE)
        wait_until(lambda: run(TERMINATE) == [(0,)], "the backends have ended")
    wait_until(lambda: not postgres_proxy.has_connections, "the proxy has closed its connections")
    seen = postgres_probe.read_and_write()
    assert seen.startswith("reads: answers; writes: answers;")
    postgres_probe.assert_healed("PostgreSQL: all backends terminated", seen)


def test_crashed_and_restarted(
    postgres_probe: FaultProbe, own_postgres: PostgresServer, own_database_url: str
) -> None:
    """After a backend is killed, PostgreSQL ends every connection and recovers; later calls succeed."""
    with postgres_probe.service._database.session("pid") as database:
        pid = database.execute_sql("SELECT pg_backend_pid()").fetchone()[0]
    os.kill(pid, signal.SIGKILL)
    seen = postgres_probe.read_and_write()

    def answers() -> bool:
        try:
            with connected(own_database_url) as run:
                return run("SELECT 1") == [(1,)]
        except psycopg2.Error:
            return False

    wait_until(answers, "the server has recovered", 30)
    postgres_probe.assert_healed("PostgreSQL crashed and recovered", seen)


def test_terminated_before_commit(
    postgres_probe: FaultProbe, own_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend that is terminated before COMMIT writes nothing, and the caller gets DatabaseUnavailable."""
    commit = Database.commit

    def terminate_and_commit(database: Database) -> None:
        monkeypatch.undo()
        with connected(own_database_url) as run:
            run(TERMINATE)
        commit(database)

    monkeypatch.setattr(Database, "commit", terminate_and_commit)
    seen = postgres_probe.write()
    assert seen == "DatabaseUnavailable"
    assert postgres_probe.read_row() == postgres_probe.acknowledged
    postgres_probe.assert_healed("PostgreSQL: backend terminated before COMMIT", seen, is_fenced=True)


def test_commit_reply_lost(postgres_probe: FaultProbe, postgres_proxy: Proxy) -> None:
    """When the reply to a COMMIT is lost, the caller gets an error, and readers see the new row."""

    def hold_replies(sent: bytes) -> tuple[bytes, bytes]:
        if b"COMMIT" in sent:
            postgres_proxy.pause()
        return sent, b""

    def sever(sent: bytes) -> None:
        if b"COMMIT" in sent:
            postgres_proxy.script = postgres_proxy.after_sent = None
            postgres_proxy.sever()
            postgres_proxy.resume()

    postgres_proxy.script, postgres_proxy.after_sent = hold_replies, sever
    seen = postgres_probe.write()
    assert seen == "DatabaseUnavailable"
    wait_until(lambda: postgres_probe.read_row() in postgres_probe.unanswered, "the server has committed")
    postgres_probe.assert_healed("PostgreSQL: connection cut after COMMIT was sent", seen, is_fenced=True)


def test_commit_arrives_late(
    postgres_probe: FaultProbe, postgres_proxy: Proxy, own_postgres: PostgresServer
) -> None:
    """A COMMIT that arrives after the caller's error and after a read of the old row leaves no stale read."""
    held = threading.Event()
    go = threading.Event()

    def hold(sent: bytes) -> tuple[bytes, bytes]:
        if b"COMMIT" not in sent:
            return sent, b""
        postgres_proxy.script = None
        held.set()
        assert go.wait(20)
        return sent, b""

    postgres_proxy.script = hold
    seen = postgres_probe.write()
    assert held.is_set()
    assert seen == "DatabaseUnavailable"
    late = postgres_probe.unanswered[-1]
    for service in (postgres_probe.service, postgres_probe.other):
        assert service.get_user_by_id(postgres_probe.user_id).name == postgres_probe.acknowledged
    go.set()
    wait_until(lambda: postgres_probe.read_row() == late, "the COMMIT has arrived")
    postgres_probe.assert_healed("PostgreSQL: COMMIT arrives after the caller's error", seen, is_fenced=True)


def test_hung(postgres_probe: FaultProbe, own_postgres: PostgresServer, stopped: Stop) -> None:
    """While PostgreSQL hangs (SIGSTOP), calls fail in time and cached values are served."""
    with postgres_probe.service._database.session("held") as database:
        database.execute_sql("SELECT 1")
    with stopped(*list_processes(own_postgres)):
        started = time.monotonic()
        with pytest.raises(DatabaseUnavailable):
            postgres_probe.service.search_users("a")
        first = time.monotonic() - started
        started = time.monotonic()
        assert postgres_probe.write() == "ConnectFailed"
        second = time.monotonic() - started
        assert postgres_probe.read() == "answers", "cached values are served"
    assert first < BOUND_SECONDS
    # first two idle connections time out, then a new connection after DATABASE_CONNECT_TIMEOUT (2 s)
    assert second < BOUND_SECONDS + 4
    reads = f"reads that miss: DatabaseUnavailable after {first:.1f} s"
    seen = f"{reads}; writes: ConnectFailed after {second:.1f} s"
    postgres_probe.assert_healed("PostgreSQL hung (SIGSTOP)", seen)


def test_hung_in_commit(postgres_probe: FaultProbe, postgres_proxy: Proxy) -> None:
    """When no reply to a COMMIT arrives, the caller gets DatabaseUnavailable in time."""

    def pause(sent: bytes) -> tuple[bytes, bytes]:
        if b"COMMIT" in sent:
            # pause before COMMIT is forwarded, because its reply could arrive before a later pause
            postgres_proxy.script = None
            postgres_proxy.pause()
        return sent, b""

    postgres_proxy.script = pause
    started = time.monotonic()
    seen = postgres_probe.write()
    seconds = time.monotonic() - started
    postgres_proxy.resume()
    assert seen == "DatabaseUnavailable"
    assert seconds < stretch(BOUND_SECONDS)
    postgres_probe.assert_healed(
        "PostgreSQL: no answer to COMMIT", f"{seen} after {seconds:.1f} s", is_fenced=True
    )


def test_closing_while_hung(postgres_probe: FaultProbe, own_postgres: PostgresServer, stopped: Stop) -> None:
    """Closing the pool does not wait for a statement that a hung PostgreSQL never answers."""
    running = threading.Event()
    pool = postgres_probe.service._database._pool

    def run_statement() -> None:
        with (
            pytest.raises(DatabaseUnavailable),
            postgres_probe.service._database.session("stuck") as database,
        ):
            running.set()
            database.execute_sql("SELECT pg_sleep(30)")

    with stopped(*list_processes(own_postgres)):
        thread = threading.Thread(target=run_statement)
        thread.start()
        assert running.wait(5)
        started = time.monotonic()
        pool.close(0.1)
        assert time.monotonic() - started < stretch(BOUND_SECONDS)
        thread.join(5)
    assert not thread.is_alive()


def test_out_of_connections(postgres_probe: FaultProbe, postgres_proxy: Proxy, own_database_url: str) -> None:
    """While other programs hold every connection, the error names max_connections; later calls succeed."""
    errors: list[str] = []
    with ExitStack() as stack:

        def open_connection() -> bool:
            try:
                stack.callback(psycopg2.connect(own_database_url).close)
            except psycopg2.OperationalError:
                return False
            return True

        def is_refused() -> bool:
            if not open_connection():
                # cut the pool's connections and take their places before the pool can reconnect
                postgres_proxy.refuse()
                wait_until(open_connection, "a connection is free")
                postgres_proxy.accept_again()
            try:
                postgres_probe.service.search_users("a")
            except DatabaseUnavailable as error:
                errors.append(str(error))
            return bool(errors)

        wait_until(is_refused, "a caller meets the limit")
        assert "too many clients" in errors[0]
        assert "raise max_connections" in errors[0]
    seen = "DatabaseUnavailable that names it, from calls that need a new connection"
    postgres_probe.assert_healed("PostgreSQL out of connections", seen)


@pytest.mark.parametrize("how", ["ALTER DATABASE", "ALTER SYSTEM"])
def test_read_only(
    postgres_probe: FaultProbe, own_postgres: PostgresServer, own_database_url: str, how: str
) -> None:
    """While PostgreSQL is read-only, writes fail with DatabaseUnavailable; afterwards they succeed."""
    name = own_database_url.rsplit("/", 1)[1]
    target = f"ALTER DATABASE {name}" if how == "ALTER DATABASE" else "ALTER SYSTEM"
    with connected(own_postgres.url()) as run:
        run(f"{target} SET default_transaction_read_only = on")
        run("SELECT pg_reload_conf()")
        postgres_probe.service._database._pool.expire_all()
        wait_until(lambda: postgres_probe.write() == "DatabaseUnavailable", "writes are refused")
        seen = postgres_probe.read_and_write()
        assert seen.startswith("reads: answers; writes: DatabaseUnavailable;")
        run("SET default_transaction_read_only = off")
        run(f"{target} RESET default_transaction_read_only")
        run("SELECT pg_reload_conf()")
    wait_until(lambda: postgres_probe.write() == "answers", "writes are accepted again")
    postgres_probe.assert_healed(f"PostgreSQL read-only ({how})", seen)


def test_idle_connections_cut(postgres_probe: FaultProbe, postgres_proxy: Proxy) -> None:
    """After the network cuts all idle connections, no call fails."""
    postgres_proxy.sever()
    seen = postgres_probe.read_and_write()
    assert seen.startswith("reads: answers; writes: answers;")
    postgres_probe.assert_healed("connections to PostgreSQL severed", seen)


def test_connections_refused(postgres_probe: FaultProbe, postgres_proxy: Proxy) -> None:
    """While PostgreSQL refuses connections, cached reads succeed and writes fail with ConnectFailed."""
    postgres_proxy.refuse()
    seen = postgres_probe.read_and_write()
    postgres_proxy.accept_again()
    assert seen.startswith("reads: answers; writes: ConnectFailed;")
    postgres_probe.assert_healed("PostgreSQL refuses connections", seen)
