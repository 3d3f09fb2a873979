"""Checks the form of DATABASE_URL more strictly than libpq does.

For libpq, the first `@` ends the password, and the first `/` ends the port. If a password contains one of
these characters, libpq takes the rest of the password for a host, a port or a database, and shows it in
error messages. The messages of this module contain no text from the URL. Opens no connection.
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
    """The URL of a database is wrong. The message says how to correct it."""


def check_database_url(url: str) -> str:
    """Check the URL, and return it with the scheme `postgresql://`. Raises `DatabaseUrlError`.

    The URL may have several hosts (`HOST1:PORT1,HOST2:PORT2`, or `?host=A,B&port=1,2`) and any parameter of
    libpq.
    """
    scheme = next((each for each in SCHEMES if url.startswith(each)), None)
    if scheme is None:
        # No reason is given: the message for a wrong setting shows the allowed form, and this form begins
        # with the scheme.
        raise DatabaseUrlError
    rest = url.removeprefix(scheme)
    _check_signs(rest)
    try:
        parts = parse_dsn(url)
    except psycopg2.ProgrammingError as error:
        # `from None`: the message of the driver may contain the URL with its password
        raise DatabaseUrlError(_find_reason(str(error))) from None
    except ValueError:
        # the URL contains NUL or a surrogate
        raise DatabaseUrlError("libpq cannot read it") from None
    if not parts.get("dbname"):
        raise DatabaseUrlError("it names no database")
    hosts = _find_hosts(parts).split(",")
    ports = parts.get("port", "").split(",")
    if len(ports) not in {1, len(hosts)} or not all(not port or is_port(port) for port in ports):
        raise DatabaseUrlError("a port is a number from 1 to 65535, one for all hosts or one for each")
    return SCHEMES[0] + rest


def check_replica_urls(urls: str) -> list[str]:
    """Check the URLs in a text with blanks between them, and return them as a list.

    Each URL must name a single host, because the state of a replica is kept per URL. Two URLs must not name
    the same server: each would have its own pool, so the server would get twice as many connections as
    allowed. Raises `DatabaseUrlError`.
    """
    checked = [check_database_url(url) for url in urls.split()]
    servers = [_find_server(parse_dsn(url)) for url in checked]
    if any("," in host for host, *_ in servers):
        raise DatabaseUrlError("each URL of a replica names one host; give each host a URL")
    if len(set(servers)) < len(servers):
        raise DatabaseUrlError("a replica is named twice")
    return checked


def _find_server(parts: dict[str, str]) -> tuple[str, ...]:
    """Return host, port, database and service, which together identify a replica.

    The name of the database is one of the four, because a pooler may connect each database to another
    server.
    """
    host = _find_hosts(parts).lower().replace("localhost", LOOPBACK)
    return host, parts.get("port") or DEFAULT_PORT, parts["dbname"], parts.get("service", "")


def _find_hosts(parts: dict[str, str]) -> str:
    return parts.get("hostaddr") or parts.get("host") or ""


def add_password(url: str, password: str) -> str:
    """Return the URL with the password as a parameter.

    Returns the URL unchanged if it already has a password, or if libpq cannot read the URL or the password.
    """
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
    """Raise `DatabaseUrlError` if a character in a name or a password must be percent-encoded."""
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
