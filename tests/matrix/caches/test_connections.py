"""Ways to a server: sockets, TLS, passwords, RESP2, and what is said when there is none."""

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
from tests.matrix.caches.conftest import MakeServer
from tests.matrix.caches.couple import Couple, make_settings
from tests.matrix.caches.servers import RedisServer, require_program, run_server
from tests.patience import wait_until

PASSWORD = "a/b?c#d%e@f:g h"  # of a test
ENCODED = "a%2Fb%3Fc%23d%25e%40f%3Ag%20h"


def assert_bypassed(couple: Couple, words: str, caplog: pytest.LogCaptureFixture) -> None:
    """Assert that nothing is read, and that log, state and health have the words."""
    assert couple.find_stale() == []
    wait_until(couple.are_down, "both have given up")
    diagnosis = couple.diagnose()
    assert not diagnosis.is_usable
    for reason in (diagnosis.reason, couple.writer.stats().reason):
        assert words in (reason or "")
        assert LOOPBACK not in (reason or "")
    assert any("Redis bypassed" in line and words in line for line in caplog.messages)
    assert "ConnectionError" not in caplog.text
    assert PASSWORD not in caplog.text


@pytest.mark.parametrize("form", ["", "?password={}", "?username=default&password={}&db=1"])
def test_a_unix_socket(make_server: MakeServer, form: str) -> None:
    """A Unix socket works with and without a password, and with another database."""
    server = make_server(*(("--requirepass", PASSWORD) if form else ()), password=PASSWORD if form else "")
    with Couple(make_settings(f"unix://{server.socket}{form.format(ENCODED)}")) as couple:
        couple.finish()
        assert couple.reader.stats().reason is None


def test_a_unix_socket_that_is_not_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The reason for a missing Unix socket is in the words of the system."""
    with Couple(make_settings(f"unix://{tmp_path}/redis.sock")) as couple:
        assert_bypassed(couple, "No such file or directory", caplog)


def test_a_port_where_nobody_listens(caplog: pytest.LogCaptureFixture) -> None:
    """The reason for a refused connection is in the words of the system, at once."""
    with Couple(make_settings(f"redis://{LOOPBACK}:{find_free_port()}")) as couple:
        assert_bypassed(couple, "Connection refused", caplog)


def test_a_name_that_does_not_exist(caplog: pytest.LogCaptureFixture) -> None:
    """The reason for an unknown name is in the words of the resolver."""
    with Couple(make_settings("redis://no-such-host.invalid")) as couple:
        assert couple.find_stale() == []
        wait_until(couple.are_down, "both have given up", 20)
        assert not couple.diagnose().is_usable


@pytest.mark.parametrize("account", ["default:{}", ":{}"])
def test_a_password_in_the_url(make_server: MakeServer, account: str) -> None:
    """A password in the URL may have any characters."""
    server = make_server("--requirepass", PASSWORD, password=PASSWORD)
    with Couple(make_settings(server.url(account.format(ENCODED)))) as couple:
        couple.finish()


def test_a_password_of_its_own_setting(make_server: MakeServer) -> None:
    """The setting takes the password as it is; a password in the URL takes precedence."""
    server = make_server("--requirepass", PASSWORD, password=PASSWORD)
    with Couple(make_settings(server.url(), password=PASSWORD)) as couple:
        couple.finish()
    server.run("FLUSHALL")
    with Couple(make_settings(server.url(f":{ENCODED}"), password="wrong")) as couple:
        couple.finish()


@pytest.mark.parametrize(("password", "words"), [("wrong", "WRONGPASS"), (None, "NOAUTH")])
def test_a_password_that_is_refused(
    make_server: MakeServer, caplog: pytest.LogCaptureFixture, password: str | None, words: str
) -> None:
    """The reason for a refused password is in the words of the server."""
    server = make_server("--requirepass", PASSWORD, password=PASSWORD)
    with Couple(make_settings(server.url(), password=password)) as couple:
        assert_bypassed(couple, words, caplog)


def test_a_server_that_takes_no_more_clients(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """The reason for too many clients is in the words of the server."""
    server.run("CONFIG", "SET", "maxclients", 1)
    with Couple(make_settings(server.url())) as couple:
        assert_bypassed(couple, "max number of clients reached", caplog)
        server.run("CONFIG", "SET", "maxclients", 100)
        couple.finish()


def test_another_database(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """An existing database works; a number that does not exist is refused in the server's words."""
    with Couple(make_settings(server.url().replace("/0", "/15"))) as couple:
        couple.finish()
    with Couple(make_settings(server.url().replace("/0", "/99"))) as couple:
        assert_bypassed(couple, "DB index is out of range (refused: SELECT 99)", caplog)


def test_resp2_has_no_near_cache(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """Only RESP3 tells of changes, so with RESP2 there is no near cache, and a line of the log says so."""
    with Couple(make_settings(server.url(parameters="?protocol=2"))) as couple:
        assert couple.find_stale(100) == []
        wait_until(lambda: couple.is_used(near=False), "both use the cache")
        assert couple.find_stale(100) == []
        assert couple.reader.stats().caches["user"].near_hits == 0
        assert couple.diagnose() == Diagnosis(is_usable=True), "it is on purpose"
    lines = [line for line in caplog.messages if "near cache off" in line]
    assert len(lines) == 2, "one for each process"
    assert all("protocol=2" in line for line in lines)


# -- TLS -----------------------------------------------------------------------------


class Tls(NamedTuple):
    """A server with TLS, and who signed its certificate."""

    server: RedisServer
    authority: trustme.CA
    folder: Path

    def url(self, parameters: str, account: str = "") -> str:
        """Return the address with TLS."""
        return f"rediss://{account}{LOOPBACK}:{self.server.port}/0?{parameters}"


@pytest.fixture
def make_tls(server_directory: Callable[[], Path]) -> Iterator[Callable[..., Tls]]:
    """Start a Redis with TLS; the embedded Valkey is built without."""
    program, stack = require_program("redis"), ExitStack()

    def make(*options: str, name: str = LOOPBACK, expires: datetime | None = None) -> Tls:
        folder, authority = server_directory(), trustme.CA()
        issued = authority.issue_cert(name, not_after=expires)
        issued.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
        authority.cert_pem.write_to_path(folder / "ca.pem")
        mine = authority.issue_cert("client")
        mine.private_key_and_cert_chain_pem.write_to_path(folder / "client.pem")
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
    """With the right authority TLS works for commands and for the near cache."""
    tls = make_tls()
    with Couple(make_settings(tls.url(f"ssl_ca_certs={tls.folder}/ca.pem"))) as couple:
        couple.finish()
        assert couple.reader.stats().reason is None


def test_tls_without_verification(make_tls: Callable[..., Tls]) -> None:
    """TLS is not verified only if the URL asks for that."""
    tls = make_tls(name="elsewhere.example")
    with Couple(make_settings(tls.url("ssl_cert_reqs=none"))) as couple:
        couple.finish()


def test_tls_with_another_name(make_tls: Callable[..., Tls], caplog: pytest.LogCaptureFixture) -> None:
    """The reason is in OpenSSL's words, without the name; ssl_check_hostname=false accepts it."""
    tls = make_tls(name="elsewhere.example")
    trusted = f"ssl_ca_certs={tls.folder}/ca.pem"
    with Couple(make_settings(tls.url(trusted))) as couple:
        assert_bypassed(couple, "certificate verify failed: IP address mismatch", caplog)
    with Couple(make_settings(tls.url(f"{trusted}&ssl_check_hostname=false"))) as couple:
        couple.finish()


def test_tls_of_an_unknown_authority(make_tls: Callable[..., Tls], caplog: pytest.LogCaptureFixture) -> None:
    """The reason is in OpenSSL's words, also when the system's certificates are used."""
    tls = make_tls()
    other = tls.folder / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    with Couple(make_settings(tls.url(f"ssl_ca_certs={other}"))) as couple:
        assert_bypassed(couple, "certificate verify failed", caplog)
    with Couple(make_settings(tls.url(""))) as couple:
        assert_bypassed(couple, "certificate verify failed", caplog)


def test_an_expired_certificate(make_tls: Callable[..., Tls], caplog: pytest.LogCaptureFixture) -> None:
    """The reason for an expired certificate is in OpenSSL's words."""
    tls = make_tls(expires=datetime(2020, 1, 1, tzinfo=UTC))
    with Couple(make_settings(tls.url(f"ssl_ca_certs={tls.folder}/ca.pem"))) as couple:
        assert_bypassed(couple, "certificate has expired", caplog)


def test_a_certificate_of_the_client(make_tls: Callable[..., Tls], caplog: pytest.LogCaptureFixture) -> None:
    """A server that asks for a certificate accepts it, and refuses clients without one in OpenSSL's words."""
    tls = make_tls("--tls-auth-clients", "yes")
    trusted = f"ssl_ca_certs={tls.folder}/ca.pem"
    with Couple(make_settings(tls.url(f"{trusted}&ssl_certfile={tls.folder}/client.pem"))) as couple:
        couple.finish()
    with Couple(make_settings(tls.url(trusted))) as couple:
        assert couple.find_stale() == []
        wait_until(couple.are_down, "both have given up")
        reason = couple.diagnose().reason or ""
        # the server's alert and the end of the connection arrive together
        assert "CERTIFICATE_REQUIRED" in reason or "EOF occurred in violation of protocol" in reason


def test_tls_with_a_plain_server(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is sent in the clear, and the reason speaks of TLS."""
    with Couple(make_settings(server.url("bob:secret").replace("redis:", "rediss:"))) as couple:
        assert couple.find_stale() == []
        wait_until(couple.are_down, "both have given up")
        assert any(word in (couple.diagnose().reason or "") for word in ("TLS handshake", "SSL"))


def test_a_plain_connection_to_a_tls_server(
    make_tls: Callable[..., Tls], caplog: pytest.LogCaptureFixture
) -> None:
    """The reason for a plain connection to a TLS server says what is missing."""
    tls = make_tls()
    with Couple(make_settings(f"redis://{LOOPBACK}:{tls.server.port}")) as couple:
        assert_bypassed(couple, "a server that expects TLS needs rediss://", caplog)


def test_nothing_is_logged_while_all_is_well(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the check nor the feed logs a line while all is well."""
    caplog.set_level(logging.INFO)
    with Couple(make_settings(server.url())) as couple:
        couple.finish()
    assert [record.getMessage() for record in caplog.records if record.name.startswith("core.cache")] == []
