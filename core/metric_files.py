"""Opens the metrics of a process, in the folder through which the exporter sees all of them.

Owns nothing but that choice; the files are in `core.metric_values`.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.metrics import Metrics, Role


def open_metrics(role: Role, directory: Path | None) -> Metrics:
    """Define this process's metrics, shared through `directory`, which is created when missing.

    A directory that cannot be used costs one warning; the metrics then stay in
    this process and the application goes on.
    """
    metrics = Metrics(role)
    if directory is not None:
        metrics.share(directory)
    return metrics


@contextmanager
def run_job(operation: str, directory: Path | None) -> Iterator[None]:
    """Report the block as one operation of a one-shot process that has no service."""
    metrics = open_metrics("job", directory)
    started = time.perf_counter()
    try:
        yield
    finally:
        metrics.observe_operation(operation, time.perf_counter() - started)
        metrics.close()
