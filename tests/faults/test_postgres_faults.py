"""PostgreSQL fails in every way: the caller gets an error in time, and it heals by itself."""

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
from tests.faults.conftest import QUERY_TIMEOUT
from tests.faults.proxy import Proxy
from tests.faults.subject import Subject
from tests.patience import stretch, wait_until

Stop = Callable[..., AbstractContextManager[None]]
TERMINATE = """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()"""
# The query timeout, the grace after it, one look of the watch, and a slow machine.
BOUND_SECONDS = QUERY_TIMEOUT / 1000 + 1.0 + 0.5 + 1.5


def processes_of(server: PostgresServer) -> list[int]:
    """Return the server's processes, its backends included."""
    found = [server.pid]
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(encoding="utf-8").rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == server.pid:
            found.append(int(path.parent.name))
    return found


def test_backends_terminated(stored: Subject, postgres_proxy: Proxy, own_database_url: str) -> None:
    """As in a short failover, the idle connection is found to be gone, and no caller sees an error."""
    with connected(own_database_url) as run:
        run(TERMINATE)
        wait_until(lambda: run(TERMINATE) == [(0,)], "they have ended")
    wait_until(lambda: not postgres_proxy.has_connections, "the proxy has passed it on")
    seen = stored.use()
    assert seen.startswith("reads: answers; writes: answers;")
    stored.finish("PostgreSQL: all backends terminated", seen)


def test_crashed_and_restarted(stored: Subject, own_postgres: PostgresServer, own_database_url: str) -> None:
    """After SIGKILL of one backend the server ends every connection, recovers and is used again."""
    with stored.service._database.session("pid") as database:
        pid = database.execute_sql("SELECT pg_backend_pid()").fetchone()[0]
    os.kill(pid, signal.SIGKILL)
    seen = stored.use()

    def answers() -> bool:
        try:
            with connected(own_database_url) as run:
                return run("SELECT 1") == [(1,)]
        except psycopg2.Error:
            return False

    wait_until(answers, "the server has recovered", 30)
    stored.finish("PostgreSQL crashed and recovered", seen)


def test_terminated_before_commit(
    stored: Subject, own_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend that ends between the last statement and COMMIT has written nothing."""
    commit = Database.commit

    def terminate_and_commit(database: Database) -> None:
        monkeypatch.undo()
        with connected(own_database_url) as run:
            run(TERMINATE)
        commit(database)

    monkeypatch.setattr(Database, "commit", terminate_and_commit)
    seen = stored.write()
    assert seen == "DatabaseUnavailable"
    assert stored.read_row() == stored.acknowledged
    stored.finish("PostgreSQL: backend terminated before COMMIT", seen, is_fenced=True)


def test_answer_of_commit_lost(stored: Subject, postgres_proxy: Proxy) -> None:
    """The answer to a COMMIT is lost: the caller gets an error, readers see the new row."""

    def hold_answers(sent: bytes) -> tuple[bytes, bytes]:
        if b"COMMIT" in sent:
            postgres_proxy.pause()
        return sent, b""

    def sever(sent: bytes) -> None:
        if b"COMMIT" in sent:
            postgres_proxy.script = postgres_proxy.after_sent = None
            postgres_proxy.sever()
            postgres_proxy.resume()

    postgres_proxy.script, postgres_proxy.after_sent = hold_answers, sever
    seen = stored.write()
    assert seen == "DatabaseUnavailable"
    wait_until(lambda: stored.read_row() in stored.unanswered, "the server has committed")
    stored.finish("PostgreSQL: connection cut after COMMIT was sent", seen, is_fenced=True)


def test_commit_arrives_late(stored: Subject, postgres_proxy: Proxy, own_postgres: PostgresServer) -> None:
    """The caller has its error and a reader the old row before the COMMIT arrives."""
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
    seen = stored.write()
    assert held.is_set()
    assert seen == "DatabaseUnavailable"
    late = stored.unanswered[-1]
    for service in (stored.service, stored.other):
        assert service.get_user_by_id(stored.user_id).name == stored.acknowledged
    go.set()
    wait_until(lambda: stored.read_row() == late, "the COMMIT has arrived")
    stored.finish("PostgreSQL: COMMIT arrives after the caller's error", seen, is_fenced=True)


def test_hung(stored: Subject, own_postgres: PostgresServer, stopped: Stop) -> None:
    """While SIGSTOP holds every process, no call waits much longer than the query timeout."""
    with stored.service._database.session("held") as database:
        database.execute_sql("SELECT 1")
    with stopped(*processes_of(own_postgres)):
        started = time.monotonic()
        with pytest.raises(DatabaseUnavailable):
            stored.service.search_users("a")
        first = time.monotonic() - started
        started = time.monotonic()
        assert stored.write() == "ConnectFailed"
        second = time.monotonic() - started
        assert stored.read() == "answers", "what is cached is served"
    assert first < BOUND_SECONDS
    # two idle connections are pinged, then one is opened: DATABASE_CONNECT_TIMEOUT
    assert second < BOUND_SECONDS + 4
    reads = f"reads that miss: DatabaseUnavailable after {first:.1f} s"
    seen = f"{reads}; writes: ConnectFailed after {second:.1f} s"
    stored.finish("PostgreSQL hung (SIGSTOP)", seen)


def test_hung_in_commit(stored: Subject, postgres_proxy: Proxy) -> None:
    """A COMMIT whose answer the network swallows ends in time, with an unknown outcome."""

    def pause(sent: bytes) -> tuple[bytes, bytes]:
        if b"COMMIT" in sent:
            # before it is forwarded: its answer may be quicker than this thread
            postgres_proxy.script = None
            postgres_proxy.pause()
        return sent, b""

    postgres_proxy.script = pause
    started = time.monotonic()
    seen = stored.write()
    seconds = time.monotonic() - started
    postgres_proxy.resume()
    assert seen == "DatabaseUnavailable"
    assert seconds < stretch(BOUND_SECONDS)
    stored.finish("PostgreSQL: no answer to COMMIT", f"{seen} after {seconds:.1f} s", is_fenced=True)


def test_closing_while_hung(stored: Subject, own_postgres: PostgresServer, stopped: Stop) -> None:
    """An unanswered statement does not delay the shutdown."""
    running = threading.Event()
    pool = stored.service._database._pool

    def ask() -> None:
        with pytest.raises(DatabaseUnavailable), stored.service._database.session("stuck") as database:
            running.set()
            database.execute_sql("SELECT pg_sleep(30)")

    with stopped(*processes_of(own_postgres)):
        thread = threading.Thread(target=ask)
        thread.start()
        assert running.wait(5)
        started = time.monotonic()
        pool.close(0.1)
        assert time.monotonic() - started < stretch(BOUND_SECONDS)
        thread.join(5)
    assert not thread.is_alive()


def test_out_of_connections(stored: Subject, postgres_proxy: Proxy, own_database_url: str) -> None:
    """When other programs hold every connection, the error names the remedy; later calls succeed."""
    errors: list[str] = []
    with ExitStack() as stack:

        def take_one() -> bool:
            try:
                stack.callback(psycopg2.connect(own_database_url).close)
            except psycopg2.OperationalError:
                return False
            return True

        def is_refused() -> bool:
            if not take_one():
                # what the pool still has goes to somebody else, before the pool has it again
                postgres_proxy.refuse()
                wait_until(take_one, "the server has noticed")
                postgres_proxy.accept_again()
            try:
                stored.service.search_users("a")
            except DatabaseUnavailable as error:
                errors.append(str(error))
            return bool(errors)

        wait_until(is_refused, "a caller meets the limit")
        assert "too many clients" in errors[0]
        assert "raise max_connections" in errors[0]
    seen = "DatabaseUnavailable that names it, from calls that need a new connection"
    stored.finish("PostgreSQL out of connections", seen)


@pytest.mark.parametrize("how", ["ALTER DATABASE", "ALTER SYSTEM"])
def test_read_only(stored: Subject, own_postgres: PostgresServer, own_database_url: str, how: str) -> None:
    """Writes on old and new connections are refused while it is read-only, and no longer."""
    name = own_database_url.rsplit("/", 1)[1]
    target = f"ALTER DATABASE {name}" if how == "ALTER DATABASE" else "ALTER SYSTEM"
    with connected(own_postgres.url()) as run:
        run(f"{target} SET default_transaction_read_only = on")
        run("SELECT pg_reload_conf()")
        stored.service._database._pool.expire_all()
        wait_until(lambda: stored.write() == "DatabaseUnavailable", "writes are refused")
        seen = stored.use()
        assert seen.startswith("reads: answers; writes: DatabaseUnavailable;")
        run("SET default_transaction_read_only = off")
        run(f"{target} RESET default_transaction_read_only")
        run("SELECT pg_reload_conf()")
    wait_until(lambda: stored.write() == "answers", "writes are accepted again")
    stored.finish(f"PostgreSQL read-only ({how})", seen)


def test_severed(stored: Subject, postgres_proxy: Proxy) -> None:
    """All idle connections are cut at once, which is noticed before one is used."""
    postgres_proxy.sever()
    seen = stored.use()
    assert seen.startswith("reads: answers; writes: answers;")
    stored.finish("connections to PostgreSQL severed", seen)


def test_refused(stored: Subject, postgres_proxy: Proxy) -> None:
    """While nothing listens, cached values are served, and all other calls fail at once."""
    postgres_proxy.refuse()
    seen = stored.use()
    postgres_proxy.accept_again()
    assert seen.startswith("reads: answers; writes: ConnectFailed;")
    stored.finish("PostgreSQL refuses connections", seen)
