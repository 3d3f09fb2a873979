"""The names of the database's roles, as they stand in URLs; `core.database.roles` creates the roles."""

from typing import Final

OWNER: Final = "echo_markets_owner"
"""Owns the schema, and with it every table: migrations (DIRECT_URL)."""
APP: Final = "echo_markets_app"
"""Reads and writes rows: every process that serves (DATABASE_URL)."""
PLAYER: Final = "echo_markets_player"
"""The application switches to it to act for one player; cannot sign in."""
MONITOR: Final = "echo_markets_monitor"
"""Reads statistics and no player's row: the exporter."""
REPLICATION: Final = "echo_markets_replication"
"""Copies the log of changes to a replica, and reads no table; created only where a replica needs it."""
SEALER: Final = "echo_markets_sealer"
"""Owns the function that seals the audit log; only the owner may become it; cannot sign in."""
