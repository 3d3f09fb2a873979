"""Fixtures that start a server for one test, once with valkey-server and once with redis-server."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from core.stack.redis_access import COMMANDS
from tests.matrix.caches.servers import PROGRAMS, RedisServer, require_program, run_server

MakeServer = Callable[..., RedisServer]


@pytest.fixture(params=PROGRAMS)
def program(request: pytest.FixtureRequest) -> str:
    """Return the path of valkey-server or redis-server; skip the test if the program is not installed."""
    return require_program(request.param)


@pytest.fixture
def make_server(program: str, server_directory: Callable[[], Path]) -> Iterator[MakeServer]:
    """Yield a function that starts a server with the given command-line options."""
    with ExitStack() as stack:

        def make(*options: str, password: str = "", user: str = "") -> RedisServer:
            server = run_server(program, server_directory(), *options, password=password, user=user)
            return stack.enter_context(server)

        yield make


@pytest.fixture
def server(make_server: MakeServer) -> RedisServer:
    """Return a server without further options."""
    return make_server()


def set_user(server: RedisServer, *rules: str, keys: str = "~*") -> str:
    """Give the user `echo` the documented permissions, then apply `rules`; return NAME:PASSWORD for a URL."""
    server.run("ACL", "SETUSER", "echo", "reset", "on", ">of echo", *keys.split(), *COMMANDS.split(), *rules)
    return "echo:of%20echo"
