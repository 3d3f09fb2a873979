"""Identifies a stack, so that a program notices when it has received the health of another stack.

Owns the form of the identity, and the rule by which two identities mean the same stack. An identity contains
no address.
"""

import hashlib
import re
from typing import NamedTuple

from psycopg2.extensions import parse_dsn

from core.settings.database_url import DEFAULT_PORT, DatabaseUrlError, check_database_url
from core.settings.texts import LOOPBACK

HEADER = "X-Echo-Markets-Stack"
NAME_PATTERN = r"[A-Za-z0-9._-]{1,64}"
DIGEST_CHARACTERS = 12  # enough to distinguish the databases of one machine, and short enough to read
_FORM = re.compile(rf"({NAME_PATTERN})?@([0-9a-f]{{{DIGEST_CHARACTERS}}})")


class StackIdentity(NamedTuple):
    """The name of a stack (STACK_NAME, or None), and a digest of the address of its database."""

    name: str | None
    database: str

    def __str__(self) -> str:
        return f"{self.name or ''}@{self.database}"

    def is_same(self, other: "StackIdentity") -> bool:
        """Return whether both identities mean the same stack.

        If both have a name, the names are compared, else the digests of the address. Names are better: a
        container of the same stack may reach the database by another address than this machine, and two
        stacks may use the same address at different times.
        """
        if self.name and other.name:
            return self.name == other.name
        return self.database == other.database


def build_identity(name: str | None, database_url: str) -> StackIdentity:
    """Return the identity of the stack with this name and this database."""
    place = describe_database(database_url).encode()
    return StackIdentity(name or None, hashlib.sha256(place).hexdigest()[:DIGEST_CHARACTERS])


def parse_identity(text: str) -> StackIdentity | None:
    """Return the identity for a text that `str(identity)` has returned, or None for any other text."""
    found = _FORM.fullmatch(text)
    return StackIdentity(found[1], found[2]) if found else None


def describe_database(database_url: str) -> str:
    """Return HOST:PORT/DATABASE of a connection URL, without user name and password."""
    try:
        # check first: a part of a password that is not percent-encoded would be shown as the host
        parts = parse_dsn(check_database_url(database_url))
    except DatabaseUrlError:
        return "(not a connection URL)"
    host = parts.get("host", LOOPBACK).replace("localhost", LOOPBACK)
    options = f" {parts['options']}" if "options" in parts else ""  # the options may choose a schema
    return f"{host}:{parts.get('port', DEFAULT_PORT)}/{parts.get('dbname', '')}{options}"
