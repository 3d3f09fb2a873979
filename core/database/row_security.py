"""Which rows the role of players may read and write: its own, by policies of the database.

Owns the policies of that role and the check that they are there. Row security itself, which lets every other
role pass, is part of the schema. A policy names its role, and a database need not have the roles of
`core.database.roles`: there nobody can act for a player.
"""

from collections.abc import Callable
from typing import Any

from core.database.roles import PLAYER

# Table -> the column with the id of the player whom a row belongs to.
OWN_ROWS = {
    "users": "id",
    "portfolios": "user_id",
    "positions": "user_id",
    "trades": "user_id",
    "quests": "user_id",
}
# An empty text is left by an earlier transaction of the session that had a player.
_ACTING_PLAYER = "nullif(current_setting('app.user_id', true), '')::uuid"
# Restrictive: added to the policy that lets everyone pass.
_POLICY = f"""
    CREATE POLICY own_rows ON {{table}} AS RESTRICTIVE TO {PLAYER} USING ({{column}} = {_ACTING_PLAYER})"""
_PROTECTED = """
    SELECT relname::text FROM pg_class JOIN pg_policy ON polrelid = pg_class.oid
    WHERE relnamespace = current_schema()::regnamespace AND relrowsecurity AND relforcerowsecurity
      AND polname = 'own_rows' AND NOT polpermissive
      AND polroles @> ARRAY(SELECT oid FROM pg_roles WHERE rolname = %s)"""
_MAY_ACT = "SELECT bool_or(pg_has_role(oid, 'MEMBER')) FROM pg_roles WHERE rolname = %s"


def create_policies(execute_sql: Callable[..., Any]) -> None:
    """Create the policies that are missing, as the owner of the tables; `execute_sql` returns a cursor.

    Those that are there stay: replacing one would lock its table against every reader.
    """
    protected = _list_protected(execute_sql)
    for table, column in OWN_ROWS.items():
        if table not in protected:
            execute_sql(_POLICY.format(table=table, column=column))


def find_obstacle(execute_sql: Callable[..., Any]) -> str | None:
    """Return why the role of this connection cannot act for a player, or None when it can."""
    [(may_act,)] = execute_sql(_MAY_ACT, (PLAYER,)).fetchall()
    if may_act is None:
        return f"the server has no role {PLAYER}"
    if not may_act:
        return f"the role of DATABASE_URL is no member of {PLAYER}"
    unprotected = sorted(OWN_ROWS.keys() - _list_protected(execute_sql))
    return f"no policy protects the rows of {', '.join(unprotected)}" if unprotected else None


def _list_protected(execute_sql: Callable[..., Any]) -> set[str]:
    return {table for (table,) in execute_sql(_PROTECTED, (PLAYER,)).fetchall()}
