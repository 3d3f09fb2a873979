"""Folders for metrics that cannot be used: the process goes on, and says so once."""

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
def mounted(folder: Path, options: str) -> Iterator[None]:
    """Mount a file system in memory there."""
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
    """Assert that a process goes on counting, shows what it counts, and says so once."""
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
    """One line is logged, and the metrics stay in the process; this holds for root too."""
    with mounted(tmp_path, "size=64k,ro"):
        assert_works_in_memory(tmp_path, caplog)
        assert "EROFS" in caplog.text


@pytest.mark.parametrize("size", ["4k", "64k", "256k", "600k"])
def test_a_full_folder(tmp_path: Path, size: str, caplog: pytest.LogCaptureFixture) -> None:
    """A folder that is full at first or later causes no SIGBUS and no error, and one line in the log."""
    with mounted(tmp_path, f"size={size}"):
        assert_works_in_memory(tmp_path, caplog)
        assert "ENOSPC" in caplog.text


def test_a_file_instead_of_a_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A folder that cannot be created is not tried a second time."""
    (tmp_path / "file").touch()
    assert_works_in_memory(tmp_path / "file" / "metrics", caplog)


def test_a_file_size_limit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A limit of the process for file sizes has the effect of a full disk."""
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
    """Without folding, each scrape reads their counters again and none of their gauges."""
    with mounted(tmp_path, "size=4m"):
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


def test_breaking_off_loses_no_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the folder fails later, its files keep their counts, and the memory adds the rest once."""
    metrics = open_metrics("exporter", tmp_path)
    count_timeouts(metrics, 3)
    assert value_of(metrics, tmp_path) == 3

    def fail(*_: object) -> None:
        raise OSError(28, "full")

    monkeypatch.setattr(writer, "_reserve", fail)
    metrics.observe_operation("seed", 0.02)
    count_timeouts(metrics, 2)
    for _ in range(2):
        assert value_of(metrics, tmp_path) == 5
    metrics.close()


def value_of(metrics: Metrics, folder: Path) -> float:
    """Return the exporter's own count of timeouts as it shows it."""
    families = {metric.name: metric for metric in metrics.collect()}
    return next(
        found.value
        for found in families["echo_db_pool_timeouts"].samples
        if found.labels == {"role": "exporter"}
    )
