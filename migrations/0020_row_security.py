"""Let the database decide which rows a player reads and writes.

This migration switches row security on for the tables with rows of players, also for the owner of these
tables. It adds a policy that allows every role to use all rows; privileges decide what a role may do with a
table. The role of players does not exist in every database. Therefore the policies that limit this role to a
player's own rows are in `core.database.row_security`, and are created together with the privileges of the
role.

A leaderboard shows the usernames of other players. Players read them from the view `usernames`, which has no
other column of `users` except the id. The view reads `users` under the policies of its owner, so it shows all
users to every player.
"""

from typing import Any

TABLES = ("users", "portfolios", "positions", "trades", "quests")
PLAYER = "echo_markets_player"
# Ranks and usernames are public, so the function that reads them runs with the rights of its owner. Its
# search path is fixed already.
RANK = "leaderboard_rank(uuid, date, varchar)"
# Revokes the privileges of the role of players: without its policies, the role would see the rows of all
# players.
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
    """Revoke the privileges of players on the tables, and switch row security off."""
    db.execute_sql(TAKE_AWAY.format(role=PLAYER, tables=", ".join(TABLES)))
    db.execute_sql(f"ALTER FUNCTION {RANK} SECURITY INVOKER")
    db.execute_sql("DROP VIEW usernames")
    for table in TABLES:
        db.execute_sql(f"DROP POLICY IF EXISTS own_rows ON {table}")
        db.execute_sql(f"DROP POLICY everyone ON {table}")
        db.execute_sql(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY")
