"""Over TLS a closed connection is noticed as well, and what TLS itself sends is not taken for it."""

import os
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import SecretStr
from starlette.responses import PlainTextResponse

from core import Settings, open_service
from core.errors import ConnectFailed
from core.http_client import FetchFailed, fetch
from core.migration import Migrator
from core.settings.texts import LOOPBACK
from core.stack.certificates import (
    SERVER_DAYS,
    Certificate,
    make_authority,
    make_certificate,
    store_certificate,
)
from core.stack.ports import find_free_port
from core.stack.processes import wait_until
from core.stack.redis_access import build_acl
from core.testing import PostgresServer
from tests.conftest import connected
from tests.exporter_server import served
from tests.matrix.caches.couple import Couple, find_servers, make_settings
from tests.matrix.caches.sentinels import run_sentinels
from tests.matrix.caches.servers import TlsFiles, require_program
from tests.matrix.caches.servers import run_server as run_redis
from tests.matrix.conftest import Place, Variant
from tests.matrix.servers import run_debian_postgres
from tests.patience import HEAL_SECONDS, stretch

ROOT = Path(__file__).resolve().parents[2]
END = """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()"""


def test_a_closed_connection_is_noticed_over_tls(make_place: Callable[[Variant], Place]) -> None:
    """The first write afterwards works; no checkout before cost a ping or a new connection."""
    place = make_place(Variant(is_debian=True, has_tls=True))
    with open_service(place.settings) as service, connected(place.administrator_url) as run:
        user = service.create_user(username="alice")
        assert run("SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE ssl")[0][0] >= 1
        for number in range(20):
            service.update_user_profile(user.id, name=f"name {number}")
            [entry] = service._database._pool._idle
            assert not entry.needs_ping(entry.idle_since, float("-inf"))
        assert service.pool_stats().connections_num == 1
        run(END)
        for _ in range(1_000):
            if run(END) == [(0,)]:
                break
            threading.Event().wait(0.01)
        service.update_user_profile(user.id, name="after")
        assert service.health().status == "healthy"
        stats = service.pool_stats()
    assert (stats.connections_num, stats.connections_lost) == (2, 1)


# -- certificates of `make certs` ----------------------------------------------------------


NOW = datetime.now(UTC)
LONG_AGO = NOW - timedelta(days=SERVER_DAYS + 1)
ELSEWHERE = "elsewhere.example"
Serve = Callable[[Certificate], None]


class Authorities(NamedTuple):
    """The one that signs the server's certificate, another one, and the files that clients trust."""

    own: Certificate
    other: Certificate
    folder: Path

    def issue(self, name: str = LOOPBACK, *, now: datetime = NOW) -> Certificate:
        """Return a certificate for one name; one that was made LONG_AGO has expired."""
        return make_certificate(self.own, (name,), now=now)


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> Authorities:
    """Two authorities."""
    found = Authorities(make_authority(now=NOW), make_authority(now=NOW), tmp_path_factory.mktemp("trusted"))
    for name in ("own", "other"):
        store_certificate(found.folder, name, getattr(found, name))
    return found


@pytest.fixture(scope="module")
def tls_server(server_directory: Callable[[], Path]) -> Iterator[tuple[PostgresServer, Serve]]:
    """Debian's PostgreSQL that accepts TLS only, and how to give it another certificate."""
    directory = server_directory()
    with run_debian_postgres(directory) as server:
        data = directory / "data"
        owner = data.stat()
        (data / "pg_hba.conf").write_text(
            (ROOT / "containers" / "pg_hba.tls.conf").read_text(encoding="utf-8"), encoding="utf-8"
        )

        def serve(certificate: Certificate) -> None:
            store_certificate(data, "server", certificate)
            for path in (data / "server.crt", data / "server.key"):
                os.chown(path, owner.st_uid, owner.st_gid)
            with connected(f"{server.url()}?sslmode=require") as run:
                run("SELECT pg_reload_conf()")
            held = certificate.certificate.public_bytes(Encoding.PEM).decode()
            assert wait_until(lambda: read_certificate(server.port) == held, seconds=stretch(10))

        yield server, serve


def read_certificate(port: int) -> str:
    """Return the certificate that PostgreSQL shows to a new client."""
    with socket.create_connection((LOOPBACK, port), timeout=5) as client:
        client.sendall(struct.pack("!ii", 8, 80_877_103))  # SSLRequest of PostgreSQL's protocol
        assert client.recv(1) == b"S"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with context.wrap_socket(client) as wrapped:
            return ssl.DER_cert_to_PEM_cert(wrapped.getpeercert(binary_form=True) or b"")


def connect(server: PostgresServer, parameters: str) -> Settings:
    """Return settings of a client with these parameters of libpq."""
    return Settings(
        database_url=SecretStr(f"{server.url()}?{parameters}"),
        enable_redis_cache=False,
        database_connect_timeout=5_000,
        database_pool_timeout=5_000,
    )


def test_postgresql_is_verified(tls_server: tuple[PostgresServer, Serve], authorities: Authorities) -> None:
    """With certificates of `make certs` it works; else one line has the words of the driver."""
    server, serve = tls_server
    trusted = f"sslmode=verify-full&sslrootcert={authorities.folder}/own.crt"
    serve(authorities.issue())
    Migrator(connect(server, trusted)).up()
    with open_service(connect(server, trusted)) as service:
        assert service.health().status == "healthy"

    refused = [
        (authorities.issue(), trusted.replace("own.crt", "other.crt"), "certificate verify failed"),
        (authorities.issue(ELSEWHERE), trusted, f'server certificate for "{ELSEWHERE}"'),
        (authorities.issue(now=LONG_AGO), trusted, "certificate verify failed"),
        (authorities.issue(), "sslmode=disable", "no pg_hba.conf entry for host"),
        (authorities.issue(), trusted.replace("own.crt", "none.crt"), "none.crt"),
    ]
    for certificate, parameters, words in refused:
        serve(certificate)
        settings = connect(server, parameters)
        with pytest.raises(ConnectFailed) as caught:
            Migrator(settings).status()
        assert words in str(caught.value)
        assert ("openssl s_client" in str(caught.value)) == ("verify-full" in parameters)
        assert "\n" not in str(caught.value)
        assert server.password not in str(caught.value)
        with open_service(settings) as service, pytest.raises(ConnectFailed, match=re.escape(words)):
            service.search_users("")


def test_the_exporter_is_verified(authorities: Authorities) -> None:
    """Dashboard, `make status` and `echo-markets health` verify it; one line has OpenSSL's words."""

    def ask(certificate: Certificate, trusted: str, scheme: str = "https") -> str:
        store_certificate(authorities.folder, "exporter", certificate)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(authorities.folder / "exporter.crt", authorities.folder / "exporter.key")
        with served(PlainTextResponse("here"), ssl_context_factory=lambda *_: context) as port:
            url = f"{scheme}://{LOOPBACK}:{port}/"
            try:
                return fetch(url, timeout_seconds=5, authority=authorities.folder / trusted).body.decode()
            except FetchFailed as error:
                return str(error)

    assert ask(authorities.issue(), "own.crt") == "here"
    failed = "TLS failed: certificate verify failed: "
    assert ask(authorities.issue(), "other.crt").startswith(f"{failed}")
    assert ask(authorities.issue(ELSEWHERE), "own.crt").startswith(f"{failed}IP address mismatch")
    assert ask(authorities.issue(now=LONG_AGO), "own.crt") == f"{failed}certificate has expired"
    assert "none.crt cannot be used: No such file" in ask(authorities.issue(), "none.crt")
    assert ask(authorities.issue(), "own.crt", "http") != "here"


def test_redis_is_verified(
    authorities: Authorities, server_directory: Callable[[], Path], caplog: pytest.LogCaptureFixture
) -> None:
    """Options and user of the containers work over TLS; plaintext is refused."""
    folder, port = server_directory(), find_free_port()
    store_certificate(folder, "redis", authorities.issue())
    (folder / "redis.acl").write_text(
        f"user admin on >admin allkeys allcommands\n{build_acl('of echo')}", encoding="utf-8"
    )
    options = ["--aclfile", str(folder / "redis.acl"), "--port", "0", "--tls-port", str(port)]
    options += ["--tls-cert-file", str(folder / "redis.crt"), "--tls-key-file", str(folder / "redis.key")]
    options += ["--tls-ca-cert-file", str(authorities.folder / "own.crt"), "--tls-auth-clients", "no"]
    address = f"echo:of%20echo@{LOOPBACK}:{port}/0"
    program = require_program("redis")
    with run_redis(program, folder, *options, user="admin", password="admin"):  # of a test
        with Couple(make_settings(f"rediss://{address}?ssl_ca_certs={authorities.folder}/own.crt")) as couple:
            couple.finish()
            assert couple.reader.stats().reason is None
        with Couple(make_settings(f"redis://{address}")) as couple:
            assert couple.find_stale() == []
            assert "a server that expects TLS needs rediss://" in (couple.diagnose().reason or "")


def test_sentinels_and_their_servers_are_verified(
    authorities: Authorities, server_directory: Callable[[], Path]
) -> None:
    """A failover is followed over TLS; with another authority the cache is not used, and says why."""
    folder = server_directory()
    store_certificate(folder, "redis", authorities.issue())
    files = TlsFiles(folder / "redis.crt", folder / "redis.key", authorities.folder / "own.crt")
    with run_sentinels(require_program("redis"), server_directory, tls=files) as sentinels:

        def trust(name: str) -> Settings:
            return make_settings(sentinels.url(path=f"/0?ssl_ca_certs={authorities.folder / name}"))

        with Couple(trust("own.crt")) as couple:
            couple.warm()
            _, replica = sentinels.find_primary()
            sentinels.fail_over()
            sentinels.wait_for_election(replica.port)
            assert wait_until(lambda: find_servers(couple) == {replica.port}, seconds=stretch(HEAL_SECONDS))
            couple.finish()
        with Couple(trust("other.crt")) as couple:
            assert couple.find_stale() == []
            assert "certificate verify failed" in (couple.diagnose().reason or "")
        plaintext = make_settings(sentinels.url().replace("rediss", "redis"))
        with Couple(plaintext) as couple:
            assert couple.find_stale() == []
            assert "rediss" in (couple.diagnose().reason or "")
