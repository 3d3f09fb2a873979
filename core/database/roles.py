"""The roles of the database: their definitions, and their creation with passwords.

Owns the definitions and memberships. Creating a role needs the connection of an administrator. The privileges
of each role are in `core.database.privileges`.

Roles belong to the whole server: all databases of a server share them and their passwords.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from typing import Final, NamedTuple, TypeVar

import psycopg2
from psycopg2 import errors, extensions, sql

from core.database.driver_errors import translate_connect
from core.errors import DatabaseError
from core.settings.role_names import APP, MONITOR, OWNER, PLAYER, REPLICATION, SEALER

__all__ = [
    "APP",
    "LOGINS",
    "MONITOR",
    "OWNER",
    "PLAYER",
    "REPLICATION",
    "ROLES",
    "SEALER",
    "administer",
    "create_roles",
    "may_become",
    "open_administrator",
]

T = TypeVar("T")

# The key of the advisory lock: any fixed number, here "role" in ASCII.
ADVISORY_LOCK: Final = 0x726F6C65
CONNECT_SECONDS: Final = 60
CONFLICTS: Final = (errors.InternalError_, errors.UniqueViolation, errors.DuplicateObject)
"""Errors of the server if a role is changed from another database at the same moment.

The advisory lock does not prevent this: it works only inside one database.
"""
ATTEMPTS: Final = 50
FIRST_WITH_OPTIONS: Final = 160_000
"""From this server version on, INHERIT is an option of a membership. Before, it is an attribute of roles."""


class RoleForm(NamedTuple):
    """The attributes of a role: LOGIN, INHERIT and REPLICATION."""

    can_login: bool
    inherits: bool
    replicates: bool = False


class Membership(NamedTuple):
    """A membership of `member` in `role`. Without `inherits`, `member` needs SET ROLE to use it."""

    role: str
    member: str
    inherits: bool


ROLES: Final[Mapping[str, RoleForm]] = {
    # INHERIT: the owner of a database is a member of pg_database_owner, to which the schema `public` belongs
    OWNER: RoleForm(can_login=True, inherits=True),
    APP: RoleForm(can_login=True, inherits=False),
    PLAYER: RoleForm(can_login=False, inherits=False),
    MONITOR: RoleForm(can_login=True, inherits=True),
    SEALER: RoleForm(can_login=False, inherits=False),
}
_FORMS: Final = {**ROLES, REPLICATION: RoleForm(can_login=True, inherits=False, replicates=True)}
MEMBERSHIPS: Final = (
    Membership(PLAYER, APP, inherits=False),
    Membership(SEALER, OWNER, inherits=False),
    Membership("pg_monitor", MONITOR, inherits=True),
)
LOGINS: Final = tuple(name for name, form in ROLES.items() if form.can_login)

# Keeps password verifiers out of the server's log and statistics. Only a superuser may set these settings.
_UNLOGGED = """
    SELECT count(set_config(name, value, true)) FROM (VALUES
        ('log_statement', 'none'), ('log_min_duration_statement', '-1'),
        ('log_min_error_statement', 'panic'), ('pg_stat_statements.track', 'none')
    ) AS quiet (name, value) WHERE current_setting('is_superuser') = 'on'"""
# EXISTS, because several roles may have granted the same membership.
_HAS_MEMBERSHIP = """
    SELECT EXISTS (SELECT FROM pg_auth_members
                   WHERE roleid = %(role)s::regrole AND member = %(member)s::regrole{options})"""
_OPTIONS = " AND inherit_option = %(inherits)s AND set_option"
_FIND_DANGEROUS_ROLES = """
    SELECT rolname FROM pg_roles
    WHERE rolname = ANY(%s)
      AND (rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls)"""


def create_roles(admin: extensions.connection, passwords: Mapping[str, str]) -> list[str]:
    """Create the missing roles, and set the passwords of `LOGINS`. Return the names of the new roles.

    If `passwords` has a password for `REPLICATION`, this role is created too. This needs a superuser or, from
    PostgreSQL 16 on, a role that has REPLICATION itself.

    Changes everything or nothing. Can be repeated, for example to set other passwords. `admin` is a
    connection of a superuser, or of a role that has CREATEROLE and may grant pg_monitor. From PostgreSQL 16
    on this role must also have created the other roles, or have the ADMIN OPTION on each of them. Passwords
    are not sent to the server, only their SCRAM verifiers. Raises `DatabaseError`.
    """
    verifiers = {
        name: extensions.encrypt_password(passwords[name], name, scope=admin, algorithm="scram-sha-256")
        for name in (*LOGINS, *passwords.keys() & {REPLICATION})
    }
    forms = {name: form for name, form in _FORMS.items() if name in ROLES or name in verifiers}

    def create(cursor: extensions.cursor) -> list[str]:
        cursor.execute(_UNLOGGED)
        cursor.execute("SELECT rolname FROM pg_roles WHERE rolname = ANY(%s)", (list(forms),))
        before = {name for (name,) in cursor.fetchall()}
        for name, form in forms.items():
            verb = "ALTER" if name in before else "CREATE"
            _set_role(cursor, verb, name, form, verifiers.get(name))
        _refuse_dangerous_roles(cursor)
        for membership in MEMBERSHIPS:
            _grant_membership(cursor, membership)
        return [name for name in forms if name not in before]

    return administer(admin, create)


@contextmanager
def open_administrator(url: str) -> Iterator[extensions.connection]:
    """Open a connection for `create_roles`. The end of the block closes it. Raises `ConnectFailed`."""
    try:
        admin = psycopg2.connect(url, application_name="echo-markets-roles", connect_timeout=CONNECT_SECONDS)
    except psycopg2.Error as error:
        raise translate_connect(error) from error
    with closing(admin):
        yield admin


def administer(admin: extensions.connection, work: Callable[[extensions.cursor], T]) -> T:
    """Call `work` in a transaction of an administrator, and return its result. Raises `DatabaseError`.

    In one database, only one such transaction runs at a time. `work` is called again if roles were changed
    from another database of the server at the same moment.
    """
    try:
        for _ in range(ATTEMPTS - 1):
            with suppress(*CONFLICTS):
                return _do_work(admin, work)
        return _do_work(admin, work)
    except psycopg2.Error as error:
        words = (error.diag.message_primary or " ".join(str(error).split()), error.diag.message_detail)
        reason = "; ".join(filter(None, words))
        raise DatabaseError(
            f"the roles could not be set up ({reason}), and this step was rolled back: ADMIN_URL has to name"
            " a superuser, or a role with CREATEROLE and CREATEDB that owns the database, may grant"
            " pg_monitor, and has the ADMIN OPTION on roles that another one created"
        ) from error


def _do_work(admin: extensions.connection, work: Callable[[extensions.cursor], T]) -> T:
    with admin, admin.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (ADVISORY_LOCK,))
        return work(cursor)


def _set_role(cursor: extensions.cursor, verb: str, name: str, form: RoleForm, verifier: str | None) -> None:
    options = f"{'LOGIN' if form.can_login else 'NOLOGIN'} {'INHERIT' if form.inherits else 'NOINHERIT'}"
    if form.replicates:
        options += " REPLICATION"
    statement = sql.SQL(verb + " ROLE {} " + options + " PASSWORD {}")
    cursor.execute(statement.format(sql.Identifier(name), sql.Literal(verifier)))


def _refuse_dangerous_roles(cursor: extensions.cursor) -> None:
    """Raise `DatabaseError` if a role that existed before has a dangerous attribute such as SUPERUSER."""
    cursor.execute(_FIND_DANGEROUS_ROLES, (list(ROLES),))
    found = [name for (name,) in cursor.fetchall()]
    if found:
        raise DatabaseError(
            f"{', '.join(found)} may do more than the application needs: remove SUPERUSER, CREATEROLE,"
            " CREATEDB, REPLICATION and BYPASSRLS with ALTER ROLE, then try again; nothing was changed"
        )


def _grant_membership(cursor: extensions.cursor, membership: Membership) -> None:
    """Grant a membership if it is missing.

    An existing membership is not granted again. So an administrator who may not grant pg_monitor can still
    set passwords.
    """
    has_options = cursor.connection.server_version >= FIRST_WITH_OPTIONS
    cursor.execute(_HAS_MEMBERSHIP.format(options=_OPTIONS if has_options else ""), membership._asdict())
    if cursor.fetchone() == (True,):
        return
    statement = sql.SQL("GRANT {} TO {}").format(*map(sql.Identifier, (membership.role, membership.member)))
    if has_options:
        statement += sql.SQL(f" WITH INHERIT {str(membership.inherits).upper()}, SET TRUE")
    cursor.execute(statement)


def may_become(cursor: extensions.cursor, role: str) -> bool:
    """Return whether the role of the connection may act as `role`, and make `role` the owner of objects."""
    kind = "SET" if cursor.connection.server_version >= FIRST_WITH_OPTIONS else "MEMBER"
    cursor.execute("SELECT pg_has_role(%s, %s)", (role, kind))
    return cursor.fetchone() == (True,)
