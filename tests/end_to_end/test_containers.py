"""`make up MODE=docker`: the same stack in containers, where an engine and its images are at hand."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.stack.compose import find_engine_problem
from core.stack.ports import find_free_port, is_port_free
from core.stack.processes import wait_until
from tests.end_to_end.checkout import PLAYERS, SESSIONS, Checkout, copy_checkout

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(900)]

IMAGES = ("postgres:17", "redis:8", "python:3.13-slim", "prom/prometheus")
SCRAPE_SECONDS = 60


def docker(*arguments: str) -> str:
    """Run a docker command and return what it prints."""
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False).stdout.strip()


@pytest.fixture
def checkout() -> Iterator[Checkout]:
    """A copy of the checkout with a project name of its own; containers, volumes and image go afterwards."""
    if fault := find_engine_problem():
        pytest.skip(f"no container engine: {fault}")
    if missing := [image for image in IMAGES if not docker("image", "ls", "--quiet", image)]:
        pytest.skip(f"not on this machine: {', '.join(missing)}; `docker pull` brings them")
    project = f"echo-markets-test-{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="echo-markets-") as folder:
        checkout = copy_checkout(Path(folder) / "checkout")
        checkout.ports["PROMETHEUS_PORT"] = find_free_port()
        checkout.environment |= {
            "MODE": "docker",
            "COMPOSE_PROJECT_NAME": project,
            "PROMETHEUS_PORT": str(checkout.ports["PROMETHEUS_PORT"]),
        }
        yield checkout
        checkout.make("clean")
        docker("image", "rm", f"{project}-app")


def test_stack_lives_and_ends_in_containers(checkout: Checkout) -> None:
    """Up, seen by Prometheus, up again, down with its data kept, and clean without a trace."""
    project = f"label=com.docker.compose.project={checkout.environment['COMPOSE_PROJECT_NAME']}"
    checkout.up()
    assert checkout.health()["status"] == "healthy"
    assert checkout.get("dashboard", "/readyz")[0] == 200
    players = checkout.count("users")
    assert players >= PLAYERS  # others join on the days up to today
    assert checkout.count("portfolios") >= PLAYERS * SESSIONS / 4
    status = checkout.make("status")
    assert status.returncode == 0, status.stdout
    query = "/api/v1/query?query=up%7Bjob%3D%22echo-markets%22%7D%3D%3D1"
    assert wait_until(
        lambda: '"echo-markets"' in checkout.get("prometheus", query)[1], seconds=SCRAPE_SECONDS
    )
    assert "already running" in checkout.up()

    assert checkout.make("down").returncode == 0
    assert docker("ps", "--all", "--quiet", "--filter", project) == ""
    assert [name for name, port in checkout.ports.items() if not is_port_free(port)] == []
    assert docker("volume", "ls", "--quiet", "--filter", project) != ""

    checkout.up()
    assert checkout.count("users") >= players
    assert checkout.make("clean").returncode == 0
    assert docker("volume", "ls", "--quiet", "--filter", project) == ""
