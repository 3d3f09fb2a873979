"""Clients that send nothing or half of a request, to servers that may open 256 files."""

import contextlib
import resource
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from urllib.error import URLError
from urllib.request import urlopen

import psutil
import pytest

from core import Settings
from core.settings.texts import LOOPBACK
from core.stack.ports import find_free_port
from core.web.client_deadlines import HEADER_SECONDS
from tests.dashboard_process import build_environment, run_dashboard
from tests.exporter_server import write_tls
from tests.patience import stretch, wait_until

SILENT = 1_000
FILES = 256
OTHER_FILES = 16
"""Files that the server may open meanwhile for database connections and probes."""
START_SECONDS = 60.0
HALF = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Half: "


class Server(NamedTuple):
    """A running server: its port, its process and its TLS context."""

    port: int
    pid: int
    tls: ssl.SSLContext | None = None

    def is_alive(self, seconds: float = 5) -> bool:
        """Return whether the server answers its liveness probe within `seconds`."""
        url = f"{'https' if self.tls else 'http'}://{LOOPBACK}:{self.port}/livez"
        try:
            with urlopen(url, timeout=seconds, context=self.tls) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False


@contextlib.contextmanager
def run_exporter(folder: Path, settings: Settings, *, tls: bool) -> Iterator[Server]:
    """Run the exporter, with TLS if `tls` is set, and yield its server."""
    port, config, context = find_free_port(), folder / "web.yml", None
    config.write_text("")
    if tls:
        context = ssl.create_default_context()
        write_tls(folder).configure_trust(context)
        config.write_text("tls_server_config: {cert_file: tls.crt, key_file: tls.key}\n")
    environment = build_environment(
        DATABASE_URL=settings.database_url.get_secret_value(),
        ENABLE_REDIS_CACHE="false",
        EXPORTER_PORT=str(port),
        EXPORTER_WEB_CONFIG=str(config),
    )
    with subprocess.Popen([sys.executable, "-m", "exporter"], cwd=folder, env=environment) as process:
        try:
            server = Server(port, process.pid, context)
            wait_until(server.is_alive, "the probe is answered", START_SECONDS)
            yield server
        finally:
            process.terminate()


@pytest.fixture(params=["dashboard", "exporter", "exporter with TLS"])
def server(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path) -> Iterator[Server]:
    """Yield each kind of server, limited to 256 open files."""
    with contextlib.ExitStack() as started:
        if request.param == "dashboard":
            url = settings.database_url.get_secret_value()
            dashboard = started.enter_context(
                run_dashboard(tmp_path, DATABASE_URL=url, ENABLE_REDIS_CACHE="false")
            )
            server = Server(int(dashboard.url.rpartition(":")[2]), dashboard.process.pid)
        else:
            tls = request.param == "exporter with TLS"
            server = started.enter_context(run_exporter(tmp_path, settings, tls=tls))
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (FILES, FILES))
        yield server


@pytest.fixture(autouse=True)
def _many_files() -> Iterator[None]:
    """Let the test process open a file for each connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4 * SILENT), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connect_silently(server: Server, held: contextlib.ExitStack) -> None:
    """Open 1,000 connections; every second one sends half of a request."""
    for number in range(SILENT):
        client = held.enter_context(socket.socket())
        client.setblocking(False)
        client.connect_ex((LOOPBACK, server.port))
        if number % 2:
            with contextlib.suppress(OSError):
                client.send(HALF)


def test_silent_clients_do_not_block_others(server: Server) -> None:
    """With 1,000 silent clients the server still answers its probe, and it disconnects the silent clients."""
    process = psutil.Process(server.pid)
    few = process.num_fds() + OTHER_FILES
    with contextlib.ExitStack() as held:
        connect_silently(server, held)
        wait_until(server.is_alive, "the probe is answered", 3 * HEADER_SECONDS)
        wait_until(lambda: process.num_fds() <= few, "silent clients are disconnected", 4 * HEADER_SECONDS)
        assert server.is_alive()


HANDSHAKES = 500
# Threads that connect: one attempt takes a second if the server's queue of new connections is full.
CALLERS = 50
MAX_MEMORY_BYTES = 64_000_000
"""Limit for all unfinished handshakes; the buffers of a single one take 250,000 bytes."""


def make_client_hello() -> bytes:
    """Return the first message of a TLS handshake."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("server", ["exporter with TLS"], indirect=True)
def test_unfinished_handshakes_do_not_block_others(server: Server) -> None:
    """The probe is answered before the unfinished handshakes time out, and their memory is limited."""
    process, hello = psutil.Process(server.pid), make_client_hello()
    before = process.memory_info().rss
    # a client sends nothing, a part of the first message, or the whole message
    messages = (b"", hello[:50], hello)
    with contextlib.ExitStack() as held, ThreadPoolExecutor(CALLERS) as callers:
        clients = [held.enter_context(socket.socket()) for _ in range(HANDSHAKES)]

        def call(number: int) -> None:
            clients[number].settimeout(stretch(HEADER_SECONDS))
            # the server may close the connection at once
            with contextlib.suppress(OSError):
                clients[number].connect((LOOPBACK, server.port))
                clients[number].sendall(messages[number % len(messages)])

        list(callers.map(call, range(HANDSHAKES)))
        assert server.is_alive(stretch(HEADER_SECONDS / 2))
        assert process.memory_info().rss - before < MAX_MEMORY_BYTES
