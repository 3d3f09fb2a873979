"""Row security: the policies with which the player role sees and changes only the rows of one player.

Owns these policies and the check that they exist. The migrations turn row security on, and add policies that
allow every role everything. They do not create the policies of the player role: a policy names its role, and
a database may lack the roles of `core.database.roles`. In such a database no call can act for a player.
"""

from collections.abc import Callable
from typing import Any

from core.database.citus import is_distributed
from core.database.roles import PLAYER

# Table -> the column that names the owner of a row.
OWN_ROWS = {
    "users": "id",
    "portfolios": "user_id",
    "positions": "user_id",
    "trades": "user_id",
    "quests": "user_id",
}
# `nullif`, because the parameter is an empty string if an earlier transaction of the session has set it.
_ACTING_PLAYER = "nullif(current_setting('app.user_id', true), '')::uuid"
# RESTRICTIVE: the policy narrows the policy of the migrations, which allows every role everything.
_POLICY = f"""
    CREATE POLICY own_rows ON {{table}} AS RESTRICTIVE TO {PLAYER} USING ({{column}} = {_ACTING_PLAYER})"""
_PROTECTED = """
    SELECT relname::text FROM pg_class JOIN pg_policy ON polrelid = pg_class.oid
    WHERE relnamespace = current_schema()::regnamespace AND relrowsecurity AND relforcerowsecurity
      AND polname = 'own_rows' AND NOT polpermissive
      AND polroles @> ARRAY(SELECT oid FROM pg_roles WHERE rolname = %s)"""
_MAY_ACT = "SELECT bool_or(pg_has_role(oid, 'MEMBER')) FROM pg_roles WHERE rolname = %s"


def create_policies(execute_sql: Callable[..., Any]) -> None:
    """Create the missing policies. `execute_sql` runs statements as the owner of the tables.

    Existing policies are not replaced: that would lock their tables against every reader.
    """
    protected = _list_protected(execute_sql)
    for table, column in OWN_ROWS.items():
        if table not in protected:
            execute_sql(_POLICY.format(table=table, column=column))


def find_obstacle(execute_sql: Callable[..., Any]) -> str | None:
    """Return why the role of this connection cannot act for a player, or None if it can."""
    if is_distributed(execute_sql):
        return "its tables are distributed over a Citus cluster, whose workers know no player"
    [(may_act,)] = execute_sql(_MAY_ACT, (PLAYER,)).fetchall()
    if may_act is None:
        return f"the server has no role {PLAYER}"
    if not may_act:
        return f"the role of DATABASE_URL is no member of {PLAYER}"
    unprotected = sorted(OWN_ROWS.keys() - _list_protected(execute_sql))
    return f"no policy protects the rows of {', '.join(unprotected)}" if unprotected else None


def _list_protected(execute_sql: Callable[..., Any]) -> set[str]:
    return {table for (table,) in execute_sql(_PROTECTED, (PLAYER,)).fetchall()}
