"""When a pool is exhausted, seen from inside and from outside its process."""

from pathlib import Path

import pytest
from prometheus_client.samples import Sample

from core.health import add_up_pools, describe_pool, read_pool
from core.metrics import open_metrics
from core.metrics.fleet import FleetReader
from core.records import PoolStats, PoolUse


def gauges(limit: int, used: int, idle: int, waiting: int = 0) -> list[Sample]:
    """Return what a process writes of its pool, among other things."""
    return [
        Sample("echo_metrics_writers", {"role": "job"}, 1),
        Sample("echo_db_pool_max_connections", {"role": "job"}, limit),
        Sample("echo_db_pool_connections", {"role": "job", "state": "used"}, used),
        Sample("echo_db_pool_connections", {"role": "job", "state": "idle"}, idle),
        Sample("echo_db_pool_pending_requests", {"role": "job"}, waiting),
    ]


@pytest.mark.parametrize(
    ("limit", "used", "idle", "is_exhausted"),
    [(2, 2, 0, True), (2, 1, 1, False), (2, 1, 0, False), (2, 0, 0, False), (0, 0, 0, False)],
)
def test_inside_and_outside_agree(limit: int, used: int, idle: int, is_exhausted: bool) -> None:  # noqa: FBT001  # a parameter of the case
    """A pool that can grow or has an idle connection is not exhausted; a process may have no pool."""
    seen = read_pool(gauges(limit, used, idle, 1))
    assert seen == PoolUse(limit, used + idle, idle, used, 1, is_exhausted)
    if limit:
        assert describe_pool(PoolStats(limit, used + idle, idle, used, 1, 0, 0, 0.0, 0, 0, 0, 0)) == seen


def test_one_exhausted_pool_is_not_hidden_by_the_others() -> None:
    """Idle connections of one process do not help another process."""
    pools = [read_pool(gauges(2, 2, 0)), read_pool(gauges(10, 0, 5))]
    assert add_up_pools(pools) == PoolUse(12, 7, 5, 2, 0, is_exhausted=True)


def test_only_the_live_are_seen_and_not_oneself(tmp_path: Path) -> None:
    """Gauges are read per live process, without its own; ended processes and a missing folder give none."""
    own, other, ended = (open_metrics("job", tmp_path) for _ in range(3))
    for number, metrics in enumerate((own, other, ended)):
        metrics.pool_max.set(number + 1)
    ended.close()
    assert [read_pool(each).pool_max for each in own.list_gauges()] == [2]
    for missing in (tmp_path / "missing", None):
        assert FleetReader(own.writer, missing).list_gauges() == []
    # a scrape folds what ended; the others are still there
    own.collect()
    assert [read_pool(each).pool_max for each in own.list_gauges()] == [2]
    own.close()
    other.close()
