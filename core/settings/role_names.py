"""The names of the database roles, which `core.database.roles` creates."""

from typing import Final

OWNER: Final = "echo_markets_owner"
"""Owns the schema and every table; migrations use it (DIRECT_URL)."""
APP: Final = "echo_markets_app"
"""Reads and writes rows; the dashboard and other programs use it (DATABASE_URL)."""
PLAYER: Final = "echo_markets_player"
"""May use only the rows of one player. It cannot sign in; the application switches to it."""
MONITOR: Final = "echo_markets_monitor"
"""Reads statistics, but no row of a player; the exporter uses it."""
REPLICATION: Final = "echo_markets_replication"
"""Streams the write-ahead log to a replica, and reads no table; optional (REPLICATION_PASSWORD)."""
SEALER: Final = "echo_markets_sealer"
"""Owns the function that seals the audit log. It cannot sign in; only the role `OWNER` may switch to it."""
