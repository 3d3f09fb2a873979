"""A simulated second host: a network namespace on this machine whose only link can be cut.

Owns the namespace and the link. While the link is cut, packets are lost in both directions: no connection is
reset and no connect is refused, as when a cable is pulled or a switch fails. Processes in the namespace share
the file system and the process ids of this machine, so tests start and signal them like any other process.
"""

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from core.stack.permissions import ServerUser

# Addresses reserved for network tests (RFC 2544), so no real network of a machine uses them.
NETWORK = "198.18"
INTERFACE = "eth0"
PROGRAMS = {"ip": "iproute2", "nsenter": "util-linux"}


class HostNotPossible(Exception):
    """Raised when this machine cannot create the network namespace; the message gives the reason."""


class Host(NamedTuple):
    """A simulated host; `address` is its end of the link, and `outside` is this machine's end."""

    name: str
    address: str
    outside: str

    def build_command(self, command: list[str], user: ServerUser | None = None) -> list[str]:
        """Return the command line that runs `command` on the host as `user`, or as root without a user."""
        ids = () if user is None else (f"--setuid={user.uid}", f"--setgid={user.gid}")
        return ["nsenter", f"--net=/run/netns/{self.name}", *ids, "--", *command]

    def cut_off(self) -> None:
        """Drop every packet to and from the host."""
        _run_ip("-netns", self.name, "link", "set", INTERFACE, "down")

    def reconnect(self) -> None:
        """Deliver packets again; connections that have not timed out continue."""
        _run_ip("-netns", self.name, "link", "set", INTERFACE, "up")


@contextmanager
def run_host() -> Iterator[Host]:
    """Create a host for the length of a `with` block, or raise `HostNotPossible`."""
    _check_machine()
    name = f"echo-{secrets.token_hex(3)}"
    network = f"{NETWORK}.{secrets.randbelow(256)}"
    first = 4 * secrets.randbelow(64)
    host = Host(name, f"{network}.{first + 2}", f"{network}.{first + 1}")
    _run_ip("netns", "add", name)
    try:
        _run_ip("link", "add", name, "type", "veth", "peer", "name", INTERFACE, "netns", name)
        _run_ip("address", "add", f"{host.outside}/30", "dev", name)
        _run_ip("link", "set", name, "up")
        _run_ip("-netns", name, "address", "add", f"{host.address}/30", "dev", INTERFACE)
        _run_ip("-netns", name, "link", "set", "lo", "up")
        _run_ip("-netns", name, "link", "set", INTERFACE, "up")
        # a permanent ARP entry: without it, a connect to a host that is cut off would fail at once
        _run_ip("neighbour", "replace", host.address, "lladdr", _read_hardware_address(name), "dev", name)
        yield host
    finally:
        # this also deletes the link
        _run_ip("netns", "delete", name)


def _check_machine() -> None:
    if os.geteuid() != 0:
        raise HostNotPossible("only root can create a network namespace")
    for program, package in PROGRAMS.items():
        if shutil.which(program) is None:
            raise HostNotPossible(f"{program} is not installed (Debian package {package})")


def _read_hardware_address(name: str) -> str:
    # the output contains: link/ether 5a:... brd ...
    words = _run_ip("-netns", name, "link", "show", INTERFACE).split()
    return words[words.index("link/ether") + 1]


def _run_ip(*arguments: str) -> str:
    result = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise HostNotPossible(f"ip {' '.join(arguments)}: {result.stderr.strip()}")
    return result.stdout
