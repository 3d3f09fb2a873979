"""The names of the stack's programs, the order in which they start, and the signals that stop them.

They stop in reverse order. For containers, `depends_on` in `compose.yaml` defines the order.
"""

import signal
from collections.abc import Mapping
from types import MappingProxyType

SERVERS = ("postgres", "valkey")
REPLICA = "replica"
APPLICATIONS = ("exporter", "dashboard", "simulator")
START_ORDER = (*SERVERS, REPLICA, *APPLICATIONS)

PORT_SETTINGS = MappingProxyType(
    {name: f"{name.upper()}_PORT" for name in (*SERVERS, REPLICA, "exporter", "dashboard")}
)

# SIGINT is PostgreSQL's fast shutdown: it does not wait for clients to disconnect
STOP_SIGNALS = MappingProxyType(
    dict.fromkeys(START_ORDER, signal.SIGTERM) | {"postgres": signal.SIGINT, REPLICA: signal.SIGINT}
)
# enough for PostgreSQL to write a checkpoint, and for the other programs to finish their work
STOP_SECONDS = 30


def list_programs(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of the recorded stack's programs, in the order in which they start."""
    return tuple(name for name in START_ORDER if name != REPLICA or PORT_SETTINGS[REPLICA] in environment)
