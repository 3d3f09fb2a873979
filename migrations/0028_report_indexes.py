"""Order the indexes of trades and of the last activity as the reports read them.

Trades are indexed by session and then by player. This index replaces two indexes. It finds the trades of a
portfolio. It also contains the session and player of every trade in sorted order, so a report counts the
players who traded without reading the table. A new trade is inserted next to the trades of its session.

The index of the last activity also has the id of the player, so the list of silent players is read in the
order of the index. The list includes players whose last activity is not known.
"""

from typing import Any


def up(_migrator: Any, db: Any) -> None:
    """Replace the indexes of trades by player and by session, and the index of the last activity."""
    db.execute_sql("DROP INDEX trades_portfolio, trades_session")
    db.execute_sql("CREATE INDEX trades_portfolio ON trades (session_date, user_id, executed_at, id)")
    db.execute_sql("DROP INDEX users_last_active")
    db.execute_sql("CREATE INDEX users_last_active ON users (last_active DESC NULLS LAST, id)")


def down(_migrator: Any, db: Any) -> None:
    """Restore the indexes."""
    db.execute_sql("DROP INDEX users_last_active")
    db.execute_sql("CREATE INDEX users_last_active ON users (last_active DESC NULLS LAST)")
    db.execute_sql("DROP INDEX trades_portfolio")
    db.execute_sql("CREATE INDEX trades_portfolio ON trades (user_id, session_date, executed_at, id)")
    db.execute_sql(
        "CREATE INDEX trades_session ON trades USING brin (session_date) WITH (autosummarize = on)"
    )
