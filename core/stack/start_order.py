"""In which order the programs of the stack start, and how each is stopped, in the reverse order.

Owns their names. The order of containers is in `compose.yaml`, in what each service depends on.
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
STOP_SECONDS = 30  # PostgreSQL writes a checkpoint, the others finish their current work


def list_programs(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of the programs of the recorded stack, in the order of starting."""
    return tuple(name for name in START_ORDER if name != REPLICA or PORT_SETTINGS[REPLICA] in environment)
