"""Let the database decide which rows a player reads and writes.

Row security is on for the tables of what players own, for their owner too, and lets everyone pass: what a
role may do with a whole table is a matter of its privileges. The role of players does not exist in every
database, so the policies that hold it back to its own rows stand in `core.database.row_security`, and are
created with its privileges.

A leaderboard shows the usernames of others. They have a view of their own, whose rows the policies of its
owner decide, so that a player sees no other column of another user.
"""

from typing import Any

TABLES = ("users", "portfolios", "positions", "trades", "quests")
PLAYER = "echo_markets_player"
# Ranks are public, usernames included: the function reads as its owner, and its schema is pinned.
RANK = "leaderboard_rank(uuid, date, varchar)"
# Without policies the role would see the rows of everyone.
TAKE_AWAY = """
    DO $$ BEGIN
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN
            REVOKE ALL ON {tables} FROM {role};
        END IF;
    END $$"""


def up(_migrator: Any, db: Any) -> None:
    """Switch row security on, and create the view of usernames."""
    for table in TABLES:
        db.execute_sql(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
        db.execute_sql(f"CREATE POLICY everyone ON {table} USING (true)")
    db.execute_sql("CREATE VIEW usernames AS SELECT id, username FROM users")
    db.execute_sql(f"ALTER FUNCTION {RANK} SECURITY DEFINER")


def down(_migrator: Any, db: Any) -> None:
    """Take the tables from players, and switch row security off."""
    db.execute_sql(TAKE_AWAY.format(role=PLAYER, tables=", ".join(TABLES)))
    db.execute_sql(f"ALTER FUNCTION {RANK} SECURITY INVOKER")
    db.execute_sql("DROP VIEW usernames")
    for table in TABLES:
        db.execute_sql(f"DROP POLICY IF EXISTS own_rows ON {table}")
        db.execute_sql(f"DROP POLICY everyone ON {table}")
        db.execute_sql(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY")
