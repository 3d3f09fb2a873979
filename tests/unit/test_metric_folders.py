"""Metrics folders that cannot be used: the process keeps its metrics in memory and logs one line."""

import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core.metrics import Metrics, Role, open_metrics, writer
from core.metrics.fleet import FleetReader
from core.metrics.writer import MetricWriter
from tests.fleet_reading import TIMEOUTS, count_timeouts, sample


@contextmanager
def mount_tmpfs(folder: Path, options: str) -> Iterator[None]:
    """Mount a tmpfs on a folder, and unmount the tmpfs afterwards."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def assert_works_in_memory(
    folder: Path, caplog: pytest.LogCaptureFixture, *, role: Role = "job", count: int = 3
) -> None:
    """Assert that a process counts in memory, collects its counts, and logs one line."""
    metrics = open_metrics(role, folder)
    count_timeouts(metrics, count)
    for number in range(200):
        metrics.observe_operation(f"operation_{number}", 0.02)
    families = {metric.name: metric for metric in metrics.collect()}
    assert [found.value for found in families["echo_db_pool_timeouts"].samples] == [count]
    assert len(families["echo_db_operation_duration_seconds"].samples) == 200 * 18
    assert caplog.text.count("metrics stay in this process") == 1
    metrics.close()


def test_a_read_only_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If the folder is read-only, also for root, the metrics stay in memory and one line is logged."""
    with mount_tmpfs(tmp_path, "size=64k,ro"):
        assert_works_in_memory(tmp_path, caplog)
        assert "EROFS" in caplog.text


@pytest.mark.parametrize("size", ["4k", "64k", "256k", "600k"])
def test_a_full_folder(tmp_path: Path, size: str, caplog: pytest.LogCaptureFixture) -> None:
    """If the folder is full or becomes full, there is no SIGBUS, and the metrics stay in memory."""
    with mount_tmpfs(tmp_path, f"size={size}"):
        assert_works_in_memory(tmp_path, caplog)
        assert "ENOSPC" in caplog.text


def test_a_file_instead_of_a_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If the folder cannot be created, the metrics stay in memory."""
    (tmp_path / "file").touch()
    assert_works_in_memory(tmp_path / "file" / "metrics", caplog)


def test_a_file_size_limit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If a file would exceed the process's size limit, the metrics stay in memory, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (writer.FIRST_SIZE_BYTES, hard))
    try:
        assert_works_in_memory(tmp_path, caplog)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "EFBIG" in caplog.text


def test_ended_writers_of_a_read_only_folder_still_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without folding, each scrape reads the counters of ended writers from their files, but no gauges."""
    with mount_tmpfs(tmp_path, "size=4m"):
        for _ in range(2):
            metrics = open_metrics("job", tmp_path)
            count_timeouts(metrics, 2)
            metrics.close()
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path)], check=True)
        reader = FleetReader(MetricWriter(), tmp_path)
        for _ in range(2):
            assert sample(reader, TIMEOUTS, role="job") == 4
            assert sample(reader, "echo_metrics_writers", role="job") is None
        assert caplog.text.count("files of ended processes stay") == 1
        subprocess.run(["mount", "-o", "remount,rw", str(tmp_path)], check=True)
        assert sample(reader, TIMEOUTS, role="job") == 4
        assert reader.files_read == 0


def test_a_folder_that_fails_later_loses_no_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the folder fails after a first count, the total adds the counts in its file and those in memory."""
    metrics = open_metrics("exporter", tmp_path)
    count_timeouts(metrics, 3)
    assert read_timeouts(metrics, tmp_path) == 3

    def fail(*_: object) -> None:
        raise OSError(28, "full")

    monkeypatch.setattr(writer, "_reserve", fail)
    metrics.observe_operation("seed", 0.02)
    count_timeouts(metrics, 2)
    for _ in range(2):
        assert read_timeouts(metrics, tmp_path) == 5
    metrics.close()


def read_timeouts(metrics: Metrics, folder: Path) -> float:
    """Return the exporter's own count of timeouts."""
    families = {metric.name: metric for metric in metrics.collect()}
    return next(
        found.value
        for found in families["echo_db_pool_timeouts"].samples
        if found.labels == {"role": "exporter"}
    )
