"""Connections to Redis by TCP, Unix socket and TLS, and the reasons that are shown when they fail."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme

from core.cache.capability import Diagnosis
from core.settings.texts import LOOPBACK
from core.stack.ports import find_free_port
from tests.matrix.caches.cache_pair import CachePair, make_settings
from tests.matrix.caches.conftest import MakeServer
from tests.matrix.caches.servers import RedisServer, require_program, run_server
from tests.patience import wait_until

PASSWORD = "a/b?c#d%e@f:g h"  # a password for tests
ENCODED = "a%2Fb%3Fc%23d%25e%40f%3Ag%20h"


def assert_bypassed(pair: CachePair, words: str, caplog: pytest.LogCaptureFixture) -> None:
    """Assert that Redis is bypassed, and that log, statistics and health have the words and no secret."""
    assert pair.find_stale() == []
    wait_until(pair.both_bypass_redis, "both have given up")
    diagnosis = pair.diagnose()
    assert not diagnosis.is_usable
    for reason in (diagnosis.reason, pair.writer.stats().reason):
        assert words in (reason or "")
        assert LOOPBACK not in (reason or "")
    assert any("Redis bypassed" in line and words in line for line in caplog.messages)
    assert "ConnectionError" not in caplog.text
    assert PASSWORD not in caplog.text


@pytest.mark.parametrize("form", ["", "?password={}", "?username=default&password={}&db=1"])
def test_a_unix_socket_is_used(make_server: MakeServer, form: str) -> None:
    """The cache works over a Unix socket, with and without a password, and with another database."""
    server = make_server(*(("--requirepass", PASSWORD) if form else ()), password=PASSWORD if form else "")
    with CachePair(make_settings(f"unix://{server.socket}{form.format(ENCODED)}")) as pair:
        pair.assert_recovered()
        assert pair.reader.stats().reason is None


def test_a_missing_unix_socket_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If the Unix socket is missing, Redis is bypassed with the message of the operating system."""
    with CachePair(make_settings(f"unix://{tmp_path}/redis.sock")) as pair:
        assert_bypassed(pair, "No such file or directory", caplog)


def test_a_closed_port_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """If no server listens on the port, Redis is bypassed with the reason `Connection refused`."""
    with CachePair(make_settings(f"redis://{LOOPBACK}:{find_free_port()}")) as pair:
        assert_bypassed(pair, "Connection refused", caplog)


def test_an_unknown_host_name_bypasses_redis(caplog: pytest.LogCaptureFixture) -> None:
    """If the host name of REDIS_URL does not exist, Redis is bypassed and reads are not stale."""
    with CachePair(make_settings("redis://no-such-host.invalid")) as pair:
        assert pair.find_stale() == []
        wait_until(pair.both_bypass_redis, "both have given up", 20)
        assert not pair.diagnose().is_usable


@pytest.mark.parametrize("account", ["default:{}", ":{}"])
def test_a_password_in_the_url_may_have_any_characters(make_server: MakeServer, account: str) -> None:
    """A password in the URL may have any characters, percent-encoded."""
    server = make_server("--requirepass", PASSWORD, password=PASSWORD)
    with CachePair(make_settings(server.url(account.format(ENCODED)))) as pair:
        pair.assert_recovered()


def test_redis_password_is_used(make_server: MakeServer) -> None:
    """REDIS_PASSWORD is not percent-encoded; a password in REDIS_URL takes precedence over it."""
    server = make_server("--requirepass", PASSWORD, password=PASSWORD)
    with CachePair(make_settings(server.url(), password=PASSWORD)) as pair:
        pair.assert_recovered()
    server.run("FLUSHALL")
    with CachePair(make_settings(server.url(f":{ENCODED}"), password="wrong")) as pair:
        pair.assert_recovered()


@pytest.mark.parametrize(("password", "words"), [("wrong", "WRONGPASS"), (None, "NOAUTH")])
def test_a_refused_password_is_reported(
    make_server: MakeServer, caplog: pytest.LogCaptureFixture, password: str | None, words: str
) -> None:
    """If the server refuses the password, or requires one, Redis is bypassed with the server's message."""
    server = make_server("--requirepass", PASSWORD, password=PASSWORD)
    with CachePair(make_settings(server.url(), password=password)) as pair:
        assert_bypassed(pair, words, caplog)


def test_too_many_clients_are_reported(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """If the server has reached `maxclients`, Redis is bypassed with the server's message."""
    server.run("CONFIG", "SET", "maxclients", 1)
    with CachePair(make_settings(server.url())) as pair:
        assert_bypassed(pair, "max number of clients reached", caplog)
        server.run("CONFIG", "SET", "maxclients", 100)
        pair.assert_recovered()


def test_another_database_is_used(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """Database 15 works; database 99 does not exist, and Redis is bypassed with the server's message."""
    with CachePair(make_settings(server.url().replace("/0", "/15"))) as pair:
        pair.assert_recovered()
    with CachePair(make_settings(server.url().replace("/0", "/99"))) as pair:
        assert_bypassed(pair, "DB index is out of range (refused: SELECT 99)", caplog)


def test_resp2_has_no_near_cache(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """With RESP2, which has no push messages, Redis is used without a near cache, and a log line says so."""
    with CachePair(make_settings(server.url(parameters="?protocol=2"))) as pair:
        assert pair.find_stale(100) == []
        wait_until(lambda: pair.both_use_cache(near=False), "both use the cache")
        assert pair.find_stale(100) == []
        assert pair.reader.stats().caches["user"].near_hits == 0
        assert pair.diagnose() == Diagnosis(is_usable=True), "it is on purpose"
    lines = [line for line in caplog.messages if "near cache off" in line]
    assert len(lines) == 2, "one for each process"
    assert all("protocol=2" in line for line in lines)


# -- TLS -----------------------------------------------------------------------------


class Tls(NamedTuple):
    """A server with TLS, the authority that signed its certificate, and the folder of the PEM files."""

    server: RedisServer
    authority: trustme.CA
    folder: Path

    def url(self, parameters: str, account: str = "") -> str:
        """Return the rediss:// URL of the server; `account` is NAME:PASSWORD@."""
        return f"rediss://{account}{LOOPBACK}:{self.server.port}/0?{parameters}"


@pytest.fixture
def make_tls(server_directory: Callable[[], Path]) -> Iterator[Callable[..., Tls]]:
    """Yield a function that starts a Redis with TLS; the embedded Valkey is built without TLS."""
    program, stack = require_program("redis"), ExitStack()

    def make(*options: str, name: str = LOOPBACK, expires: datetime | None = None) -> Tls:
        folder, authority = server_directory(), trustme.CA()
        issued = authority.issue_cert(name, not_after=expires)
        issued.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
        authority.cert_pem.write_to_path(folder / "ca.pem")
        client = authority.issue_cert("client")
        client.private_key_and_cert_chain_pem.write_to_path(folder / "client.pem")
        port = str(find_free_port())
        configuration = [
            *("--port", "0", "--tls-port", port, "--tls-ca-cert-file", str(folder / "ca.pem")),
            *("--tls-cert-file", str(folder / "server.pem"), "--tls-key-file", str(folder / "server.pem")),
            *(options or ("--tls-auth-clients", "no")),
        ]
        server = stack.enter_context(run_server(program, folder, *configuration))
        server.port = int(port)
        return Tls(server, authority, folder)

    with stack:
        yield make


def test_tls_works_with_its_authority(make_tls: Callable[..., Tls]) -> None:
    """If `ssl_ca_certs` names the authority of the server, Redis and the near cache work over TLS."""
    tls = make_tls()
    with CachePair(make_settings(tls.url(f"ssl_ca_certs={tls.folder}/ca.pem"))) as pair:
        pair.assert_recovered()
        assert pair.reader.stats().reason is None


def test_tls_can_be_used_without_verification(make_tls: Callable[..., Tls]) -> None:
    """With `ssl_cert_reqs=none` a server with a certificate for another name is used."""
    tls = make_tls(name="elsewhere.example")
    with CachePair(make_settings(tls.url("ssl_cert_reqs=none"))) as pair:
        pair.assert_recovered()


def test_a_certificate_for_another_name_is_refused(
    make_tls: Callable[..., Tls], caplog: pytest.LogCaptureFixture
) -> None:
    """A certificate for another name is refused, unless the URL has `ssl_check_hostname=false`."""
    tls = make_tls(name="elsewhere.example")
    trusted = f"ssl_ca_certs={tls.folder}/ca.pem"
    with CachePair(make_settings(tls.url(trusted))) as pair:
        assert_bypassed(pair, "certificate verify failed: IP address mismatch", caplog)
    with CachePair(make_settings(tls.url(f"{trusted}&ssl_check_hostname=false"))) as pair:
        pair.assert_recovered()


def test_a_certificate_of_an_unknown_authority_is_refused(
    make_tls: Callable[..., Tls], caplog: pytest.LogCaptureFixture
) -> None:
    """A certificate of an unknown authority is refused, with and without `ssl_ca_certs` in the URL."""
    tls = make_tls()
    other = tls.folder / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    with CachePair(make_settings(tls.url(f"ssl_ca_certs={other}"))) as pair:
        assert_bypassed(pair, "certificate verify failed", caplog)
    with CachePair(make_settings(tls.url(""))) as pair:
        assert_bypassed(pair, "certificate verify failed", caplog)


def test_an_expired_certificate_is_refused(
    make_tls: Callable[..., Tls], caplog: pytest.LogCaptureFixture
) -> None:
    """An expired certificate is refused with OpenSSL's message."""
    tls = make_tls(expires=datetime(2020, 1, 1, tzinfo=UTC))
    with CachePair(make_settings(tls.url(f"ssl_ca_certs={tls.folder}/ca.pem"))) as pair:
        assert_bypassed(pair, "certificate has expired", caplog)


def test_a_required_client_certificate_is_sent(
    make_tls: Callable[..., Tls], caplog: pytest.LogCaptureFixture
) -> None:
    """A server that requires client certificates accepts a client with one; without one Redis is bypassed."""
    tls = make_tls("--tls-auth-clients", "yes")
    trusted = f"ssl_ca_certs={tls.folder}/ca.pem"
    with CachePair(make_settings(tls.url(f"{trusted}&ssl_certfile={tls.folder}/client.pem"))) as pair:
        pair.assert_recovered()
    with CachePair(make_settings(tls.url(trusted))) as pair:
        assert pair.find_stale() == []
        wait_until(pair.both_bypass_redis, "both have given up")
        reason = pair.diagnose().reason or ""
        # the server sends its alert and closes the connection at once, so OpenSSL reports either of them
        assert "CERTIFICATE_REQUIRED" in reason or "EOF occurred in violation of protocol" in reason


def test_tls_to_a_plain_server_is_refused(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """If a server without TLS has a rediss:// URL, Redis is bypassed with a reason that names TLS or SSL."""
    with CachePair(make_settings(server.url("bob:secret").replace("redis:", "rediss:"))) as pair:
        assert pair.find_stale() == []
        wait_until(pair.both_bypass_redis, "both have given up")
        assert any(word in (pair.diagnose().reason or "") for word in ("TLS handshake", "SSL"))


def test_a_plain_connection_to_a_tls_server_is_refused(
    make_tls: Callable[..., Tls], caplog: pytest.LogCaptureFixture
) -> None:
    """If a TLS server has a redis:// URL, Redis is bypassed and the reason asks for rediss://."""
    tls = make_tls()
    with CachePair(make_settings(f"redis://{LOOPBACK}:{tls.server.port}")) as pair:
        assert_bypassed(pair, "a server that expects TLS needs rediss://", caplog)


def test_a_healthy_server_logs_nothing(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """On a healthy server neither the capability check nor the invalidation feed logs a line."""
    caplog.set_level(logging.INFO)
    with CachePair(make_settings(server.url())) as pair:
        pair.assert_recovered()
    assert [record.getMessage() for record in caplog.records if record.name.startswith("core.cache")] == []
