"""Checks the form of DATABASE_URL more strictly than libpq does.

For libpq the first `@` ends the password and the first `/` ends the port. If a password contains such a
character, libpq takes a part of the password for a host, a port or a database, and shows it in messages.
Connects to nothing; no message of this module contains a part of the URL.
"""

import re
from typing import Final
from urllib.parse import quote

import psycopg2
from psycopg2.extensions import parse_dsn

from core.settings.texts import LOOPBACK, is_port

SCHEMES: Final = ("postgresql://", "postgres://")
_UNKNOWN = re.compile(r'invalid URI query parameter: "([a-z_]{1,40})"')
DEFAULT_PORT: Final = "5432"


class DatabaseUrlError(ValueError):
    """A URL of a database is wrong; the message says what has to be corrected."""


def check_database_url(url: str) -> str:
    """Return the URL with the scheme `postgresql://`; raises `DatabaseUrlError`.

    Several hosts (`HOST1:PORT1,HOST2:PORT2`, or `?host=A,B&port=1,2`) and every parameter of libpq are
    allowed.
    """
    scheme = next((each for each in SCHEMES if url.startswith(each)), None)
    if scheme is None:
        # the message about a wrong URL always says how it has to begin
        raise DatabaseUrlError
    rest = url.removeprefix(scheme)
    _check_signs(rest)
    try:
        parts = parse_dsn(url)
    except psycopg2.ProgrammingError as error:
        # the driver's message may repeat the URL, password included
        raise DatabaseUrlError(_find_reason(str(error))) from None
    except ValueError:
        # NUL, or half of a surrogate pair
        raise DatabaseUrlError("libpq cannot read it") from None
    if not parts.get("dbname"):
        raise DatabaseUrlError("it names no database")
    hosts = _find_hosts(parts).split(",")
    ports = parts.get("port", "").split(",")
    if len(ports) not in {1, len(hosts)} or not all(map(_is_port_or_default, ports)):
        raise DatabaseUrlError("a port is a number from 1 to 65535, one for all hosts or one for each")
    return SCHEMES[0] + rest


def check_replica_urls(urls: str) -> list[str]:
    """Return a list of the URLs in a text that has blanks between them; raises `DatabaseUrlError`.

    Each URL must name only one host: state is kept per URL, and two servers would share it. Two URLs of one
    server would each have a pool, and use twice the connections that are allowed.
    """
    checked = [check_database_url(url) for url in urls.split()]
    servers = [_find_server(parse_dsn(url)) for url in checked]
    if any("," in host for host, *_ in servers):
        raise DatabaseUrlError("each URL of a replica names one host; give each host a URL")
    if len(set(servers)) < len(servers):
        raise DatabaseUrlError("a replica is named twice")
    return checked


def _find_server(parts: dict[str, str]) -> tuple[str, ...]:
    """Return the parts that identify a server. Behind one pooler, each database may be on another replica."""
    host = _find_hosts(parts).lower().replace("localhost", LOOPBACK)
    return host, parts.get("port") or DEFAULT_PORT, parts["dbname"], parts.get("service", "")


def _find_hosts(parts: dict[str, str]) -> str:
    return parts.get("hostaddr") or parts.get("host") or ""


def add_password(url: str, password: str) -> str:
    """Return the URL with the password; unchanged if the URL has a password, or if libpq cannot read both."""
    try:
        has_password = "password" in parse_dsn(url)
        encoded = quote(password, safe="")
    except (psycopg2.ProgrammingError, ValueError):
        return url
    if has_password or "\x00" in password:
        return url
    return f"{url}{'&' if '?' in url else '?'}password={encoded}"


def _find_reason(words: str) -> str:
    unknown = _UNKNOWN.search(words)
    if unknown:
        return f"libpq has no parameter {unknown[1]}"
    if "extra key/value separator" in words:
        return "in the value of a parameter write '=' as %3D and a blank as %20"
    return "libpq cannot read it"


def _check_signs(rest: str) -> None:
    """Raise `DatabaseUrlError` for unencoded signs that would end a part of the URL too early."""
    if re.search(r"[\x00-\x1f\x7f]", rest):
        raise DatabaseUrlError("a control character has to be percent-encoded")
    authority, _, path = rest.partition("/")
    if authority.count("@") > 1:
        raise DatabaseUrlError("in a name or a password write '@' as %40")
    if "@" in path.partition("?")[0]:
        raise DatabaseUrlError(
            "an '@' stands behind a '/'; in a name or a password write '/' as %2F and '@' as %40"
        )
    if re.search(r"%(?![0-9A-Fa-f]{2})|%00", rest):
        raise DatabaseUrlError("in a name or a password write '%' as %25")


def _is_port_or_default(text: str) -> bool:
    return not text or is_port(text)
