"""The names of the database's roles, as they stand in URLs; `core.database.roles` creates the roles."""

from typing import Final

OWNER: Final = "echo_markets_owner"
"""Owns the schema and every table; migrations use it (DIRECT_URL)."""
APP: Final = "echo_markets_app"
"""Reads and writes rows; every serving process uses it (DATABASE_URL)."""
PLAYER: Final = "echo_markets_player"
"""The application switches to this role to act for one player; cannot sign in."""
MONITOR: Final = "echo_markets_monitor"
"""Reads statistics and no player's row; the exporter uses it."""
REPLICATION: Final = "echo_markets_replication"
"""Streams the write-ahead log to a replica, and reads no table; created only where a replica needs it."""
SEALER: Final = "echo_markets_sealer"
"""Owns the function that seals the audit log; only the owner may switch to this role; cannot sign in."""
