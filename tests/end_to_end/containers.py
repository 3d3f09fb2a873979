"""Helpers of the container tests: docker commands, and a copy of the checkout whose stack runs in containers.

Owns the Compose project's name, its removal after the tests, and the restrictions that every container of the
stack must have.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from core.settings.texts import LOOPBACK
from core.stack.compose import find_engine_problem
from core.stack.ports import find_free_port
from core.stack.secret_distribution import APPLICATION_USER
from tests.end_to_end.checkout import Checkout, copy_checkout

IMAGES = ("postgres:17", "redis:8", "python:3.13-slim", "prom/prometheus:latest")
PROJECT = f"echo-markets-test-{os.getpid()}"
PROJECT_LABEL = f"label=com.docker.compose.project={PROJECT}"
UP_SECONDS = 600  # includes building the image


def docker(*arguments: str) -> str:
    """Run a docker command and return its output without the errors."""
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False).stdout.strip()


def inspect(service: str, number: int = 1) -> dict[str, Any]:
    """Return the `docker inspect` document of a service's container."""
    [found] = json.loads(docker("inspect", f"{PROJECT}-{service}-{number}"))
    return dict(found)


def is_healthy(service: str, number: int = 1, *, after: str = "") -> bool:
    """Return whether a container runs, is healthy and was started after the time `after`."""
    state = inspect(service, number)["State"]
    health = state.get("Health", {}).get("Status", "healthy")
    return bool(state["Status"] == "running" and health == "healthy" and state["StartedAt"] > after)


def kill_process(service: str, number: int = 1) -> str:
    """Kill a container's first process, as the kernel does when memory runs out; return its start time."""
    state = inspect(service, number)["State"]
    # from outside of the container: process 1 ignores SIGKILL from its own container
    kill = f"import os; os.kill({state['Pid']}, 9)"
    docker("run", "--rm", "--privileged", "--pid=host", "--user=0:0", f"{PROJECT}-app", "python", "-c", kill)
    return str(state["StartedAt"])


@contextmanager
def run_checkout() -> Iterator[Checkout]:
    """Yield a copy of the checkout for `MODE=docker`; at the end, remove all that its stack has created."""
    if fault := find_engine_problem():
        pytest.skip(f"no container engine: {fault}")
    if missing := [image for image in IMAGES if not docker("image", "ls", "--quiet", image)]:
        pytest.skip(f"not on this machine: {', '.join(missing)}; get them with `docker pull`")
    with tempfile.TemporaryDirectory(prefix="echo-markets-") as folder:
        checkout = copy_checkout(Path(folder) / "checkout")
        checkout.make_seconds = UP_SECONDS
        for name in ("PROMETHEUS_PORT", "REPLICA_PORT"):
            checkout.ports[name] = find_free_port()
            checkout.environment[name] = str(checkout.ports[name])
        checkout.environment |= {"MODE": "docker", "COMPOSE_PROJECT_NAME": PROJECT}
        yield checkout
        checkout.make("clean")
        for kind in ("app", "proxies"):
            docker("image", "rm", f"{PROJECT}-{kind}")


def assert_is_restricted(checkout: Checkout, service: str) -> None:
    """Assert that a container runs read-only, with limits, without root, and only on loopback.

    No password may be in its `docker inspect` document.
    """
    found = inspect(service)
    host = found["HostConfig"]
    assert found["Config"]["User"].split(":")[0] in {str(APPLICATION_USER), "999", "65534"}, service
    assert host["ReadonlyRootfs"] is True, service
    assert (host["CapDrop"], host["CapAdd"]) == (["ALL"], None), service
    assert host["SecurityOpt"] == ["no-new-privileges:true"], service
    assert host["Memory"] > 0, service
    assert host["PidsLimit"] > 0, service
    assert host["LogConfig"]["Config"]["max-size"] == "10m", service
    assert host["Privileged"] is False, service
    addresses = {item["HostIp"] for items in (host["PortBindings"] or {}).values() for item in items}
    assert addresses <= {LOOPBACK}, service
    secrets = list((checkout.root / ".local" / "secrets").glob("*.password"))
    shown = json.dumps(found)
    assert secrets
    assert [path.name for path in secrets if path.read_text(encoding="utf-8") in shown] == []
