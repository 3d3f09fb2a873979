"""Metrics of a process: cache counts, histograms, tasks, documented labels and the revision."""

import re
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import get_args

import pytest

from core.installation import UNKNOWN, find_revision
from core.metrics import Metrics, names, open_metrics, run_job
from core.metrics.fleet import FleetReader
from core.metrics.names import AuditedAction, Definition, Limiter
from core.metrics.writer import MetricWriter
from exporter import collectors, exposition
from exporter.collectors import redis
from tests.conftest import find_imbalances
from tests.fleet_reading import find_sample


def test_an_imbalance_of_cache_counts_is_found() -> None:
    """A request that is no hit, miss or bypass is found by the check that runs after every test."""
    metrics = Metrics("job")
    metrics.count_cache_reads("user", "near", hits=2, misses=1)
    metrics.count_cache_reads("user", "shared", hits=1, misses=4)
    metrics.count_cache_bypasses("user", "down", 3)
    assert find_imbalances(metrics) == []
    metrics._value(names.CACHE_REQUESTS, "user", "near").inc()
    assert find_imbalances(metrics) == ["user near: 1"]
    metrics._value(names.CACHE_MISSES, "user", "near").inc()


def test_histograms_are_cumulative() -> None:
    """A bucket counts every value up to its bound, including the bound."""
    metrics = Metrics("job")
    for seconds in (0.1, 0.1001, 31, 0.0001):
        metrics.observe_operation("seed", seconds)
    families = metrics.collect()
    name, labels = "echo_db_operation_duration_seconds", {"op": "seed", "role": "job"}
    counts = [find_sample(families, f"{name}_bucket", **labels, le=le) for le in ("0.05", "0.1", "30.0")]
    assert counts == [1, 2, 3]
    assert find_sample(families, f"{name}_bucket", **labels, le="+Inf") == 4
    assert find_sample(families, f"{name}_count", **labels) == 4
    assert find_sample(families, f"{name}_sum", **labels) == pytest.approx(31.2002)


def test_counters_of_operators_begin_at_zero() -> None:
    """Counters of limiters and operator actions begin at 0: a series that begins at 1 shows no increase."""
    metrics = Metrics("dashboard")
    families = metrics.collect()
    for limiter in get_args(Limiter):
        assert find_sample(families, "echo_ratelimit_requests_total", limiter=limiter) == 0
        assert find_sample(families, "echo_ratelimit_rejections_total", limiter=limiter) == 0
    for action in get_args(AuditedAction):
        assert find_sample(families, "echo_audit_events_total", action=action) == 0
        assert find_sample(families, "echo_audit_write_failures_total", action=action) == 0
    metrics.count_limited("operator_actions", False)
    metrics.count_limited("operator_actions", True)
    metrics.count_audit_event("clear_cache")
    metrics.count_audit_write_failure("close_session")
    families = metrics.collect()
    assert find_sample(families, "echo_ratelimit_requests_total", limiter="operator_actions") == 2
    assert find_sample(families, "echo_ratelimit_rejections_total", limiter="operator_actions") == 1
    assert find_sample(families, "echo_audit_events_total", action="clear_cache") == 1
    assert find_sample(families, "echo_audit_write_failures_total", action="close_session") == 1


def test_a_regular_task_is_expected_until_it_is_stopped(tmp_path: Path) -> None:
    """After a task is stopped on purpose its interval is 0, so no alert treats the task as late."""
    metrics = open_metrics("simulator", tmp_path)
    reader = FleetReader(MetricWriter(), tmp_path)
    with metrics.regular_task("simulator", interval_seconds=2.5) as count_success:
        families = reader.collect()
        assert find_sample(families, "echo_task_interval_seconds", task="simulator") == 2.5
        assert find_sample(families, "echo_task_last_success_timestamp_seconds", task="simulator") is None
        count_success()
    metrics.close()
    families = reader.collect()
    assert find_sample(families, "echo_task_interval_seconds", task="simulator") == 0
    assert find_sample(families, "echo_task_last_success_timestamp_seconds", task="simulator")


def test_a_failed_job_is_counted(tmp_path: Path) -> None:
    """A job that fails is counted as one operation."""
    with pytest.raises(ValueError, match="no"), run_job("migrate_up", tmp_path):
        raise ValueError("no")
    families = FleetReader(MetricWriter(), tmp_path).collect()
    name = "echo_db_operation_duration_seconds_count"
    assert find_sample(families, name, op="migrate_up", role="job") == 1


def list_definitions() -> list[Definition]:
    """Return the definitions of all metrics: of processes, of the health check and of collectors."""
    found: list[object] = list(redis.METRICS.values())
    collecting = iter_modules(collectors.__path__, f"{collectors.__name__}.")
    for module in (names, exposition, *(import_module(each.name) for each in collecting)):
        found += vars(module).values()
    return [each for each in found if isinstance(each, Definition)]


def test_the_documentation_has_kind_and_labels_of_every_metric() -> None:
    """docs/metrics.md has each metric with its kind and its labels; a row may describe several metrics."""
    documented: dict[str, tuple[str, set[str]]] = {}
    for line in (Path(__file__).parents[2] / "docs" / "metrics.md").read_text().splitlines():
        cells = line.split(" | ")
        rows = re.findall(r"`(echo_\w+)`", cells[0])
        kinds = re.findall(r"\b([CGH])\b(?: \{([^}]*)\})?", cells[1]) if rows else []
        for name, (kind, labels) in zip(rows, kinds if len(kinds) > 1 else kinds * len(rows), strict=True):
            documented[name] = kind, set(re.findall(r"\w+", labels))
    definitions = list_definitions()
    assert {each.name for each in definitions} == set(documented)
    for each in definitions:
        kind, labels = documented[each.name]
        assert each.kind[0].upper() == kind, each.name
        assert labels >= set(each.labels), each.name


def test_the_revision_of_a_checkout_and_of_an_image(tmp_path: Path) -> None:
    """The revision is read from the files of .git, or from the file REVISION of an image."""
    git, commit = tmp_path / ".git", "0123456789abcdef" * 2 + "01234567"
    assert find_revision(tmp_path) == UNKNOWN
    git.mkdir()
    (git / "HEAD").write_text(f"{commit}\n")
    assert find_revision(tmp_path) == commit[:12]
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    assert find_revision(tmp_path) == UNKNOWN
    (git / "packed-refs").write_text(f"# pack-refs with: peeled\n{commit[::-1]} refs/heads/main\n")
    assert find_revision(tmp_path) == commit[::-1][:12]
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "refs" / "heads" / "main").write_text(f"{commit}\n")
    assert find_revision(tmp_path) == commit[:12]
    (tmp_path / "REVISION").write_text("image\n")
    assert find_revision(tmp_path) == "image"
