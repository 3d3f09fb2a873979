"""Free ports are found, and the error about a taken port names its setting."""

import socket

import pytest

from core.errors import StackError
from core.settings import build_listener_url
from core.settings.texts import LOOPBACK
from core.stack.ports import (
    check_ports,
    find_free_port,
    http_answers,
    is_port_free,
)


def test_found_port_is_free() -> None:
    """`find_free_port` returns a port on which a server can listen."""
    assert is_port_free(find_free_port())


def test_taken_ports_are_named_with_their_settings() -> None:
    """One error names every taken port and its setting."""
    with socket.create_server((LOOPBACK, 0)) as first, socket.create_server(("0.0.0.0", 0)) as second:
        ports = {"DASHBOARD_PORT": first.getsockname()[1], "POSTGRES_PORT": second.getsockname()[1]}
        with pytest.raises(StackError) as caught:
            check_ports({**ports, "EXPORTER_PORT": find_free_port()}, hosts={})
    assert str(caught.value).splitlines() == [
        f"port {port} is taken; set {name} to a free one" for name, port in ports.items()
    ]


def test_a_port_is_checked_on_its_address() -> None:
    """A port that is taken on 127.0.0.1 is free for a server that listens on 127.0.0.2."""
    with socket.create_server((LOOPBACK, 0)) as server:
        port = server.getsockname()[1]
        check_ports({"DASHBOARD_PORT": port}, hosts={"DASHBOARD_PORT": "127.0.0.2"})


@pytest.mark.parametrize(
    ("listen", "connect"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("192.0.2.1", "192.0.2.1")]
)
def test_server_on_every_address_is_reached_through_loopback(listen: str, connect: str) -> None:
    """A client reaches a server that listens on `0.0.0.0` or `::` through the loopback address."""
    assert build_listener_url(listen, 9100) == f"http://{connect}:9100"


def test_http_answers_is_false_on_a_free_port() -> None:
    """`http_answers` returns False when the connection is refused, and raises no error."""
    assert not http_answers(f"http://{LOOPBACK}:{find_free_port()}/readyz")
