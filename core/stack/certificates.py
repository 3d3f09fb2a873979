"""The TLS certificates of the containers: one certificate authority, and one certificate for each server.

Owns the names in the certificates, their lifetimes and their renewal. The files are in
`.local/certificates/`, and only their owner can read them. Anyone who has the key of the authority,
`ca.key`, can impersonate the servers.
"""

import ipaddress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from core.errors import StackError
from core.settings.texts import LOOPBACK
from core.stack.permissions import write_private

AUTHORITY: Final = "ca"
# the services of compose.yaml that get a certificate; the name of a service is also its host name
SERVERS: Final = ("postgres", "redis", "exporter")
# host name and addresses with which programs on this machine connect to the containers
LOCAL_NAMES: Final = ("localhost", LOOPBACK, "::1")
AUTHORITY_DAYS: Final = 3650
SERVER_DAYS: Final = 397  # web browsers refuse certificates with a longer lifetime
RENEWED_BEFORE: Final = timedelta(days=30)
# a certificate is valid from one hour before it is made, because the clock of a client may be slow
CLOCK_DIFFERENCE: Final = timedelta(hours=1)

_Key = ec.EllipticCurvePrivateKey


class Certificate(NamedTuple):
    """A certificate with its private key."""

    certificate: x509.Certificate
    key: _Key

    @property
    def expires_at(self) -> datetime:
        """When the certificate expires, in UTC."""
        return self.certificate.not_valid_after_utc


class Renewal(NamedTuple):
    """The result of `renew_certificates` for one certificate: whether it is new, and when it expires."""

    name: str
    is_new: bool
    expires_at: datetime


def renew_certificates(folder: Path, *, now: datetime) -> list[Renewal]:
    """Make each certificate that is missing, expires within 30 days or does not have the current host names.

    Return one `Renewal` for each certificate, also for those that were kept. With a new authority, all
    certificates are made again, because the old authority has signed them.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = _load(folder, AUTHORITY)
    is_new = authority is None or _is_due(authority, now)
    if authority is None or is_new:
        authority = make_authority(now=now)
        store_certificate(folder, AUTHORITY, authority)
    done = [Renewal(AUTHORITY, is_new, authority.expires_at)]
    for name in SERVERS:
        held = _load(folder, name)
        names = (name, *LOCAL_NAMES)
        is_new = held is None or _is_due(held, now) or not _is_from(held, authority, names)
        if held is None or is_new:
            held = make_certificate(authority, names, now=now)
            store_certificate(folder, name, held)
        done.append(Renewal(name, is_new, held.expires_at))
    return done


def check_certificates(folder: Path, *, now: datetime) -> None:
    """Raise `StackError` if a certificate is missing, damaged or expired."""
    for name in (AUTHORITY, *SERVERS):
        held = _load(folder, name)
        if held is None:
            raise StackError(f"{folder / name}.crt is missing; `make certs` makes it")
        if held.expires_at <= now:
            raise StackError(f"{folder / name}.crt expired at {held.expires_at}; `make certs` renews it")


def make_authority(*, now: datetime) -> Certificate:
    """Return a new self-signed certificate authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _build_name("Echo Markets stack")
    builder = _begin(name, name, key, now=now, days=AUTHORITY_DAYS)
    usage = _build_usage(signs_certificates=True)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    certificate = builder.add_extension(usage, critical=True).sign(key, hashes.SHA256())
    return Certificate(certificate, key)


def make_certificate(authority: Certificate, names: tuple[str, ...], *, now: datetime) -> Certificate:
    """Return a new server certificate, signed by `authority`, for `names`: host names and IP addresses."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = authority.key.public_key()
    builder = _begin(_build_name(names[0]), authority.certificate.subject, key, now=now, days=SERVER_DAYS)
    certificate = (
        builder.add_extension(x509.SubjectAlternativeName(map(_build_alternative, names)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_build_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    return Certificate(certificate, key)


def _begin(
    subject: x509.Name, issuer: x509.Name, key: _Key, *, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_DIFFERENCE)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _build_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _build_alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _build_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _is_due(held: Certificate, now: datetime) -> bool:
    return held.expires_at - now < RENEWED_BEFORE


def _is_from(held: Certificate, authority: Certificate, names: tuple[str, ...]) -> bool:
    """Return whether `authority` signed this certificate, and it is valid for exactly these names."""
    try:
        held.certificate.verify_directly_issued_by(authority.certificate)
        found = held.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    return set(found.value) == set(map(_build_alternative, names))


def _load(folder: Path, name: str) -> Certificate | None:
    """Return a certificate with its key. Return None if one of the two files is missing.

    Raises `StackError` if the files are damaged or the key does not belong to the certificate.
    """
    paths = folder / f"{name}.crt", folder / f"{name}.key"
    if not all(path.exists() for path in paths):
        return None
    try:
        certificate = x509.load_pem_x509_certificate(paths[0].read_bytes())
        key = serialization.load_pem_private_key(paths[1].read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise StackError(f"{paths[0]} and {paths[1]} are no certificate and key; remove them") from error
    if not isinstance(key, _Key) or key.public_key() != certificate.public_key():
        raise StackError(f"{paths[1]} is not the key of {paths[0]}; remove both")
    return Certificate(certificate, key)


def store_certificate(folder: Path, name: str, made: Certificate) -> None:
    """Write a certificate and its key as PEM files, NAME.crt and NAME.key."""
    key = made.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    # Write the certificate after its key. If the process ends between the two writes, the certificate is
    # missing, and the next call makes both again.
    (folder / f"{name}.crt").unlink(missing_ok=True)
    write_private(folder / f"{name}.key", key.decode())
    write_private(folder / f"{name}.crt", made.certificate.public_bytes(serialization.Encoding.PEM).decode())
