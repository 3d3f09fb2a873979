"""Processes that write metrics, with which the cost of a scrape is measured.

Each process writes the metrics of a busy process of the stack: every operation, cache and histogram bucket.
Run as a program, this module fills a folder, prints `filled`, and runs until its standard input ends.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import PIPE, Popen

from core.cache.kinds import KINDS
from core.metrics import Metrics, open_metrics
from core.metrics.names import SECONDS_BUCKETS, Role, Tier
from core.service import EnhancedDatabaseService

ROLES: Sequence[Role] = ("dashboard", "simulator", "job", "exporter")
TIERS: Sequence[Tier] = ("near", "shared")


OPERATIONS = {
    "dashboard": ("get_", "list_", "search_"),
    "simulator": ("insert_", "update_", "batch_", "close_session", "expire_", "list_"),
    "job": ("create_", "insert_", "batch_", "maintain_"),
    "exporter": (),
}
"""Role -> prefixes of its operations; an operation has the name of a method of the service."""


def list_operations(role: Role) -> list[str]:
    """Return the names of the operations that a process with this role calls."""
    return [name for name in dir(EnhancedDatabaseService) if name.startswith(OPERATIONS[role])]


def fill(metrics: Metrics) -> None:
    """Write every series that a busy process has."""
    for operation in list_operations(metrics.role):
        for seconds in SECONDS_BUCKETS:
            metrics.observe_operation(operation, seconds)
    metrics.count_operation_error("create_user", "23")
    for kind in KINDS:
        for tier in TIERS:
            metrics.count_cache_reads(kind.name, tier, hits=3, misses=1)
        metrics.count_cache_bypasses(kind.name, "down", 2)
        metrics.observe_cache_load(kind.name, 0.01)
    metrics.pool_idle.set(10)
    metrics.pool_max.set(10)
    metrics.publish()


@contextmanager
def run_writers(folder: Path, count: int) -> Iterator[list["Popen[str]"]]:
    """Yield `count` running processes that have written their metrics to `folder`."""
    with ExitStack() as stack:
        writers = [
            stack.enter_context(
                Popen(
                    [sys.executable, "-m", "tests.bench.fleet", str(folder), ROLES[number % len(ROLES)]],
                    stdin=PIPE,
                    stdout=PIPE,
                    text=True,
                )
            )
            for number in range(count)
        ]
        try:
            for writer in writers:
                if writer.stdout is None or writer.stdout.readline() != "filled\n":
                    raise RuntimeError("a writer ended before it had filled its files")
            yield writers
        finally:
            for writer in writers:
                writer.kill()


def main() -> None:
    """Write metrics to the folder of argument 1 with the role of argument 2; run until stdin ends."""
    role = next(role for role in ROLES if role == sys.argv[2])
    metrics = open_metrics(role, Path(sys.argv[1]))
    fill(metrics)
    sys.stdout.write("filled\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
