"""Tests of the health document: the exporter includes the pools of all processes of its host."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from core import EnhancedDatabaseService, Settings, open_service
from core.metrics import Role
from core.records import Health
from exporter.server import build_app
from tests.exporter_server import LOCAL_URL
from tests.integration.test_exporter import value


@contextmanager
def another_process(settings: Settings, role: Role) -> Iterator[EnhancedDatabaseService]:
    """Yield the service of another process of the host, with a pool of two connections."""
    with open_service(settings.model_copy(update={"database_connection_limit": 2}), role=role) as service:
        yield service


@pytest.mark.parametrize("role", ["dashboard", "simulator", "job"])
def test_the_exporter_sees_the_exhausted_pool_of_any_process(
    settings: Settings, tmp_path: Path, role: Role
) -> None:
    """While another process has an exhausted pool, the exporter reports degraded, although its own is idle.

    When the process has ended, its pool does not count.
    """
    shared = settings.model_copy(update={"metrics_dir": tmp_path / "metrics"})
    with (
        open_service(shared, role="exporter") as service,
        TestClient(build_app(service), base_url=LOCAL_URL) as client,
    ):
        with another_process(shared, role) as busy, another_process(shared, role) as idle:
            with busy._database.session("report"), ThreadPoolExecutor(1) as thread:
                assert check_health(service).pool.is_exhausted is False
                held = threading.Event()
                second = thread.submit(hold_connection, busy, held)
                wait_for_pool(busy, in_use=2)
                document = fetch_document(service, client)
                pool = document["services"]["database"]["connectionPool"]
                assert (document["status"], pool["status"]) == ("degraded", "exhausted")
                # the limits are 10 for the exporter and 2 for each process; the busy process uses both
                assert (pool["maxConnections"], pool["inUse"]) == (14, 2)
                assert value(client.get("/metrics").text, "echo_health_status", status="degraded") == 1
                assert busy.health().status == "degraded"
                assert idle.health().status == "healthy"
                held.set()
                second.result()
            busy.metrics.publish()
            assert fetch_document(service, client)["status"] == "healthy"
        assert check_health(service).pool.pool_max == 10


def hold_connection(service: EnhancedDatabaseService, released: threading.Event) -> None:
    """Hold a connection of the pool until the event is set."""
    with service._database.session("report"):
        assert released.wait(20)


def wait_for_pool(service: EnhancedDatabaseService, *, in_use: int) -> None:
    """Wait until the pool has `in_use` connections in use, and publish its metrics.

    A process publishes only once a second.
    """
    deadline = time.monotonic() + 10
    while service.pool_stats().pool_in_use < in_use:
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)
    service.metrics.publish()


def check_health(service: EnhancedDatabaseService) -> Health:
    """Return the health without the result that is kept for two seconds."""
    service._health._last = None
    return service.health()


def fetch_document(service: EnhancedDatabaseService, client: TestClient) -> dict[str, Any]:
    """Return the exporter's health document after a new health check."""
    check_health(service)
    document: dict[str, Any] = client.get("/api/health/database").json()
    return document
