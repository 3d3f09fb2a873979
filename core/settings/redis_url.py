"""Parses REDIS_URL strictly.

Owns the list of parameters and their allowed values. An unknown parameter is an error: if a misspelt timeout
were ignored, operators would notice it only during an incident. Messages contain no password. Opens no
connection.
"""

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from core.settings.texts import is_host

DEFAULT_PORT: Final = 6379
SENTINEL_PORT: Final = 26379
SENTINEL_SCHEMES: Final = ("redis+sentinel", "rediss+sentinel")
SCHEMES: Final = ("redis", "rediss", "unix", *SENTINEL_SCHEMES)
TLS_SCHEMES: Final = ("rediss", "rediss+sentinel")
PARAMETERS: Final = ("db", "username", "password", "protocol")
TLS_PARAMETERS: Final = (
    "ssl_ca_certs",
    "ssl_ca_path",
    "ssl_cert_reqs",
    "ssl_certfile",
    "ssl_check_hostname",
    "ssl_keyfile",
    "ssl_password",
)
# A database number has at most this number of digits: a number with 9 digits fits into 32 bits.
DATABASE_DIGITS: Final = 9
# A message shows at most this number of characters of an unknown parameter. All known parameters are shorter.
NAME_LENGTH: Final = 40
# Parameters of redis-py that are refused, each with the reason.
REFUSED: Final[Mapping[str, str]] = {
    "timeout": "REDIS_TIMEOUT is the timeout",
    "socket_timeout": "REDIS_TIMEOUT is the timeout",
    "socket_connect_timeout": "REDIS_TIMEOUT is the timeout",
    "decode_responses": "values are bytes",
    "encoding": "values are bytes",
    "encoding_errors": "values are bytes",
}
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_VERIFICATIONS: Final = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}


class HostPort(NamedTuple):
    """The host and the port of a server."""

    host: str
    port: int

    def __str__(self) -> str:
        """Return HOST:PORT as in a URL. An IPv6 address is in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class RedisUrlError(ValueError):
    """REDIS_URL is wrong. The message names the wrong part or parameter."""


@dataclass(frozen=True)
class TlsOptions:
    """The TLS options of a connection. Each has the name of its parameter in the URL."""

    ssl_ca_certs: str | None = None
    ssl_ca_path: str | None = None
    ssl_cert_reqs: str = "required"
    ssl_certfile: str | None = None
    ssl_check_hostname: bool = True
    ssl_keyfile: str | None = None
    ssl_password: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class RedisAddress:
    """The parsed REDIS_URL: the address, the account and the TLS options of a server.

    `path` is the path of a unix socket; for TCP, it is empty and `host` is set. With a `service`, all hosts
    are sentinels, which know the primary of this service. `others` are the hosts after the first one: more
    sentinels, or more nodes of a cluster.
    """

    host: str = ""
    port: int = DEFAULT_PORT
    others: tuple[HostPort, ...] = ()
    service: str = ""
    path: str = ""
    database: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    protocol: int = 3
    tls: TlsOptions | None = None

    @property
    def account(self) -> tuple[str, ...]:
        """The user name and the password to sign in with; the user name is `default` if the URL has none.

        Empty if the URL has a client certificate, no user name and no password: the certificate may name the
        user.
        """
        is_certified = self.tls is not None and self.tls.ssl_certfile is not None
        if is_certified and not (self.username or self.password):
            return ()
        return self.username or "default", self.password or ""

    @property
    def server(self) -> HostPort:
        """The first host of the URL."""
        return HostPort(self.host, self.port)

    @property
    def hosts(self) -> tuple[HostPort, ...]:
        """All hosts of the URL, in the order of the URL."""
        return self.server, *self.others

    def at(self, server: HostPort) -> "RedisAddress":
        """Return the address of another server with the same account, database and TLS options."""
        return replace(self, host=server.host, port=server.port, path="", others=(), service="")

    def __str__(self) -> str:
        """Return the URL without user name, password and parameters."""
        if self.path:
            return f"unix://{self.path}"
        scheme = f"{'rediss' if self.tls else 'redis'}{'+sentinel' if self.service else ''}"
        service = f"{self.service}/" if self.service else ""
        return f"{scheme}://{','.join(map(str, self.hosts))}/{service}{self.database}"


def parse_redis_url(url: str, *, password: str | None = None) -> RedisAddress:
    """Parse a REDIS_URL; `password` is used if the URL has no password.

    Raises `RedisUrlError`, also for a certificate file that cannot be read.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in SCHEMES:
        hint = " in lower case" if scheme.lower() in SCHEMES else ""
        raise RedisUrlError(f"the scheme has to be redis, rediss, unix or redis+sentinel{hint}")
    if "#" in url:
        raise RedisUrlError("'#' has to be written as %23")
    if re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", url):
        # urlsplit would silently remove a tab or a line break
        raise RedisUrlError("a control character has to be percent-encoded")
    is_sentinel = scheme in SENTINEL_SCHEMES
    first, others = _split_hosts(rest, default_port=SENTINEL_PORT if is_sentinel else DEFAULT_PORT)
    if others and scheme == "unix":
        raise RedisUrlError("a socket is written as unix:///PATH")
    try:
        parts = urlsplit(f"{scheme}://{first}")
    except ValueError as error:
        raise RedisUrlError("the host is not valid") from error
    # check the host first: after an unencoded '?', a part of the password is taken for a parameter, and an
    # error about this parameter would show it
    host, path = ("", _parse_path(parts)) if scheme == "unix" else (_parse_host(parts), "")
    port = _parse_port(parts, default=SENTINEL_PORT if is_sentinel else DEFAULT_PORT)
    parameters = _parse_parameters(parts.query)
    is_tls = scheme in TLS_SCHEMES
    for name in parameters:
        if name in TLS_PARAMETERS and not is_tls:
            raise RedisUrlError(f"parameter {name} needs the scheme rediss")
    service, database = _split_service(parts.path) if is_sentinel else ("", parts.path.strip("/"))
    tls = _parse_tls(parameters) if is_tls else None
    return RedisAddress(
        host=host,
        port=port,
        others=others,
        service=service,
        path=path,
        database=_parse_database("" if scheme == "unix" else database, parameters),
        username=_find_credential("username", parts.username, parameters),
        password=_find_credential("password", parts.password, parameters) or password,
        protocol=_parse_protocol(parameters),
        tls=tls,
    )


def find_hash_tag(prefix: str) -> str:
    """Return the hash tag of a key prefix, such as `echo` for `{echo}:`; empty if there is none.

    A cluster stores all keys with the same hash tag in one slot. Source: Redis cluster specification,
    "Hash tags".
    """
    _, brace, rest = prefix.partition("{")
    tag, end, _ = rest.partition("}")
    return tag if brace and end else ""


def check_hosts(address: RedisAddress, prefix: str) -> None:
    """Raise `RedisUrlError` if the hosts are nodes of a cluster, and the key prefix has no hash tag."""
    if address.others and not address.service and not find_hash_tag(prefix):
        raise RedisUrlError(
            "several hosts in REDIS_URL are nodes of one cluster, where every key has to be in one slot: set"
            " REDIS_KEY_PREFIX to a hash tag such as {echo}:"
        )


def _split_hosts(rest: str, *, default_port: int) -> tuple[str, tuple[HostPort, ...]]:
    """Separate the hosts after the first one from `rest`, the URL without its scheme.

    Returns two values: `rest` with only the first host, and the other hosts. Only a comma after the last '@'
    separates hosts, because a password may contain commas.
    """
    end = min((place for place in map(rest.find, "/?") if place >= 0), default=len(rest))
    account, at, hosts = rest[:end].rpartition("@")
    first, *others = hosts.split(",")
    found = []
    for other in others:
        try:
            parts = urlsplit(f"redis://{other}")
        except ValueError as error:
            raise RedisUrlError("the host is not valid") from error
        found.append(HostPort(_parse_host(parts), _parse_port(parts, default=default_port)))
    return f"{account}{at}{first}{rest[end:]}", tuple(found)


def _split_service(path: str) -> tuple[str, str]:
    """Return the service and the database in the path of a sentinel URL."""
    service, _, database = path.strip("/").partition("/")
    if not service or (service.isdigit() and not database):
        raise RedisUrlError("the service is missing: the path has to be /SERVICE/DATABASE, as in /mymaster/0")
    return _decode("the service", service), database


def _parse_parameters(query: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for item in filter(None, query.split("&")):
        name, _, value = item.partition("=")
        if name in REFUSED:
            raise RedisUrlError(f"parameter {name} is not allowed: {REFUSED[name]}")
        if name not in PARAMETERS and name not in TLS_PARAMETERS:
            known = ", ".join((*PARAMETERS, *TLS_PARAMETERS))
            raise RedisUrlError(f"parameter {name[:NAME_LENGTH]!r} is unknown (known are {known})")
        if name in found:
            raise RedisUrlError(f"parameter {name} is given twice")
        # not parse_qsl, which would replace a '+' in a password by a space
        found[name] = _decode(f"parameter {name}", value)
    return found


def _decode(what: str, text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        # `from None`: the UnicodeDecodeError contains the text, which may be a password
        raise RedisUrlError(f"{what} is not percent-encoded UTF-8") from None


def _parse_host(parts: SplitResult) -> str:
    # an unencoded '/' or '?' in a password moves the '@' into the path or the query
    if not parts.hostname or "@" in parts.path or "@" in parts.query.partition("=")[0]:
        raise RedisUrlError("the host is missing; '/', '?' and '#' in a password have to be percent-encoded")
    if not is_host(parts.hostname):
        raise RedisUrlError("the host is not valid")
    return parts.hostname


def _parse_port(parts: SplitResult, *, default: int) -> int:
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise RedisUrlError("the port has to be a number from 1 to 65535")
    return port or default


def _parse_path(parts: SplitResult) -> str:
    if parts.hostname or not parts.path.strip("/"):
        raise RedisUrlError("a socket is written as unix:///PATH")
    return _decode("the path", parts.path)


def _parse_database(path: str, parameters: Mapping[str, str]) -> int:
    given = {text for text in (path, parameters.get("db")) if text}
    if len(given) > 1:
        raise RedisUrlError("parameter db and the path name different databases")
    number = given.pop() if given else "0"
    if not (number.isascii() and number.isdigit() and len(number) <= DATABASE_DIGITS):
        where = "parameter db" if "db" in parameters else "the database, after the last '/',"
        raise RedisUrlError(f"{where} has to be a whole number")
    return int(number)


def _find_credential(name: str, part: str | None, parameters: Mapping[str, str]) -> str | None:
    """Return the user name or the password: `part`, which stands before the host, or the parameter `name`.

    Returns None if the URL has neither. Raises `RedisUrlError` if it has both and they differ.
    """
    before = _decode(f"the {name}", part) if part else None
    given = parameters.get(name)
    if before and given and before != given:
        raise RedisUrlError(f"parameter {name} and the part before '@' differ")
    return before or given or None


def _parse_protocol(parameters: Mapping[str, str]) -> int:
    text = parameters.get("protocol", "3")
    if text not in {"2", "3"}:
        raise RedisUrlError("parameter protocol has to be 3 or 2")
    return int(text)


def _parse_tls(parameters: Mapping[str, str]) -> TlsOptions:
    check = parameters.get("ssl_check_hostname", "true").lower()
    if check not in _TRUE and check not in _FALSE:
        raise RedisUrlError("parameter ssl_check_hostname has to be true or false")
    if parameters.get("ssl_cert_reqs", "required") not in _VERIFICATIONS:
        raise RedisUrlError("parameter ssl_cert_reqs has to be required, optional or none")
    for name in ("ssl_keyfile", "ssl_password"):
        if name in parameters and "ssl_certfile" not in parameters:
            raise RedisUrlError(f"parameter {name} needs ssl_certfile")
    options = TlsOptions(
        ssl_ca_certs=parameters.get("ssl_ca_certs"),
        ssl_ca_path=parameters.get("ssl_ca_path"),
        ssl_cert_reqs=parameters.get("ssl_cert_reqs", "required"),
        ssl_certfile=parameters.get("ssl_certfile"),
        ssl_check_hostname=check in _TRUE,
        ssl_keyfile=parameters.get("ssl_keyfile"),
        ssl_password=parameters.get("ssl_password"),
    )
    make_tls_context(options)
    return options


@lru_cache(maxsize=8)
def make_tls_context(options: TlsOptions) -> ssl.SSLContext:
    """Return the TLS context for these options. Raises `RedisUrlError` if a file cannot be used."""
    name = "ssl_ca_certs" if options.ssl_ca_certs else "ssl_ca_path"
    if options.ssl_ca_path and not Path(options.ssl_ca_path).is_dir():
        # check the folder now: OpenSSL opens it only when it verifies a certificate
        raise RedisUrlError("parameter ssl_ca_path names no folder")
    try:
        context = ssl.create_default_context(cafile=options.ssl_ca_certs, capath=options.ssl_ca_path)
        if options.ssl_certfile:
            name = "ssl_certfile"
            # without `password`, OpenSSL would ask for the password of an encrypted key on the terminal
            context.load_cert_chain(
                options.ssl_certfile, options.ssl_keyfile, password=lambda: options.ssl_password or ""
            )
    except OSError as error:
        # ssl.SSLError is a subclass of OSError
        raise RedisUrlError(f"parameter {name} cannot be used: {error.strerror or error}") from error
    context.check_hostname = options.ssl_check_hostname and options.ssl_cert_reqs != "none"
    context.verify_mode = _VERIFICATIONS[options.ssl_cert_reqs]
    return context
