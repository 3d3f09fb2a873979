"""Creates databases on a Citus cluster for the duration of a `with` block.

Owns the creation of a database on every node. CITUS_URL names the coordinator of the cluster. Every node
needs citus.enable_unsafe_triggers = on.
"""

import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from core import Settings
from core.testing import ENCRYPTION_KEYS
from tests.conftest import connected

NODES = "SELECT nodename, nodeport FROM pg_dist_node WHERE groupid > 0 ORDER BY nodeid"
# Number of shards of each table. The default of 32 takes longer to create and finds no more errors.
SHARDS = 4


def require_citus() -> str:
    """Return CITUS_URL; skip the test if it is not set."""
    url = os.environ.get("CITUS_URL")
    if not url:
        pytest.skip("CITUS_URL names no coordinator of a Citus cluster")
    return url


@contextmanager
def created_citus_database(url: str, *, workers: int | None = None) -> Iterator[Settings]:
    """Create an empty database on the coordinator and on `workers` workers (None: all); yield settings."""
    coordinator = urlsplit(url)
    with connected(url) as execute:
        nodes = [(host, int(port)) for host, port in execute(NODES)][:workers]
    name = f"citus_{uuid.uuid4().hex}"
    own = (coordinator.hostname or "", coordinator.port or 5432)
    with ExitStack() as stack:
        for node in (own, *nodes):
            execute = stack.enter_context(connected(find_url(url, node, database=coordinator.path[1:])))
            execute(f"CREATE DATABASE {name} ENCODING 'UTF8' LOCALE 'C.UTF-8' TEMPLATE template0")
            stack.callback(execute, f"DROP DATABASE {name} WITH (FORCE)")
            with connected(find_url(url, node, database=name)) as run:
                run("CREATE EXTENSION citus")
        with connected(find_url(url, database=name)) as execute:
            execute(f"ALTER DATABASE {name} SET citus.shard_count = {SHARDS}")
            execute("SELECT citus_set_coordinator_host(%s, %s)", own)
            for node in nodes:
                execute("SELECT citus_add_node(%s, %s)", node)
        yield Settings(
            database_url=SecretStr(find_url(url, database=name)),
            database_topology="citus",
            encryption_keys=SecretStr(ENCRYPTION_KEYS),
            enable_redis_cache=False,
            database_pool_timeout=20_000,
        )


def find_url(url: str, node: tuple[str, int] | None = None, *, database: str) -> str:
    """Return the URL of a database on a node, given as (host, port); None: the node of `url`."""
    parts = urlsplit(url)
    account = parts.netloc.rpartition("@")[0]
    netloc = parts.netloc if node is None else f"{account}@{node[0]}:{node[1]}"
    return parts._replace(netloc=netloc, path=f"/{database}").geturl()
