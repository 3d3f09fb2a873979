"""The roles of the database: with them the server decides who may do what.

Owns what they are, their memberships, and how they are created and given passwords, which takes an
administrator's connection. What each role may do with which table is declared in `core.database.privileges`.

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
"""The version from which a membership says whether it is inherited; before, the member's role says it."""


class RoleForm(NamedTuple):
    """Whether a role signs in, and whether it has the privileges of its memberships without SET ROLE."""

    can_login: bool
    inherits: bool


class Membership(NamedTuple):
    """`member` is in `role`; unless it inherits, it has to become the role to use it."""

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

# Not all of them exist in every version, and only a superuser may set them: the verifiers of passwords stay
# out of the server's log and statistics.
_UNLOGGED = """
    SELECT count(set_config(name, value, true)) FROM (VALUES
        ('log_statement', 'none'), ('log_min_duration_statement', '-1'),
        ('log_min_error_statement', 'panic'), ('pg_stat_statements.track', 'none')
    ) AS quiet (name, value) WHERE current_setting('is_superuser') = 'on'"""
# Two databases of one server have no lock in common.
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
    """Create the roles that are missing, and give `LOGINS` these passwords; return the roles that are new.

    All or nothing, and repeatable: run again, it sets other passwords. `admin` is a connection of a
    superuser, or of a role with CREATEROLE that may grant pg_monitor. The server gets no password, but the
    verifier that it stores (SCRAM). Raises `DatabaseError`.
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
    """Open a transaction of an administrator, one after the other; raises `DatabaseError`."""
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
    """Raise `DatabaseError` when a role, which may be older, has what it must not have."""
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
