"""The certificates that `make certs` creates, keeps, renews and checks."""

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from core.errors import StackError
from core.stack.certificates import AUTHORITY, SERVERS, check_certificates, renew_certificates

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
ALL = (AUTHORITY, *SERVERS)


def list_new(folder: Path, now: datetime) -> tuple[str, ...]:
    """Run the renewal; return the names of the certificates that are new."""
    return tuple(item.name for item in renew_certificates(folder, now=now) if item.is_new)


def test_certificates_are_created_once(tmp_path: Path) -> None:
    """Certificates for container names and localhost are created once; only the owner can read the files."""
    folder = tmp_path / "certificates"
    assert list_new(folder, NOW) == ALL
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in SERVERS:
        certificate = x509.load_pem_x509_certificate((folder / f"{name}.crt").read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == [name, "localhost"]
        assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    assert list_new(folder, NOW) == ()
    check_certificates(folder, now=NOW)


def test_certificates_are_renewed_a_month_before_they_expire(tmp_path: Path) -> None:
    """A certificate is renewed 30 days before it expires, and all of them when the authority is renewed."""
    list_new(tmp_path, NOW)
    assert list_new(tmp_path, NOW + timedelta(days=397 - 31)) == ()
    assert list_new(tmp_path, NOW + timedelta(days=397 - 29)) == SERVERS
    assert list_new(tmp_path, NOW + timedelta(days=3650)) == ALL


def test_a_certificate_of_another_authority_is_replaced(tmp_path: Path) -> None:
    """A certificate that another authority signed, or whose key is missing, is replaced."""
    for name in ("mine", "other"):
        list_new(tmp_path / name, NOW)
    for suffix in ("crt", "key"):
        (tmp_path / "other" / f"redis.{suffix}").replace(tmp_path / "mine" / f"redis.{suffix}")
    (tmp_path / "mine" / "exporter.key").unlink()
    assert list_new(tmp_path / "mine", NOW) == ("redis", "exporter")


def test_a_missing_or_expired_certificate_is_an_error(tmp_path: Path) -> None:
    """A missing or expired certificate raises an error that names the file and `make certs`."""
    with pytest.raises(StackError, match=r"ca\.crt is missing; `make certs` makes it"):
        check_certificates(tmp_path, now=NOW)
    list_new(tmp_path, NOW)
    with pytest.raises(StackError, match=r"postgres\.crt expired at .*; `make certs` renews it"):
        check_certificates(tmp_path, now=NOW + timedelta(days=398))


def test_other_files_are_not_overwritten(tmp_path: Path) -> None:
    """A file that is no certificate, or the key of another one, raises an error and is not overwritten."""
    list_new(tmp_path, NOW)
    (tmp_path / "redis.key").write_bytes((tmp_path / "exporter.key").read_bytes())
    with pytest.raises(StackError, match=r"redis\.key is not the key of .*redis\.crt; remove both"):
        list_new(tmp_path, NOW)
    (tmp_path / "ca.crt").write_text("nothing", encoding="utf-8")
    with pytest.raises(StackError, match="are no certificate and key; remove them"):
        list_new(tmp_path, NOW)
