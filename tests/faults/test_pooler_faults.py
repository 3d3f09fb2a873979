"""PgBouncer ends and returns under load, with the settings of the containers; nothing is lost or stale."""

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
# addresses and files are those of the test
OWN = ("listen_addr", "listen_port", "unix_socket_dir", "auth_file")
HOLD_SECONDS = 1.5


def read_options() -> dict[str, str]:
    """Return what the containers' PgBouncer is told."""
    parser = configparser.ConfigParser(comment_prefixes=(";",))
    parser.read_string(CONFIGURATION.read_text(encoding="utf-8"))
    return {name: value for name, value in parser["pgbouncer"].items() if name not in OWN}


class Chain:
    """A PostgreSQL and the PgBouncer before it, each of which can end and return on its port."""

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
        """Serve."""
        run = run_postgres(self._directory, port=self._ports[0], options=FAST)
        self.server = self._servers.enter_context(run)

    def start_pooler(self) -> None:
        """Pool."""
        self.pooler_port, self._pooler_pid = self._poolers.enter_context(
            run_server(self._program, self._ports[1])
        )

    def stop(self) -> None:
        """End both."""
        self._poolers.close()
        self._servers.close()

    @contextmanager
    def pooler_gone(self, sign: signal.Signals) -> Iterator[None]:
        """Send a signal that ends PgBouncer; the fault ends with its return."""
        os.kill(self._pooler_pid, sign)
        self._poolers.close()
        yield
        self.start_pooler()

    @contextmanager
    def pooler_hung(self) -> Iterator[None]:
        """Stop PgBouncer, which keeps its connections."""
        os.kill(self._pooler_pid, signal.SIGSTOP)
        yield
        os.kill(self._pooler_pid, signal.SIGCONT)

    @contextmanager
    def server_gone(self) -> Iterator[None]:
        """Shut PostgreSQL down while PgBouncer goes on."""
        self._servers.close()
        yield
        self.start_server()


@pytest.fixture
def chain(server_directory: Callable[[], Path]) -> Iterator[Chain]:
    """A PgBouncer and a PostgreSQL of the test's own."""
    chain = Chain(server_directory)
    yield chain
    chain.stop()


@pytest.mark.slow
def test_a_pooler_that_returns_has_lost_nothing(chain: Chain, settings: Settings, valkey: OwnValkey) -> None:
    """After a kill, a stop, a hang or a restart of PostgreSQL behind it, all heals within 5 s."""
    faults = [
        Fault("pooler killed", partial(chain.pooler_gone, signal.SIGKILL), HEAL_SECONDS, HOLD_SECONDS),
        Fault("pooler restarted", partial(chain.pooler_gone, signal.SIGINT), HEAL_SECONDS, HOLD_SECONDS),
        Fault("pooler paused", chain.pooler_hung, HEAL_SECONDS, HOLD_SECONDS),
        Fault("PostgreSQL restarted behind it", chain.server_gone, HEAL_SECONDS, HOLD_SECONDS),
    ]
    with created_database(chain.server) as url:
        direct = settings.model_copy(update={"database_url": SecretStr(url)})
        Migrator(direct).up()
        pooled = url.replace(f":{chain.server.port}/", f":{chain.pooler_port}/")
        given = on_valkey(direct, valkey.server, valkey.server.port)
        with run_load(given.model_copy(update={"database_url": SecretStr(pooled)})) as load:
            rows = [run_fault(fault, load, is_healthy=load.can_check_rows) for fault in faults]
    assert not load.problems
    assert all(row.has_passed for row in rows), rows


@pytest.mark.slow
def test_a_pooler_is_sent_to_the_promoted_standby(
    settings: Settings, valkey: OwnValkey, server_directory: Callable[[], Path]
) -> None:
    """The pooler gets another host and SIGHUP; every process then notices the new timeline."""
    with ExitStack() as stack:
        pair = Pair(stack, server_directory)
        pair.make_synchronous()
        directory = server_directory()
        accounts = {"postgres": pair.primary.password}
        program = prepare_pgbouncer(directory, pair.primary, accounts, **read_options())
        port, pid = stack.enter_context(run_server(program, None))
        former, promoted = (f"port={server.port}\n" for server in (pair.primary, pair.standby))
        pooled = pair.primary.url(DATABASE).replace(f":{pair.primary.port}/", f":{port}/")

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
        with run_load(given.model_copy(update={"database_url": SecretStr(pooled)})) as load:
            fault = Fault("primary killed, standby promoted", failover, HEAL_SECONDS, HOLD_SECONDS)
            row = run_fault(fault, load, is_healthy=load.can_check_rows)
    assert not load.problems
    assert row.has_passed, row
