"""`make up REPLICAS=1 WORKERS=2`: one replica of the embedded PostgreSQL and two dashboard processes."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from core.stack.processes import wait_until
from tests.end_to_end.checkout import Checkout, assert_nothing_left, copy_checkout
from tests.patience import stretch

pytestmark = pytest.mark.slow

TOPOLOGY = ("REPLICAS=1", "WORKERS=2")
ROLE = "my-api"
WAIT_SECONDS = 20.0
# Reads until a call fails; the process then ends with the error.
READER = f"""
import time
from core import open_service

with open_service(role="{ROLE}") as service:
    while True:
        service.search_users("a")
        time.sleep(0.02)
"""


@pytest.fixture
def checkout() -> Iterator[Checkout]:
    """Yield a copy of the checkout, and run `make clean` in it afterwards."""
    with tempfile.TemporaryDirectory(prefix="echo-markets-") as folder:
        checkout = copy_checkout(Path(folder) / "checkout")
        yield checkout
        assert checkout.make("clean").returncode == 0


@contextmanager
def reading(checkout: Checkout) -> Iterator[None]:
    """Run another program that reads from the database; fail if one of its calls failed."""
    with subprocess.Popen(
        [sys.executable, "-c", READER],
        cwd=checkout.root,
        env=checkout.environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield
        finally:
            ended = process.poll()
            process.kill()
        assert process.stderr is not None
        assert ended is None, process.stderr.read()


def count_reads(checkout: Checkout, server: str) -> int:
    """Return the number of the other program's reads on `primary` or `replica`, from the exporter."""
    metrics = checkout.get("exporter", "/metrics")[1]
    lines = re.findall(r"^echo_db_reads_total\{(.*)\} (\S+)$", metrics, re.MULTILINE)
    labels = (f'role="{ROLE}"', f'server="{server}"')
    return sum(int(float(value)) for text, value in lines if all(label in text for label in labels))


def wait_for_reads(checkout: Checkout, server: str, *, since: int) -> None:
    """Wait until more than `since` reads have run on a server."""
    is_done = wait_until(lambda: count_reads(checkout, server) > since, seconds=stretch(WAIT_SECONDS))
    assert is_done, f"no read ran on the {server}"


def test_a_replica_and_two_workers(checkout: Checkout) -> None:
    """Reads run on the replica, and on the primary while the replica is dead; no read fails."""
    result = checkout.make("up", *TOPOLOGY)
    assert result.returncode == 0, result.stdout
    assert len(psutil.Process(checkout.pid("dashboard")).children()) == 2
    assert checkout.get("dashboard", "/readyz")[0] == 200
    with reading(checkout):
        wait_for_reads(checkout, "replica", since=0)
        on_primary, killed = count_reads(checkout, "primary"), checkout.pid("replica")
        os.kill(killed, signal.SIGKILL)
        wait_for_reads(checkout, "primary", since=on_primary)
        result = checkout.make("up", *TOPOLOGY)
        assert result.returncode == 0, result.stdout
        assert checkout.pid("replica") != killed
        wait_for_reads(checkout, "replica", since=count_reads(checkout, "replica"))
    assert checkout.make("down").returncode == 0
    assert_nothing_left(checkout)
