"""TCP ports of this machine: which are free, and how to get one that is.

Owns the check and its message; never reserves anything, so a port can still be
taken between the check and its use.
"""

import socket
from collections.abc import Mapping

from core.stack.errors import StackError

LOOPBACK = "127.0.0.1"


def find_free_port() -> int:
    """Return a port of the loopback interface that nothing listens on just now."""
    with socket.create_server((LOOPBACK, 0)) as server:
        port: int = server.getsockname()[1]
        return port


def is_port_free(port: int, *, host: str = LOOPBACK) -> bool:
    """Say whether a server could listen on `port` now."""
    try:
        # create_server sets SO_REUSEADDR, so connections in TIME_WAIT do not count as a server
        with socket.create_server((host, port)):
            return True
    except OSError:
        return False


def check_ports(ports: Mapping[str, int], *, hosts: Mapping[str, str]) -> None:
    """Raise `StackError` unless a server can listen on each port, which is given by its setting's name.

    `hosts` has the address of those that do not listen on the loopback interface.
    """
    taken = [name for name, port in ports.items() if not is_port_free(port, host=hosts.get(name, LOOPBACK))]
    if taken:
        lines = (f"port {ports[name]} is taken; set {name} to a free one" for name in taken)
        raise StackError("\n".join(lines))
