"""The roles of the database: how they are defined, and created with their passwords.

Owns the definitions and memberships. Creating a role takes an administrator's connection. The privileges of
each role are in `core.database.privileges`.

Roles belong to the whole server: several databases of one server share them and their passwords.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Final, NamedTuple

import psycopg2
from psycopg2 import extensions, sql

from core.database.driver_errors import translate_connect
from core.errors import DatabaseError
from core.settings.role_names import APP, MONITOR, OWNER, PLAYER, SEALER

__all__ = [
    "APP",
    "LOGINS",
    "MONITOR",
    "OWNER",
    "PLAYER",
    "ROLES",
    "SEALER",
    "administering",
    "create_roles",
    "open_administrator",
]

# Any fixed number: "role" in ASCII.
ADVISORY_LOCK: Final = 0x726F6C65
CONNECT_SECONDS: Final = 60
FIRST_WITH_OPTIONS: Final = 160_000
"""From this version on, inheritance is an option of each membership; before, of the member role."""


class RoleForm(NamedTuple):
    """Whether a role can sign in, and whether it has the privileges of its memberships without SET ROLE."""

    can_login: bool
    inherits: bool


class Membership(NamedTuple):
    """`member` is a member of `role`; if it does not inherit, it needs SET ROLE to use the privileges."""

    role: str
    member: str
    inherits: bool


ROLES: Final[Mapping[str, RoleForm]] = {
    OWNER: RoleForm(can_login=True, inherits=True),  # owns `public` through pg_database_owner
    APP: RoleForm(can_login=True, inherits=False),
    PLAYER: RoleForm(can_login=False, inherits=False),
    MONITOR: RoleForm(can_login=True, inherits=True),
    SEALER: RoleForm(can_login=False, inherits=False),
}
MEMBERSHIPS: Final = (
    Membership(PLAYER, APP, inherits=False),
    Membership(SEALER, OWNER, inherits=False),
    Membership("pg_monitor", MONITOR, inherits=True),
)
LOGINS: Final = tuple(name for name, form in ROLES.items() if form.can_login)

# They keep password verifiers out of the server's log and statistics. Some versions lack some of them, and
# only a superuser may set them.
_UNLOGGED = """
    SELECT count(set_config(name, value, true)) FROM (VALUES
        ('log_statement', 'none'), ('log_min_duration_statement', '-1'),
        ('log_min_error_statement', 'panic'), ('pg_stat_statements.track', 'none')
    ) AS quiet (name, value) WHERE current_setting('is_superuser') = 'on'"""
# An advisory lock would not do: it counts in one database only, and roles belong to the whole server.
_CREATE = """
    DO $$ BEGIN
        CREATE ROLE {role};
    EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
    END $$"""
_FIND_TOO_MIGHTY = """
    SELECT rolname FROM pg_roles
    WHERE rolname = ANY(%s)
      AND (rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls)"""


def create_roles(admin: extensions.connection, passwords: Mapping[str, str]) -> list[str]:
    """Create the missing roles, and set the passwords of `LOGINS`; return the names of the new roles.

    All or nothing, and repeatable: another run can set other passwords. `admin` is a connection of a
    superuser, or of a role with CREATEROLE that may grant pg_monitor. A password is sent only as the verifier
    that the server stores (SCRAM). Raises `DatabaseError`.
    """
    verifiers = {
        name: extensions.encrypt_password(passwords[name], name, scope=admin, algorithm="scram-sha-256")
        for name in LOGINS
    }
    with administering(admin) as cursor:
        cursor.execute(_UNLOGGED)
        cursor.execute("SELECT rolname FROM pg_roles WHERE rolname = ANY(%s)", (list(ROLES),))
        before = {name for (name,) in cursor.fetchall()}
        for name, form in ROLES.items():
            _create_role(cursor, name, form, verifiers.get(name))
        _refuse_too_mighty(cursor)
        for membership in MEMBERSHIPS:
            _grant_membership(cursor, membership, version=admin.server_version)
    return [name for name in ROLES if name not in before]


@contextmanager
def open_administrator(url: str) -> Iterator[extensions.connection]:
    """Open a connection for `create_roles`; raises `ConnectFailed`."""
    try:
        admin = psycopg2.connect(url, application_name="echo-markets-roles", connect_timeout=CONNECT_SECONDS)
    except psycopg2.Error as error:
        raise translate_connect(error) from error
    with closing(admin):
        yield admin


@contextmanager
def administering(admin: extensions.connection) -> Iterator[extensions.cursor]:
    """Open an administrator's transaction; a second one waits for the first. Raises `DatabaseError`."""
    try:
        with admin, admin.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", (ADVISORY_LOCK,))
            yield cursor
    except psycopg2.Error as error:
        lines = str(error).strip().splitlines()
        raise DatabaseError(
            f"the roles could not be set up ({lines[0] if lines else type(error).__name__}); nothing was"
            " changed: ADMIN_URL has to name a superuser, or a role with CREATEROLE that owns the database"
            " and may grant pg_monitor"
        ) from error


def _create_role(cursor: extensions.cursor, name: str, form: RoleForm, verifier: str | None) -> None:
    role = sql.Identifier(name)
    cursor.execute(sql.SQL(_CREATE).format(role=role))
    options = f"{'LOGIN' if form.can_login else 'NOLOGIN'} {'INHERIT' if form.inherits else 'NOINHERIT'}"
    statement = sql.SQL("ALTER ROLE {} " + options + " PASSWORD {}")
    cursor.execute(statement.format(role, sql.Literal(verifier)))


def _refuse_too_mighty(cursor: extensions.cursor) -> None:
    """Raise `DatabaseError` when a role, perhaps created by somebody else, has a dangerous attribute."""
    cursor.execute(_FIND_TOO_MIGHTY, (list(ROLES),))
    found = [name for (name,) in cursor.fetchall()]
    if found:
        raise DatabaseError(
            f"{', '.join(found)} may do more than rows: take SUPERUSER, CREATEROLE, CREATEDB, REPLICATION and"
            " BYPASSRLS from it with ALTER ROLE, then try again; nothing was changed"
        )


def _grant_membership(cursor: extensions.cursor, membership: Membership, *, version: int) -> None:
    statement = sql.SQL("GRANT {} TO {}").format(*map(sql.Identifier, (membership.role, membership.member)))
    if version >= FIRST_WITH_OPTIONS:
        statement += sql.SQL(f" WITH INHERIT {str(membership.inherits).upper()}, SET TRUE")
    cursor.execute(statement)
