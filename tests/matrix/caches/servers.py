"""Runs Redis or Valkey with any configuration, for the duration of a `with` block.

Owns the paths of the programs and their command lines. A test administers a server through its Unix socket,
whatever port the server listens on.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis

from core.settings.texts import LOOPBACK
from core.stack.embedded_servers import find_valkey_program
from core.stack.ports import find_free_port
from tests.hosts import Host
from tests.patience import stretch

# Tests with a program are skipped if it is not installed.
PROGRAMS = ("valkey", "redis")
START_SECONDS = 20.0
STOP_SECONDS = 10.0


def require_program(name: str) -> str:
    """Return the path of a server program; skip the test if the program is not installed."""
    if name == "valkey":
        return str(find_valkey_program())
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("redis-server is not installed (Debian package redis-server)")
    return found


class TlsFiles(NamedTuple):
    """Certificate, key and CA certificate of servers that accept only TLS and replicate over TLS."""

    certificate: Path
    key: Path
    authority: Path

    def list_directives(self, port: int) -> dict[str, str]:
        """Return the directives of redis.conf for TLS on a port."""
        return {
            "port": "0",
            "tls-port": str(port),
            "tls-cert-file": str(self.certificate),
            "tls-key-file": str(self.key),
            "tls-ca-cert-file": str(self.authority),
            "tls-auth-clients": "no",
            "tls-replication": "yes",
        }


class RedisServer:
    """A server that a test may stop, kill, start again and configure."""

    def __init__(
        self,
        program: str,
        directory: Path,
        *options: str,
        password: str = "",
        user: str = "",
        tls: TlsFiles | None = None,
        address: str = LOOPBACK,
        host: Host | None = None,
    ) -> None:
        """Prepare a server that listens on `address`; with a `host` the server runs on that host."""
        self.port = find_free_port()
        self.address = address
        self._host = host
        if tls is not None:
            directives = tls.list_directives(self.port).items()
            options = (*options, *(part for name, value in directives for part in (f"--{name}", value)))
        self.socket = directory / "redis.sock"
        self._program = program
        self._directory = directory
        self.options = options
        self._password = password
        self._process: subprocess.Popen[bytes] | None = None
        # RESP2 needs no HELLO, which some tests disable on the server
        self.admin: redis.Redis = redis.Redis(
            unix_socket_path=str(self.socket), username=user or None, password=password or None, protocol=2
        )

    def url(self, account: str = "", parameters: str = "") -> str:
        """Return the redis:// URL of database 0; `account` is NAME:PASSWORD."""
        return f"redis://{account and account + '@'}{self.address}:{self.port}/0{parameters}"

    def start(self) -> None:
        """Start the process, and return once the server answers PING on its Unix socket."""
        command = [self._program, "--bind", self.address, "--save", "", "--appendonly", "no"]
        command += ["--dir", str(self._directory), "--unixsocket", str(self.socket), "--logfile", "log"]
        if "--port" not in self.options:
            command += ["--port", str(self.port)]
        if self.address != LOOPBACK:
            # otherwise a server without a password refuses remote clients; only this machine can reach it
            command += ["--protected-mode", "no"]
        command += self.options
        if self._host is not None:
            command = self._host.build_command(command)
        # in a session of its own the server gets no SIGINT from Ctrl-C in the terminal; pytest stops it
        self._process = subprocess.Popen(command, start_new_session=True)
        deadline = time.monotonic() + stretch(START_SECONDS)
        while not self._answers():
            assert self._process.poll() is None, (self._directory / "log").read_text(encoding="utf-8")
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            return bool(self.admin.ping())
        except redis.RedisError:
            return False

    def kill(self) -> None:
        """Kill the process with SIGKILL, even if it is stopped."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
        self._process.kill()
        self._process.wait(STOP_SECONDS)

    def run(self, *command: Any) -> Any:
        """Return the reply to a command that is sent through the Unix socket."""
        return self.admin.execute_command(*command)  # type: ignore[no-untyped-call]  # has no annotations

    def find_status(self, section: str, field: str) -> str:
        """Return a field of a section of INFO, or an empty text."""
        info: dict[str, Any] = self.admin.info(section)
        return str(info.get(field, ""))

    @contextmanager
    def hung(self) -> Iterator[None]:
        """Stop the process with SIGSTOP for the duration of a `with` block."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._process.pid, signal.SIGCONT)


@contextmanager
def run_server(
    program: str,
    directory: Path,
    *options: str,
    password: str = "",
    user: str = "",
    tls: TlsFiles | None = None,
    address: str = LOOPBACK,
    host: Host | None = None,
) -> Iterator[RedisServer]:
    """Yield a running server with command-line options, such as `--cluster-enabled yes`."""
    server = RedisServer(
        program, directory, *options, password=password, user=user, tls=tls, address=address, host=host
    )
    try:
        server.start()
        yield server
    finally:
        server.admin.close()
        server.kill()
