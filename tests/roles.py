"""The database roles in tests: their passwords, and databases that belong to the owner role."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg2
from psycopg2.extensions import cursor as Cursor  # noqa: N812  # psycopg2 names this class in lower case
from pydantic import SecretStr

from core import Settings
from core.database.privileges import hand_over
from core.database.roles import APP, LOGINS, OWNER, create_roles, open_administrator
from core.migration import Migrator
from core.testing import ENCRYPTION_KEYS

PASSWORDS = {name: f"{name}'s @/%s pass" for name in LOGINS}


def url_as(role: str, url: str) -> str:
    """Return the URL with `role` as its user, without a password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{role}@{parts.hostname}:{parts.port}"))


def url_with_password(role: str, url: str) -> str:
    """Return the URL with a login role as its user, and the role's password."""
    return url_as(f"{role}:{quote(PASSWORDS[role], safe='')}", url)


def settings_as(role: str, url: str, **values: object) -> Settings:
    """Return settings with which the service connects as `role` and migrations connect as the owner role."""
    return Settings(
        database_url=SecretStr(url_as(role, url)),
        database_password=SecretStr(PASSWORDS[role]),
        direct_url=SecretStr(url_as(OWNER, url)),
        direct_password=SecretStr(PASSWORDS[OWNER]),
        encryption_keys=SecretStr(ENCRYPTION_KEYS),
        **values,  # type: ignore[arg-type]  # validated by Settings
    )


def give_to_roles(admin_url: str) -> None:
    """Create the roles, hand the database over to them, and migrate it; can be called again."""
    with open_administrator(admin_url) as admin:
        create_roles(admin, PASSWORDS)
        hand_over(admin)
    Migrator(settings_as(APP, admin_url)).up()


@contextmanager
def cursor_as(role: str, url: str) -> Iterator[Cursor]:
    """Yield a cursor of a connection as one of the login roles, in autocommit."""
    with closing(psycopg2.connect(settings_as(role, url).database_url.get_secret_value())) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            yield cursor
