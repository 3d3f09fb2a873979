"""The files through which the exporter sees every process of the host.

Owns who writes which file: prometheus_client's multiprocess files in one folder, named
after a writer that holds a lock while it lives. Defines no metric.
"""

import errno
import fcntl
import logging
import os
import socket
import time
from pathlib import Path

from prometheus_client import CollectorRegistry, values

from core.metrics import Metrics, Role

logger = logging.getLogger(__name__)

_STARTED_NS = time.time_ns()
# Held for the life of the process: the flock on it tells the exporter that the writer lives.
_writer_locks: dict[Path, int] = {}


def writer_id() -> str:
    """Return an id for this process's files that no other process on the host shares.

    Containers share pid 1 and prometheus_client splits file names at underscores, so
    the id is host, pid and start, without underscores.
    """
    host = socket.gethostname().replace("_", "-") or "host"
    return f"{host}-{os.getpid()}-{_STARTED_NS}"


def open_metrics(role: Role, directory: Path | None) -> Metrics:
    """Define this process's metrics, in `directory` when it can be written.

    A directory that cannot be used costs one warning; the metrics then stay in
    this process and the application goes on.
    """
    if directory is not None and directory not in _writer_locks:
        try:
            _join(directory)
        except OSError as error:
            logger.warning("metrics stay in this process: %s cannot be used: %s", directory, error)
    metrics = Metrics(role, CollectorRegistry())
    if directory in _writer_locks:
        metrics.start_publishing()
    return metrics


def _join(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    lock = os.open(directory / f"{writer_id()}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    _writer_locks[directory] = lock
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
    values.ValueClass = values.MultiProcessValue(process_identifier=writer_id)  # type: ignore[no-untyped-call]  # prometheus_client has no annotations there


def remove_dead_gauges(directory: Path) -> None:
    """Remove the live gauges of writers that ended; their counters stay.

    A writer is dead when nobody holds the lock on its file.
    """
    for lock_file in directory.glob("*.lock"):
        if _is_held(lock_file):
            continue
        writer = lock_file.stem
        for gauge in directory.glob(f"gauge_live*_{writer}.db"):
            gauge.unlink(missing_ok=True)
        lock_file.unlink(missing_ok=True)


def _is_held(lock_file: Path) -> bool:
    if lock_file.stem == writer_id():
        return True
    try:
        handle = os.open(lock_file, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in {errno.EAGAIN, errno.EACCES}
    finally:
        os.close(handle)
    return False
