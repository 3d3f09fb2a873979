"""Whether a pool is exhausted: its own statistics and the gauges of its process give the same result."""

from pathlib import Path

import pytest
from prometheus_client.samples import Sample

from core.health import add_up_pools, describe_pool, read_pool
from core.metrics import open_metrics
from core.metrics.fleet import FleetReader
from core.records import PoolStats, PoolUse


def make_gauges(limit: int, used: int, idle: int, waiting: int = 0) -> list[Sample]:
    """Return the gauges of a process with a pool."""
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
def test_statistics_and_gauges_agree(limit: int, used: int, idle: int, is_exhausted: bool) -> None:  # noqa: FBT001  # a parameter of the case
    """A pool is exhausted if it has no idle connection and cannot grow; a limit of 0 means no pool."""
    use = read_pool(make_gauges(limit, used, idle, 1))
    assert use == PoolUse(limit, used + idle, idle, used, 1, is_exhausted)
    if limit:
        assert describe_pool(PoolStats(limit, used + idle, idle, used, 1, 0, 0, 0.0, 0, 0, 0, 0)) == use


def test_one_exhausted_pool_is_not_hidden_by_the_others() -> None:
    """Two pools added up are exhausted if one of them is, even if the other has idle connections."""
    pools = [read_pool(make_gauges(2, 2, 0)), read_pool(make_gauges(10, 0, 5))]
    assert add_up_pools(pools) == PoolUse(12, 7, 5, 2, 0, is_exhausted=True)


def test_gauges_are_read_from_other_live_processes(tmp_path: Path) -> None:
    """`list_gauges` leaves out its own process and ended processes, and is empty without a folder."""
    own, other, ended = (open_metrics("job", tmp_path) for _ in range(3))
    for number, metrics in enumerate((own, other, ended)):
        metrics.pool_max.set(number + 1)
    ended.close()
    assert [read_pool(each).pool_max for each in own.list_gauges()] == [2]
    for missing in (tmp_path / "missing", None):
        assert FleetReader(own.writer, missing).list_gauges() == []
    # `collect` archives the files of ended processes; live processes must stay listed
    own.collect()
    assert [read_pool(each).pool_max for each in own.list_gauges()] == [2]
    own.close()
    other.close()
