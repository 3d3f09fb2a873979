"""The identity of a process's stack, so that the health of two stacks is not mixed up.

Owns the id, and the rule when two ids mean the same stack. Pure functions of settings; shows no address.
"""

import hashlib
import re
from typing import NamedTuple

from psycopg2.extensions import parse_dsn

from core.settings.database_url import DEFAULT_PORT, DatabaseUrlError, check_database_url
from core.settings.texts import LOOPBACK

HEADER = "X-Echo-Markets-Stack"
NAME_PATTERN = r"[A-Za-z0-9._-]{1,64}"
DIGEST_CHARACTERS = 12  # enough to tell the databases of one machine apart, and short enough to read
_FORM = re.compile(rf"({NAME_PATTERN})?@([0-9a-f]{{{DIGEST_CHARACTERS}}})")


class StackIdentity(NamedTuple):
    """A stack by its name (STACK_NAME; None without one) and by a digest of where its database is."""

    name: str | None
    database: str

    def __str__(self) -> str:
        return f"{self.name or ''}@{self.database}"

    def is_same(self, other: "StackIdentity") -> bool:
        """Say whether both are the same stack.

        If both have a name, the names decide: the containers and this machine reach a database under
        different addresses, and two checkouts may use one address at different times.
        """
        if self.name and other.name:
            return self.name == other.name
        return self.database == other.database


def build_identity(name: str | None, database_url: str) -> StackIdentity:
    """Return the identity of a process with these settings."""
    place = describe_database(database_url).encode()
    return StackIdentity(name or None, hashlib.sha256(place).hexdigest()[:DIGEST_CHARACTERS])


def parse_identity(text: str) -> StackIdentity | None:
    """Return the identity from the text that `str` returned for it; None for any other text."""
    found = _FORM.fullmatch(text)
    return StackIdentity(found[1], found[2]) if found else None


def describe_database(database_url: str) -> str:
    """Return HOST:PORT/DATABASE of a connection URL, without user and password."""
    try:
        # without the check, a part of a password that is not encoded would be shown as a host
        parts = parse_dsn(check_database_url(database_url))
    except DatabaseUrlError:
        return "(not a connection URL)"
    host = parts.get("host", LOOPBACK).replace("localhost", LOOPBACK)
    options = f" {parts['options']}" if "options" in parts else ""  # options may choose another schema
    return f"{host}:{parts.get('port', DEFAULT_PORT)}/{parts.get('dbname', '')}{options}"
