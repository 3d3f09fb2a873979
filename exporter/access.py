"""Access to the exporter: TLS and users from the web-config file, and basic authentication (RFC 7617).

Owns the supported keys of the file and their error messages, the `Authorization` header, and the check of
passwords. The format of the file is that of Prometheus's exporter-toolkit:
https://prometheus.io/docs/prometheus/latest/configuration/https/. The file is read once, when the exporter
starts. An unknown key is an error, because ignoring it could leave the exporter unprotected.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import re
import ssl
import threading
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import bcrypt
import yaml
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from core.errors import SettingsError
from core.web.requests import PROBES

TLS = "tls_server_config"
USERS = "basic_auth_users"
VERSIONS: Mapping[str, ssl.TLSVersion] = MappingProxyType(
    {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
)
TLS_KEYS = ("cert_file", "key_file", "min_version")
_BCRYPT = re.compile(r"\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{53}")
# Maximum number of accepted passwords in memory, as digests. bcrypt is slow by design (0.1 s), and Prometheus
# sends the same password with each scrape.
REMEMBERED = 100
CHALLENGE = {"WWW-Authenticate": 'Basic realm="echo-markets", charset="UTF-8"'}


class WebConfig(NamedTuple):
    """The content of the web-config file. Without users, no password is needed."""

    tls: ssl.SSLContext | None = None
    users: Mapping[str, bytes] = MappingProxyType({})


def load_web_config(path: Path | None) -> WebConfig:
    """Read the web-config file. Without a path, TLS is off and no password is needed.

    Raises `SettingsError` if the file is not valid.
    """
    if path is None:
        return WebConfig()
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _wrong(f"{path} cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}" if mark is not None else ""
        # leave out the parser's message: it repeats a line of the file, which may contain the hash of a
        # password
        raise _wrong(f"{path} is no YAML{place}") from None
    sections = _check_keys(document or {}, (TLS, USERS), str(path))
    return WebConfig(
        tls=_load_tls(sections[TLS], path) if TLS in sections else None,
        users=_load_users(sections[USERS], path) if USERS in sections else MappingProxyType({}),
    )


def _wrong(what: str) -> SettingsError:
    return SettingsError(f"EXPORTER_WEB_CONFIG: {what}; docs/exporter.md says what the file may contain")


def _check_keys(section: Any, known: tuple[str, ...], name: str) -> dict[str, Any]:
    if not isinstance(section, dict):
        raise _wrong(f"{name} is no mapping")
    for key in section:
        if key not in known:
            raise _wrong(f"{name} has the key {key!r}, which is none of {', '.join(known)}")
    return section


def _load_tls(section: Any, path: Path) -> ssl.SSLContext:
    values = _check_keys(section, TLS_KEYS, TLS)
    certificate, key = (_find_file(values, name, path) for name in ("cert_file", "key_file"))
    version = values.get("min_version", "TLS12")
    if version not in VERSIONS:
        raise _wrong(f"min_version is {version!r}, which is none of {', '.join(VERSIONS)}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = VERSIONS[version]
    try:
        # pass an empty password: for an encrypted key, OpenSSL then raises an error and does not ask on the
        # terminal
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ssl.SSLError) as error:
        reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise _wrong(f"{certificate} and {key} are no certificate and key ({reason})") from None
    return context


def _find_file(values: Mapping[str, Any], name: str, path: Path) -> Path:
    if not isinstance(values.get(name), str):
        raise _wrong(f"{TLS} lacks {name}, the name of a PEM file")
    # the name is relative to the folder of the web-config file, as in exporter-toolkit
    return path.parent / str(values[name])


def _load_users(section: Any, path: Path) -> Mapping[str, bytes]:
    if not isinstance(section, dict):
        raise _wrong(f"{USERS} of {path} is no mapping of names to bcrypt hashes")
    users = {}
    for name, value in section.items():
        if _BCRYPT.fullmatch(str(value)) is None:
            raise _wrong(f"the password of {name!r} is no bcrypt hash")
        users[str(name)] = str(value).encode()
    return MappingProxyType(users)


class Passwords:
    """Checks passwords against their bcrypt hashes. Thread safe."""

    def __init__(self, users: Mapping[str, bytes]) -> None:
        self._users = users
        self._accepted: set[bytes] = set()
        # check one password at a time, so that attempts to guess passwords leave processor time for scrapes
        self._checking = threading.Lock()

    def is_known(self, name: str, password: str) -> bool:
        """Return whether this password was accepted before. Fast, because it does not use bcrypt."""
        return self._digest(name, password) in self._accepted

    def check(self, name: str, password: str) -> bool:
        """Return whether the password of the user is correct. Takes a tenth of a second."""
        # check any hash for an unknown user too: a faster answer would show that the user does not exist
        expected = self._users.get(name, next(iter(self._users.values())))
        with self._checking:
            try:
                is_right = bcrypt.checkpw(password.encode(), expected) and name in self._users
            except ValueError:
                # bcrypt refuses a password that is too long or has a zero byte
                return False
            if is_right and len(self._accepted) < REMEMBERED:
                self._accepted.add(self._digest(name, password))
            return is_right

    def _digest(self, name: str, password: str) -> bytes:
        key = self._users.get(name, b"nobody")
        return hmac.digest(key, f"{name}:{password}".encode(), hashlib.sha256)


class BasicAuth:
    """ASGI middleware for basic authentication (RFC 7617)."""

    def __init__(self, app: ASGIApp, passwords: Passwords) -> None:
        self._app = app
        self._passwords = passwords

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on if its path is one of PROBES or its password is correct.

        Otherwise answer with status 401.
        """
        if scope["type"] != "http" or scope["path"] in PROBES or await self._is_allowed(scope):
            await self._app(scope, receive, send)
            return
        await PlainTextResponse("unauthorized\n", 401, headers=CHALLENGE)(scope, receive, send)

    async def _is_allowed(self, scope: Scope) -> bool:
        sent = _parse(Headers(scope=scope).get("authorization", ""))
        if sent is None:
            return False
        # bcrypt is slow: check the password outside the event loop
        return self._passwords.is_known(*sent) or await asyncio.to_thread(self._passwords.check, *sent)


def _parse(header: str) -> tuple[str, str] | None:
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, separator, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return (name, password) if separator else None
