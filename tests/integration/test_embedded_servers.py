"""The embedded servers: real ones, reachable only here and only with their password."""

import os
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg2
import pytest
import redis

from core.errors import StackError
from core.settings.texts import LOOPBACK
from core.stack.ports import find_free_port, is_port_free
from core.testing import PostgresServer, ValkeyServer, run_postgres, run_valkey

FAST = {"fsync": "off"}


@pytest.fixture(scope="module")
def directory(server_directory: Callable[[], Path]) -> Path:
    """A folder that several servers use one after the other."""
    return server_directory()


@pytest.fixture
def postgres(directory: Path) -> Iterator[PostgresServer]:
    """A PostgreSQL of this module."""
    with run_postgres(directory, options=FAST) as server:
        yield server


@pytest.fixture
def valkey(directory: Path) -> Iterator[ValkeyServer]:
    """A Valkey of this module."""
    with run_valkey(directory) as server:
        yield server


def fetch(url: str, statement: str) -> object:
    """Return the one value that a statement selects."""
    connection = psycopg2.connect(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
            row = cursor.fetchone()
            return row and row[0]
    finally:
        connection.close()


def test_postgres_is_version_18(postgres: PostgresServer) -> None:
    """The server is PostgreSQL 18 with the given options."""
    assert str(fetch(postgres.url(), "SHOW server_version")).startswith("18.")
    assert fetch(postgres.url(), "SHOW fsync") == "off"
    assert fetch(postgres.url(), "SHOW timezone") == "UTC"


def test_postgres_sorts_in_the_same_way_everywhere(postgres: PostgresServer) -> None:
    """The built-in locale makes the order independent of the operating system."""
    statement = "SELECT datlocprovider FROM pg_database WHERE datname = current_database()"
    assert fetch(postgres.url(), statement) == "b"


def test_postgres_wants_its_password(postgres: PostgresServer) -> None:
    """Other users of this machine can connect neither without a password nor through a socket."""
    with pytest.raises(psycopg2.OperationalError, match="password"):
        psycopg2.connect(postgres.url().replace(postgres.password, "guess"))
    assert fetch(postgres.url(), "SHOW unix_socket_directories") == ""


def test_servers_listen_on_loopback_only(postgres: PostgresServer, valkey: ValkeyServer) -> None:
    """Nothing is reachable from another machine."""
    for pid in (postgres.pid, valkey.pid):
        listening = [
            connection.laddr.ip
            for connection in psutil.Process(pid).net_connections()
            if connection.status == psutil.CONN_LISTEN
        ]
        assert set(listening) == {LOOPBACK}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives the servers another user")
def test_servers_of_root_have_no_privilege(postgres: PostgresServer, valkey: ValkeyServer) -> None:
    """PostgreSQL refuses to run as root, and Valkey does not need root."""
    for pid in (postgres.pid, valkey.pid):
        assert psutil.Process(pid).username() == "echo-markets"


def test_passwords_are_private(directory: Path, postgres: PostgresServer, valkey: ValkeyServer) -> None:
    """No password can be read by others, on disk or in the list of processes."""
    for path in (*directory.glob("*.password"), directory / "valkey" / "valkey.conf", directory / "postgres"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
    for pid in (postgres.pid, valkey.pid):
        command = " ".join(psutil.Process(pid).cmdline())
        assert postgres.password not in command
        assert valkey.password not in command


def test_valkey_is_a_cache(valkey: ValkeyServer) -> None:
    """It writes nothing to disk, evicts keys and requires its password."""
    with redis.Redis.from_url(valkey.url, password=valkey.password) as client:
        assert str(client.info("server")["valkey_version"]).startswith("9.")
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "allkeys-lru"}
        assert client.config_get("save") == {"save": ""}
    with redis.Redis.from_url(valkey.url) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()


def test_data_and_password_survive_a_restart(server_directory: Callable[[], Path]) -> None:
    """A missing folder is created, and one that has a cluster is used again unchanged."""
    directory = server_directory() / "created"
    with run_postgres(directory, options=FAST) as first:
        connection = psycopg2.connect(first.url())
        with connection, connection.cursor() as cursor:
            cursor.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        connection.close()
    with run_postgres(directory, port=first.port) as second:
        assert second.url() == first.url()
        assert fetch(second.url(), "SELECT answer FROM kept") == 42


def test_nothing_is_left_running(directory: Path) -> None:
    """After the block neither a process nor a listener is left."""
    with run_postgres(directory) as postgres, run_valkey(directory) as valkey:
        pass
    assert not psutil.pid_exists(postgres.pid)
    assert not psutil.pid_exists(valkey.pid)
    assert is_port_free(postgres.port)
    assert is_port_free(valkey.port)


def test_paused_and_dead_servers_are_ended(directory: Path) -> None:
    """A test that pauses or kills a server does not block the next one."""
    with run_valkey(directory) as valkey, run_postgres(directory) as postgres:
        os.kill(valkey.pid, signal.SIGSTOP)
        os.kill(postgres.pid, signal.SIGKILL)
    assert not psutil.pid_exists(valkey.pid)
    with run_postgres(directory) as recovered:
        assert fetch(recovered.url(), "SELECT 1") == 1


def test_taken_port_is_an_error(directory: Path) -> None:
    """A given port is not silently replaced by another one."""
    with socket.create_server((LOOPBACK, 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(StackError, match="which is taken"), run_postgres(directory, port=port):
            pass
        with pytest.raises(StackError, match="which is taken"), run_valkey(directory, port=port):
            pass


def test_failed_start_shows_the_log(directory: Path) -> None:
    """The error contains the server's own message."""
    with (
        pytest.raises(StackError, match="unrecognized configuration parameter"),
        run_postgres(directory, options={"nonsense": "1"}),
    ):
        pass


def test_lost_password_is_explained(server_directory: Callable[[], Path]) -> None:
    """Data without its password is not overwritten; the error names the remedy."""
    directory = server_directory()
    with run_postgres(directory, port=find_free_port()):
        (directory / "postgres.password").unlink()
    with pytest.raises(StackError, match="make clean"), run_postgres(directory):
        pass
    assert (directory / "postgres" / "PG_VERSION").exists()
