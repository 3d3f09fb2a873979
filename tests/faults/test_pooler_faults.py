"""PgBouncer, with the containers' configuration, fails under load: no write is lost, no read is stale."""

import configparser
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
from pydantic import SecretStr

from core import Settings
from core.migration import Migrator
from core.stack.ports import find_free_port
from core.testing import PostgresServer, run_postgres, run_server
from tests.chaos.load import run_load
from tests.chaos.report import Fault, run_fault
from tests.conftest import FAST, created_database
from tests.faults.conftest import OwnValkey, on_valkey
from tests.matrix.servers import prepare_pgbouncer
from tests.patience import HEAL_SECONDS
from tests.replication import DATABASE, Pair

CONFIGURATION = Path(__file__).parents[2] / "containers" / "pgbouncer.ini"
# Options with addresses and files, which the test sets itself.
TEST_OPTIONS = ("listen_addr", "listen_port", "unix_socket_dir", "auth_file")
HOLD_SECONDS = 1.5


def read_options() -> dict[str, str]:
    """Return the options of the containers' PgBouncer that are not in TEST_OPTIONS."""
    parser = configparser.ConfigParser(comment_prefixes=(";",))
    parser.read_string(CONFIGURATION.read_text(encoding="utf-8"))
    return {name: value for name, value in parser["pgbouncer"].items() if name not in TEST_OPTIONS}


class PooledPostgres:
    """A PostgreSQL server behind PgBouncer; each can be stopped and started again on its port."""

    def __init__(self, make_directory: Callable[[], Path]) -> None:
        self._servers, self._poolers = ExitStack(), ExitStack()
        self._ports = find_free_port(), find_free_port()
        self._directory = make_directory()
        self.server: PostgresServer
        self.start_server()
        accounts = {"postgres": self.server.password}
        self._program = prepare_pgbouncer(make_directory(), self.server, accounts, **read_options())
        self.start_pooler()

    def start_server(self) -> None:
        """Start PostgreSQL."""
        run = run_postgres(self._directory, port=self._ports[0], options=FAST)
        self.server = self._servers.enter_context(run)

    def start_pooler(self) -> None:
        """Start PgBouncer."""
        self.pooler_port, self._pooler_pid = self._poolers.enter_context(
            run_server(self._program, self._ports[1])
        )

    def stop(self) -> None:
        """Stop PgBouncer and PostgreSQL."""
        self._poolers.close()
        self._servers.close()

    @contextmanager
    def pooler_gone(self, sign: signal.Signals) -> Iterator[None]:
        """Stop PgBouncer with a signal, and start it again at the end of the block."""
        os.kill(self._pooler_pid, sign)
        self._poolers.close()
        yield
        self.start_pooler()

    @contextmanager
    def pooler_hung(self) -> Iterator[None]:
        """Hold PgBouncer with SIGSTOP, so that its connections stay open, until the end of the block."""
        os.kill(self._pooler_pid, signal.SIGSTOP)
        yield
        os.kill(self._pooler_pid, signal.SIGCONT)

    @contextmanager
    def server_gone(self) -> Iterator[None]:
        """Stop PostgreSQL while PgBouncer runs, and start it again at the end of the block."""
        self._servers.close()
        yield
        self.start_server()


@pytest.fixture
def pooled(server_directory: Callable[[], Path]) -> Iterator[PooledPostgres]:
    """Yield PgBouncer and PostgreSQL servers that only this test uses."""
    pooled = PooledPostgres(server_directory)
    yield pooled
    pooled.stop()


@pytest.mark.slow
def test_pooler_faults_lose_no_write(pooled: PooledPostgres, settings: Settings, valkey: OwnValkey) -> None:
    """After PgBouncer is killed, restarted or hung, or PostgreSQL restarted, calls succeed within 5 s."""
    faults = [
        Fault("pooler killed", partial(pooled.pooler_gone, signal.SIGKILL), HEAL_SECONDS, HOLD_SECONDS),
        Fault("pooler restarted", partial(pooled.pooler_gone, signal.SIGINT), HEAL_SECONDS, HOLD_SECONDS),
        Fault("pooler paused", pooled.pooler_hung, HEAL_SECONDS, HOLD_SECONDS),
        Fault("PostgreSQL restarted behind it", pooled.server_gone, HEAL_SECONDS, HOLD_SECONDS),
    ]
    with created_database(pooled.server) as url:
        direct = settings.model_copy(update={"database_url": SecretStr(url)})
        Migrator(direct).up()
        pooler_url = url.replace(f":{pooled.server.port}/", f":{pooled.pooler_port}/")
        given = on_valkey(direct, valkey.server, valkey.server.port)
        with run_load(given.model_copy(update={"database_url": SecretStr(pooler_url)})) as load:
            rows = [run_fault(fault, load, is_healthy=load.can_check_rows) for fault in faults]
    assert not load.problems
    assert all(row.has_passed for row in rows), rows


@pytest.mark.slow
def test_a_pooler_is_pointed_to_the_promoted_standby(
    settings: Settings, valkey: OwnValkey, server_directory: Callable[[], Path]
) -> None:
    """After PgBouncer is pointed to the promoted standby, no write is lost and no read is stale."""
    with ExitStack() as stack:
        pair = Pair(stack, server_directory)
        pair.make_synchronous()
        directory = server_directory()
        accounts = {"postgres": pair.primary.password}
        program = prepare_pgbouncer(directory, pair.primary, accounts, **read_options())
        port, pid = stack.enter_context(run_server(program, None))
        former, promoted = (f"port={server.port}\n" for server in (pair.primary, pair.standby))
        pooler_url = pair.primary.url(DATABASE).replace(f":{pair.primary.port}/", f":{port}/")

        @contextmanager
        def failover() -> Iterator[None]:
            pair.kill_primary()
            yield
            pair.promote()
            configuration = directory / "pgbouncer.ini"
            text = configuration.read_text(encoding="utf-8")
            configuration.write_text(text.replace(former, promoted), encoding="utf-8")
            os.kill(pid, signal.SIGHUP)

        given = on_valkey(settings, valkey.server, valkey.server.port)
        with run_load(given.model_copy(update={"database_url": SecretStr(pooler_url)})) as load:
            fault = Fault("primary killed, standby promoted", failover, HEAL_SECONDS, HOLD_SECONDS)
            row = run_fault(fault, load, is_healthy=load.can_check_rows)
    assert not load.problems
    assert row.has_passed, row
