"""TLS: a closed PostgreSQL connection is noticed, and clients verify the certificates of `make certs`."""

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
from tests.matrix.caches.cache_pair import CachePair, find_servers, make_settings
from tests.matrix.caches.sentinels import run_sentinels
from tests.matrix.caches.servers import TlsFiles, require_program
from tests.matrix.caches.servers import run_server as run_redis
from tests.matrix.conftest import Target, Variant
from tests.matrix.servers import run_debian_postgres
from tests.patience import HEAL_SECONDS, stretch

ROOT = Path(__file__).resolve().parents[2]
END = """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()"""


def test_a_closed_connection_is_noticed_over_tls(make_target: Callable[[Variant], Target]) -> None:
    """A connection that the server closed is replaced before the next write; open ones need no ping."""
    target = make_target(Variant(is_debian=True, has_tls=True))
    with open_service(target.settings) as service, connected(target.administrator_url) as run:
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
    """The authority of the server's certificate, another authority, and the folder with their files."""

    own: Certificate
    other: Certificate
    folder: Path

    def issue(self, name: str = LOOPBACK, *, now: datetime = NOW) -> Certificate:
        """Return a certificate for a name that is issued at `now`; one of LONG_AGO has expired."""
        return make_certificate(self.own, (name,), now=now)


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> Authorities:
    """Return two authorities whose certificates are stored as files."""
    both = Authorities(make_authority(now=NOW), make_authority(now=NOW), tmp_path_factory.mktemp("trusted"))
    for name in ("own", "other"):
        store_certificate(both.folder, name, getattr(both, name))
    return both


@pytest.fixture(scope="module")
def tls_server(server_directory: Callable[[], Path]) -> Iterator[tuple[PostgresServer, Serve]]:
    """Yield Debian's PostgreSQL that accepts only TLS, and a function that replaces its certificate."""
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
            expected = certificate.certificate.public_bytes(Encoding.PEM).decode()
            assert wait_until(lambda: read_certificate(server.port) == expected, seconds=stretch(10))

        yield server, serve


def read_certificate(port: int) -> str:
    """Return the certificate that PostgreSQL sends to a new client, as PEM."""
    with socket.create_connection((LOOPBACK, port), timeout=5) as client:
        client.sendall(struct.pack("!ii", 8, 80_877_103))  # the message SSLRequest of PostgreSQL's protocol
        assert client.recv(1) == b"S"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with context.wrap_socket(client) as wrapped:
            return ssl.DER_cert_to_PEM_cert(wrapped.getpeercert(binary_form=True) or b"")


def settings_for(server: PostgresServer, parameters: str) -> Settings:
    """Return settings whose DATABASE_URL has the libpq parameters."""
    return Settings(
        database_url=SecretStr(f"{server.url()}?{parameters}"),
        enable_redis_cache=False,
        database_connect_timeout=5_000,
        database_pool_timeout=5_000,
    )


def test_the_certificate_of_postgresql_is_verified(
    tls_server: tuple[PostgresServer, Serve], authorities: Authorities
) -> None:
    """A PostgreSQL certificate that cannot be verified is refused with a one-line error of the driver."""
    server, serve = tls_server
    trusted = f"sslmode=verify-full&sslrootcert={authorities.folder}/own.crt"
    serve(authorities.issue())
    Migrator(settings_for(server, trusted)).up()
    with open_service(settings_for(server, trusted)) as service:
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
        settings = settings_for(server, parameters)
        with pytest.raises(ConnectFailed) as caught:
            Migrator(settings).status()
        assert words in str(caught.value)
        assert ("openssl s_client" in str(caught.value)) == ("verify-full" in parameters)
        assert "\n" not in str(caught.value)
        assert server.password not in str(caught.value)
        with open_service(settings) as service, pytest.raises(ConnectFailed, match=re.escape(words)):
            service.search_users("")


def test_the_certificate_of_the_exporter_is_verified(authorities: Authorities) -> None:
    """`fetch`, with which programs call the exporter, refuses a certificate that it cannot verify."""

    def read_page(certificate: Certificate, trusted: str, scheme: str = "https") -> str:
        store_certificate(authorities.folder, "exporter", certificate)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(authorities.folder / "exporter.crt", authorities.folder / "exporter.key")
        with served(PlainTextResponse("here"), ssl_context_factory=lambda *_: context) as port:
            url = f"{scheme}://{LOOPBACK}:{port}/"
            try:
                return fetch(url, timeout_seconds=5, authority=authorities.folder / trusted).body.decode()
            except FetchFailed as error:
                return str(error)

    assert read_page(authorities.issue(), "own.crt") == "here"
    failed = "TLS failed: certificate verify failed: "
    assert read_page(authorities.issue(), "other.crt").startswith(f"{failed}")
    assert read_page(authorities.issue(ELSEWHERE), "own.crt").startswith(f"{failed}IP address mismatch")
    assert read_page(authorities.issue(now=LONG_AGO), "own.crt") == f"{failed}certificate has expired"
    assert "none.crt cannot be used: No such file" in read_page(authorities.issue(), "none.crt")
    assert read_page(authorities.issue(), "own.crt", "http") != "here"


def test_the_certificate_of_redis_is_verified(
    authorities: Authorities, server_directory: Callable[[], Path], caplog: pytest.LogCaptureFixture
) -> None:
    """The cache works over TLS with the ACL file and certificates of the containers; plaintext is refused."""
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
    with run_redis(program, folder, *options, user="admin", password="admin"):  # a password for tests
        with CachePair(
            make_settings(f"rediss://{address}?ssl_ca_certs={authorities.folder}/own.crt")
        ) as pair:
            pair.assert_recovered()
            assert pair.reader.stats().reason is None
        with CachePair(make_settings(f"redis://{address}")) as pair:
            assert pair.find_stale() == []
            assert "a server that expects TLS needs rediss://" in (pair.diagnose().reason or "")


def test_the_certificates_of_sentinels_are_verified(
    authorities: Authorities, server_directory: Callable[[], Path]
) -> None:
    """A failover is followed over TLS; with another authority or without TLS the cache is bypassed."""
    folder = server_directory()
    store_certificate(folder, "redis", authorities.issue())
    files = TlsFiles(folder / "redis.crt", folder / "redis.key", authorities.folder / "own.crt")
    with run_sentinels(require_program("redis"), server_directory, tls=files) as sentinels:

        def trust(name: str) -> Settings:
            return make_settings(sentinels.url(path=f"/0?ssl_ca_certs={authorities.folder / name}"))

        with CachePair(trust("own.crt")) as pair:
            pair.warm()
            _, replica = sentinels.find_primary()
            sentinels.fail_over()
            sentinels.wait_for_election(replica.port)
            assert wait_until(lambda: find_servers(pair) == {replica.port}, seconds=stretch(HEAL_SECONDS))
            pair.assert_recovered()
        with CachePair(trust("other.crt")) as pair:
            assert pair.find_stale() == []
            assert "certificate verify failed" in (pair.diagnose().reason or "")
        plaintext = make_settings(sentinels.url().replace("rediss", "redis"))
        with CachePair(plaintext) as pair:
            assert pair.find_stale() == []
            assert "rediss" in (pair.diagnose().reason or "")
