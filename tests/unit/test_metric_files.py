"""The files by which processes share their metrics: writers, readers, and folding of ended writers."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from core.metrics import Metrics, open_metrics
from core.metrics.fleet import ABANDONED_SECONDS, ARCHIVE, FleetReader
from core.metrics.writer import STARTING_SUFFIX, MetricWriter
from tests.fleet_reading import TIMEOUTS, count_timeouts, read, sample
from tests.patience import stretch_processor

SECONDS = "echo_db_operation_duration_seconds"

WORK = """
import sys
from pathlib import Path
from core.metrics import Metrics, open_metrics
metrics = open_metrics("job", Path(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    metrics.pool_timeouts.inc()
metrics.pool_used.set(3)
metrics.observe_operation("seed", 0.02)
metrics.count_task_success("simulator")
print("done", flush=True)
sys.stdin.read()
"""


@contextmanager
def run_writer(folder: Path, count: int, *command: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a process that has counted `count` timeouts; the process runs until the block ends."""
    arguments = [*command, sys.executable, "-c", WORK, str(folder), str(count)]
    pipe = subprocess.PIPE
    with subprocess.Popen(arguments, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "done\n"
            yield process
        finally:
            process.kill()


def can_unshare() -> bool:
    """Return whether this system allows a process to create its own PID namespace."""
    command = ["unshare", "--pid", "--fork", "--mount-proc", "true"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def test_writers_with_the_same_pid_lose_nothing(tmp_path: Path) -> None:
    """Two writers with pid 1, each in its own PID namespace, count 500 each and 1000 together."""
    if not can_unshare():
        pytest.skip("a PID namespace of its own needs the right to unshare")
    contained = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    with run_writer(tmp_path, 500, *contained), run_writer(tmp_path, 500, *contained):
        assert len(list(tmp_path.glob("*-1-*.lock"))) == 2
        assert read(tmp_path, TIMEOUTS, role="job") == 1000


def test_writers_of_one_process_lose_nothing(tmp_path: Path) -> None:
    """Two services of one process have separate files, so neither overwrites the other's counters."""
    one, other = (open_metrics("job", tmp_path) for _ in range(2))
    for metrics in (one, other) * 500:
        count_timeouts(metrics)
    assert read(tmp_path, TIMEOUTS, role="job") == 1000
    one.close()
    other.close()
    assert read(tmp_path, TIMEOUTS, role="job") == 1000


def test_a_killed_writer_loses_its_gauges_and_keeps_its_counters(tmp_path: Path) -> None:
    """After SIGKILL of a writer, the next scrape drops the writer's gauges and keeps its counters."""
    reader = FleetReader(MetricWriter(), tmp_path)
    with run_writer(tmp_path, 7) as process:
        assert sample(reader, "echo_db_pool_connections", role="job", state="used") == 3
        assert sample(reader, "echo_metrics_writers", role="job") == 1
        before = sample(reader, "echo_task_last_success_timestamp_seconds", task="simulator")
        process.kill()
        process.wait()
    assert sample(reader, "echo_db_pool_connections", role="job", state="used") is None
    assert sample(reader, "echo_metrics_writers", role="job") is None
    assert sample(reader, TIMEOUTS, role="job") == 7
    assert sample(reader, "echo_db_operation_duration_seconds_count", op="seed", role="job") == 1
    # the success of a killed task is kept, so that the alert for a late task can fire
    assert sample(reader, "echo_task_last_success_timestamp_seconds", task="simulator") == before


def test_many_ended_writers_cost_one_file(tmp_path: Path) -> None:
    """After the first scrape, the counters of 400 ended writers are read from the archive only."""
    for _ in range(400):
        metrics = Metrics("job")
        metrics.pool_timeouts.inc()
        metrics.observe_operation("seed", 0.02)
        # `join` alone starts no thread that publishes the metrics every second
        metrics.writer.join(tmp_path)
        metrics.close()
    reader = FleetReader(MetricWriter(), tmp_path)
    assert sample(reader, TIMEOUTS, role="job") == 400
    assert [path.name for path in tmp_path.iterdir()] == [ARCHIVE]
    assert sample(reader, TIMEOUTS, role="job") == 400
    assert reader.files_read == 0
    # the minimum of many calls, because other programs can slow down a single call
    assert min(measure_processor(reader.collect) for _ in range(20)) < stretch_processor(0.010)
    bucket = f"{SECONDS}_bucket"
    assert read(tmp_path, bucket, op="seed", role="job", le="0.025") == 400
    assert read(tmp_path, bucket, op="seed", role="job", le="0.01") == 0


def measure_processor(act: Callable[[], object]) -> float:
    """Return the CPU seconds of this thread that one call takes."""
    started = time.thread_time()
    act()
    return time.thread_time() - started


def test_counters_never_decrease_while_writers_start_and_end(tmp_path: Path) -> None:
    """Two readers beside starting and ending writers never see a lower sum, and the last sum is complete."""
    ended = threading.Event()

    def write() -> None:
        for _ in range(60):
            metrics = open_metrics("job", tmp_path)
            count_timeouts(metrics, 5)
            metrics.close()

    def watch() -> list[float]:
        reader, seen = FleetReader(MetricWriter(), tmp_path), [0.0]
        # the wait lets the other reader take the lock
        while not ended.wait(0.002):
            seen.append(sample(reader, TIMEOUTS, role="job") or 0.0)
        return seen

    with ThreadPoolExecutor(5) as executor:
        watchers = [executor.submit(watch) for _ in range(2)]
        writers = [executor.submit(write) for _ in range(3)]
        for writer in writers:
            writer.result()
        ended.set()
        for watcher in watchers:
            seen = watcher.result()
            assert seen == sorted(seen)
            assert len(set(seen)) > 1
    assert read(tmp_path, TIMEOUTS, role="job") == 3 * 60 * 5


@pytest.mark.parametrize("step", ["rename", "first unlink"])
def test_a_reader_that_dies_while_folding_counts_nothing_twice(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a reader is killed before or after it writes the archive, the next reader has the same sum."""
    for _ in range(3):
        metrics = open_metrics("job", tmp_path)
        count_timeouts(metrics, 2)
        metrics.close()

    class Killed(BaseException):
        """Stands for SIGKILL: a BaseException, which no handler of the reader catches."""

    real = Path.unlink

    def die(path: Path, *rest: object, **options: bool) -> None:
        if step == "rename" or path.suffix == ".db":
            raise Killed
        real(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace" if step == "rename" else "unlink", die)
        with pytest.raises(Killed):
            read(tmp_path, TIMEOUTS, role="job")
    assert list(tmp_path.glob("counter_*.db"))
    assert read(tmp_path, TIMEOUTS, role="job") == 6
    assert read(tmp_path, TIMEOUTS, role="job") == 6
    assert not list(tmp_path.glob("*.db"))


def test_a_forked_child_writes_its_own_files(tmp_path: Path) -> None:
    """A forked child has its own files, so parent and child do not overwrite each other's counters."""
    metrics = open_metrics("job", tmp_path)
    count_timeouts(metrics, 3)
    with pytest.warns(DeprecationWarning, match="fork") if sys.version_info >= (3, 12) else _nothing():
        child = multiprocessing.get_context("fork").Process(target=count_timeouts, args=(metrics, 4))
        child.start()
    child.join()
    assert child.exitcode == 0
    count_timeouts(metrics)
    assert read(tmp_path, TIMEOUTS, role="job") == 8
    metrics.close()
    assert read(tmp_path, TIMEOUTS, role="job") == 8


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def test_the_collector_of_prometheus_client_reads_the_files(tmp_path: Path) -> None:
    """The files have the format of prometheus_client, so `MultiProcessCollector` can read the folder."""
    metrics = open_metrics("job", tmp_path)
    count_timeouts(metrics, 3)
    metrics.observe_operation("seed", 0.02)
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(tmp_path))  # type: ignore[no-untyped-call]  # it has no annotations
    assert registry.get_sample_value(TIMEOUTS, {"role": "job"}) == 3
    labels = {"op": "seed", "role": "job", "le": "0.025"}
    assert registry.get_sample_value("echo_db_operation_duration_seconds_bucket", labels) == 1
    metrics.close()


def test_a_full_file_grows(tmp_path: Path) -> None:
    """A file with more series than its first size holds grows and keeps the earlier series."""
    metrics = open_metrics("job", tmp_path)
    for number in range(60):
        metrics.observe_operation(f"operation_{number}", 0.02)
    reader = FleetReader(MetricWriter(), tmp_path)
    name = "echo_db_operation_duration_seconds_sum"
    for number in range(60):
        assert sample(reader, name, op=f"operation_{number}", role="job") == pytest.approx(0.02)
    metrics.observe_operation("one_more", 1)
    assert sample(reader, name, op="one_more", role="job") == 1
    metrics.close()


def test_the_folder_is_created(tmp_path: Path) -> None:
    """If the folder does not exist, the writer creates it with its parents."""
    metrics = open_metrics("job", tmp_path / "a" / "b")
    assert read(tmp_path / "a" / "b", "echo_metrics_writers", role="job") == 1
    metrics.close()


def test_damaged_files_do_not_affect_other_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A damaged file, an empty file and a damaged archive are skipped, and other files are read."""
    metrics = open_metrics("job", tmp_path)
    count_timeouts(metrics, 5)
    (tmp_path / "counter_somebody.db").write_bytes(b"\xff\x7f\x00\x00" + b"garbage" * 99)
    (tmp_path / "histogram_somebody.db").touch()
    (tmp_path / ARCHIVE).write_text("{")
    (tmp_path / "README_mine.txt").write_text("not ours")
    assert read(tmp_path, TIMEOUTS, role="job") == 5
    assert "counter_somebody.db, which is damaged" in caplog.text
    assert f"{ARCHIVE} is damaged" in caplog.text
    assert (tmp_path / "README_mine.txt").exists()
    metrics.close()


def test_the_lock_of_a_killed_start_is_removed(tmp_path: Path) -> None:
    """A starting lock older than ABANDONED_SECONDS is removed; a newer one belongs to a starting writer."""
    starting, abandoned = (tmp_path / f"{name}{STARTING_SUFFIX}" for name in "ab")
    starting.touch()
    abandoned.touch()
    os.utime(abandoned, (0, starting.stat().st_mtime - ABANDONED_SECONDS - 1))
    read(tmp_path, TIMEOUTS, role="job")
    assert [path.name for path in tmp_path.iterdir()] == [starting.name]


def test_a_stopped_reader_does_not_block_other_readers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a stopped reader holds the lock, other readers raise TimeoutError after LOCK_SECONDS."""
    monkeypatch.setattr("core.metrics.fleet.LOCK_SECONDS", 0.05)
    hold = (
        "import fcntl, os, sys; handle = os.open(sys.argv[1], os.O_RDONLY);"
        "fcntl.flock(handle, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    arguments = [sys.executable, "-c", hold, str(tmp_path)]
    with subprocess.Popen(arguments, stdin=pipe, stdout=pipe, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holder.send_signal(signal.SIGSTOP)
        with pytest.raises(TimeoutError, match="another exporter holds"):
            read(tmp_path, TIMEOUTS, role="job")
        holder.kill()


def test_gauges_of_several_writers_combine(tmp_path: Path) -> None:
    """Connections are summed, a breaker is open if any is open, and a task has its newest success."""
    one, other = (open_metrics("job", tmp_path) for _ in range(2))
    for metrics, number in ((one, 1), (other, 0)):
        metrics.pool_used.set(2 + number)
        metrics.cache_breaker_open.set(number)
        metrics.count_task_success("simulator")
    latest = max(
        sample(FleetReader(metrics.writer, None), TASK, task="simulator") or 0 for metrics in (one, other)
    )
    assert read(tmp_path, "echo_db_pool_connections", role="job", state="used") == 5
    assert read(tmp_path, "echo_cache_breaker_open", role="job") == 1
    assert read(tmp_path, "echo_metrics_writers", role="job") == 2
    assert read(tmp_path, TASK, task="simulator") == latest
    one.close()
    other.close()


TASK = "echo_task_last_success_timestamp_seconds"
