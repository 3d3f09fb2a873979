"""TLS and passwords of the exporter, which are set in its web-config file (EXPORTER_WEB_CONFIG)."""

import ssl
from pathlib import Path

import bcrypt
import httpx2
import pytest
from starlette.testclient import TestClient

from core import EnhancedDatabaseService
from core.errors import SettingsError
from exporter.access import load_web_config
from exporter.server import build_app
from tests.exporter_server import LOCAL_URL, served, write_tls

HASH = bcrypt.hashpw(b"open sesame", bcrypt.gensalt(4)).decode()


def test_every_path_except_the_probes_needs_a_password(service: EnhancedDatabaseService) -> None:
    """Every path except /livez and /readyz answers a request without a valid password with 401."""
    with TestClient(build_app(service, users={"alice": HASH.encode()}), base_url=LOCAL_URL) as client:
        for path in ("/", "/metrics", "/api/health/database", "/nowhere"):
            for auth in (None, ("alice", "wrong"), ("bob", "open sesame"), ("alice", "a" * 100)):
                response = client.get(path, auth=auth)
                assert response.status_code == 401
                assert response.headers["www-authenticate"].startswith("Basic ")
                assert "echo_" not in response.text
        for header in ("Basic", "Basic !!", "Basic YWxpY2U=", "Bearer YWxpY2U6b3Blbg==", "Basic /////w=="):
            assert client.get("/metrics", headers={"Authorization": header}).status_code == 401
        for _ in range(2):
            assert client.get("/metrics", auth=("alice", "open sesame")).status_code == 200
        assert client.get("/nowhere", auth=("alice", "open sesame")).status_code == 404
        assert client.get("/livez").status_code == client.get("/readyz").status_code == 200


def test_tls_of_the_file_is_served(service: EnhancedDatabaseService, tmp_path: Path) -> None:
    """File names are relative to the web-config file, and TLS versions below min_version are refused."""
    authority = write_tls(tmp_path)
    config = tmp_path / "web.yml"
    config.write_text(
        f"tls_server_config:\n  cert_file: tls.crt\n  key_file: tls.key\n  min_version: TLS13\n"
        f"basic_auth_users:\n  alice: {HASH}\n",
        encoding="utf-8",
    )
    web = load_web_config(config)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with served(build_app(service, users=web.users), ssl_context_factory=lambda *_: web.tls) as port:
        url = f"https://127.0.0.1:{port}/metrics"
        assert httpx2.get(url, verify=trusting).status_code == 401
        assert httpx2.get(url, verify=trusting, auth=("alice", "open sesame")).status_code == 200
        trusting.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(url, verify=trusting)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "tls_server_config: {cert_file: tls.crt}",
            "tls_server_config lacks key_file, the name of a PEM file",
        ),
        ("tls_server_config: {cert_file: tls.crt, key_file: no.key}", "are no certificate and key"),
        ("tls_server_config: {cert_file: tls.key, key_file: tls.crt}", "are no certificate and key"),
        (
            "tls_server_config: {cert_file: tls.crt, key_file: tls.key, min_version: TLS10}",
            "min_version is 'TLS10', which is none of TLS12, TLS13",
        ),
        (
            "tls_server_config: {cert_file: tls.crt, key_file: tls.key, client_ca_file: ca.crt}",
            "has the key 'client_ca_file', which is none of cert_file, key_file, min_version",
        ),
        ("http_server_config: {http2: true}", "has the key 'http_server_config', which is none of"),
        ("basic_auth_users: {alice: sesame}", "the password of 'alice' is no bcrypt hash"),
        ("basic_auth_users: [alice]", "is no mapping of names to bcrypt hashes"),
        ("basic_auth_users: {alice: 'sesame", "is no YAML at line 1"),
        ("- 1", "is no mapping"),
    ],
)
def test_an_invalid_file_is_a_one_line_error(tmp_path: Path, text: str, complaint: str) -> None:
    """An invalid web-config file raises a one-line error that names the mistake and contains no password."""
    write_tls(tmp_path)
    config = tmp_path / "web.yml"
    config.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as error:
        load_web_config(config)
    assert str(error.value).startswith("EXPORTER_WEB_CONFIG: ")
    assert complaint in str(error.value)
    assert "sesame" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_a_one_line_error(tmp_path: Path) -> None:
    """The error for a missing web-config file has the file's name and the message of the operating system."""
    with pytest.raises(SettingsError, match=r"web\.yml cannot be read \(No such file or directory\)"):
        load_web_config(tmp_path / "web.yml")


@pytest.mark.parametrize("text", ["", "{}", "# nothing\n"])
def test_an_empty_file_sets_no_tls_and_no_password(tmp_path: Path, text: str) -> None:
    """An empty web-config file sets neither TLS nor a password, as in Prometheus' exporter-toolkit."""
    (tmp_path / "web.yml").write_text(text, encoding="utf-8")
    web = load_web_config(tmp_path / "web.yml")
    assert (web.tls, dict(web.users)) == (None, {})
