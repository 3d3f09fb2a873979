"""Tests of the embedded servers: start, stop, and access only from this machine with a password."""

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
    """Return a folder that the servers of these tests use one after the other."""
    return server_directory()


@pytest.fixture
def postgres(directory: Path) -> Iterator[PostgresServer]:
    """Yield a PostgreSQL server in the folder."""
    with run_postgres(directory, options=FAST) as server:
        yield server


@pytest.fixture
def valkey(directory: Path) -> Iterator[ValkeyServer]:
    """Yield a Valkey server in the folder."""
    with run_valkey(directory) as server:
        yield server


def fetch(url: str, statement: str) -> object:
    """Return the single value that a statement selects."""
    connection = psycopg2.connect(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
            row = cursor.fetchone()
            return row and row[0]
    finally:
        connection.close()


def test_postgres_is_version_18(postgres: PostgresServer) -> None:
    """The server is PostgreSQL 18 with the given option `fsync=off` and the time zone UTC."""
    assert str(fetch(postgres.url(), "SHOW server_version")).startswith("18.")
    assert fetch(postgres.url(), "SHOW fsync") == "off"
    assert fetch(postgres.url(), "SHOW timezone") == "UTC"


def test_postgres_uses_the_built_in_locale(postgres: PostgresServer) -> None:
    """The database uses the built-in locale, so its sort order does not depend on the operating system."""
    statement = "SELECT datlocprovider FROM pg_database WHERE datname = current_database()"
    assert fetch(postgres.url(), statement) == "b"


def test_postgres_requires_its_password(postgres: PostgresServer) -> None:
    """PostgreSQL refuses a wrong password and has no Unix socket."""
    with pytest.raises(psycopg2.OperationalError, match="password"):
        psycopg2.connect(postgres.url().replace(postgres.password, "guess"))
    assert fetch(postgres.url(), "SHOW unix_socket_directories") == ""


def test_servers_listen_on_loopback_only(postgres: PostgresServer, valkey: ValkeyServer) -> None:
    """PostgreSQL and Valkey listen only on 127.0.0.1."""
    for pid in (postgres.pid, valkey.pid):
        listening = [
            connection.laddr.ip
            for connection in psutil.Process(pid).net_connections()
            if connection.status == psutil.CONN_LISTEN
        ]
        assert set(listening) == {LOOPBACK}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives the servers another user")
def test_servers_of_root_run_as_another_user(postgres: PostgresServer, valkey: ValkeyServer) -> None:
    """If root starts the servers, they run as the user `echo-markets`. PostgreSQL refuses to run as root."""
    for pid in (postgres.pid, valkey.pid):
        assert psutil.Process(pid).username() == "echo-markets"


def test_passwords_are_private(directory: Path, postgres: PostgresServer, valkey: ValkeyServer) -> None:
    """Other users cannot read the files with passwords, and no command line contains a password."""
    for path in (*directory.glob("*.password"), directory / "valkey" / "valkey.conf", directory / "postgres"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
    for pid in (postgres.pid, valkey.pid):
        command = " ".join(psutil.Process(pid).cmdline())
        assert postgres.password not in command
        assert valkey.password not in command


def test_valkey_is_configured_as_a_cache(valkey: ValkeyServer) -> None:
    """Valkey evicts keys by LRU, saves nothing to disk and requires its password."""
    with redis.Redis.from_url(valkey.url, password=valkey.password) as client:
        assert str(client.info("server")["valkey_version"]).startswith("9.")
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "allkeys-lru"}
        assert client.config_get("save") == {"save": ""}
    with redis.Redis.from_url(valkey.url) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()


def test_data_and_password_survive_a_restart(server_directory: Callable[[], Path]) -> None:
    """`run_postgres` creates its folder. A second server in the folder has the same data and password."""
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
    """After the `with` block no process runs, and the ports are free."""
    with run_postgres(directory) as postgres, run_valkey(directory) as valkey:
        pass
    assert not psutil.pid_exists(postgres.pid)
    assert not psutil.pid_exists(valkey.pid)
    assert is_port_free(postgres.port)
    assert is_port_free(valkey.port)


def test_paused_and_dead_servers_are_ended(directory: Path) -> None:
    """The `with` block ends although one server is paused and one is killed.

    PostgreSQL can start again in the same folder.
    """
    with run_valkey(directory) as valkey, run_postgres(directory) as postgres:
        os.kill(valkey.pid, signal.SIGSTOP)
        os.kill(postgres.pid, signal.SIGKILL)
    assert not psutil.pid_exists(valkey.pid)
    with run_postgres(directory) as recovered:
        assert fetch(recovered.url(), "SELECT 1") == 1


def test_taken_port_is_an_error(directory: Path) -> None:
    """A given port that is taken raises an error."""
    with socket.create_server((LOOPBACK, 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(StackError, match="which is taken"), run_postgres(directory, port=port):
            pass
        with pytest.raises(StackError, match="which is taken"), run_valkey(directory, port=port):
            pass


def test_failed_start_shows_the_log(directory: Path) -> None:
    """If PostgreSQL does not start, the error contains its message."""
    with (
        pytest.raises(StackError, match="unrecognized configuration parameter"),
        run_postgres(directory, options={"nonsense": "1"}),
    ):
        pass


def test_lost_password_is_explained(server_directory: Callable[[], Path]) -> None:
    """If the password file is missing, the data stays unchanged and the error names `make clean`."""
    directory = server_directory()
    with run_postgres(directory, port=find_free_port()):
        (directory / "postgres.password").unlink()
    with pytest.raises(StackError, match="make clean"), run_postgres(directory):
        pass
    assert (directory / "postgres" / "PG_VERSION").exists()
