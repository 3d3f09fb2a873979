"""Rates, ratios and quantiles from a few scrapes, and the same questions in PromQL."""

from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client.samples import Sample

from core.metrics.scrape import Scrape
from dashboard.monitoring.queries import (
    CHART_STEP_SECONDS,
    CHARTED,
    HISTORY_SECONDS,
    HIT_RATIO,
    LATENCY,
    OPERATION_CALLS,
    OPERATION_LATENCY,
    POOL_USED,
    PRESENT,
    REDIS_MEMORY,
    REPORTED_BY_ALL,
    TABULATED,
    WINDOW_SECONDS,
    MetricHistory,
    Query,
    build_present_promql,
    build_promql,
    list_operands,
)

START = datetime(2013, 3, 1, 21, tzinfo=UTC)
HITS, REQUESTS = "echo_cache_hits_total", "echo_cache_requests_total"
RATES = "sum by (cache, tier) (rate"
CALLS = "echo_db_operation_duration_seconds_count"
BUCKET = "echo_db_operation_duration_seconds_bucket"


def take(seconds: float, *samples: tuple[str, dict[str, str], float]) -> Scrape:
    """Return a scrape of this many seconds after the start."""
    return Scrape((Sample(*item) for item in samples), taken_at=START + timedelta(seconds=seconds))


def calls(seconds: float, count: float, *, op: str = "get_user_by_id", role: str = "job") -> Scrape:
    """Return a scrape with one counter of calls."""
    return take(seconds, (CALLS, {"op": op, "role": role}, count))


def keep(history: MetricHistory, *scrapes: Scrape) -> MetricHistory:
    """Add scrapes at the times at which they were taken."""
    for scrape in scrapes:
        history.add(scrape, at=(scrape.taken_at - START).total_seconds())
    return history


def read_lines(history: MetricHistory, query: Query) -> dict[tuple[str, ...], list[tuple[float, float]]]:
    """Return the points of a charted query by labels, times in seconds after the start."""
    return {
        line.labels: [((moment - START).total_seconds(), value) for moment, value in line.points]
        for line in history.list_series()[query]
    }


def test_a_gauge_is_summed_over_processes() -> None:
    """Used connections are summed by role, without idle ones."""
    labels = [{"role": "job", "state": "used"}, {"role": "job", "state": "idle"}]
    history = keep(
        MetricHistory([POOL_USED]), take(0, *(("echo_db_pool_connections", item, 2) for item in labels))
    )
    assert read_lines(history, POOL_USED) == {("job",): [(0, 2)]}


def test_a_rate_is_what_a_counter_grew_by() -> None:
    """The rate is per second over the window, summed over roles."""
    history = MetricHistory([], [OPERATION_CALLS])
    for seconds, count in ((0, 100), (10, 120), (20, 130)):
        labels = [{"op": "get_leaderboard", "role": role} for role in ("job", "dashboard")]
        keep(history, take(seconds, *((CALLS, item, count) for item in labels)))
    assert history.values[OPERATION_CALLS] == {("get_leaderboard",): 3.0}


def test_a_rate_forgets_what_was_before_its_window() -> None:
    """The rate covers two minutes and nothing earlier."""
    scrapes = [calls(seconds, count) for seconds, count in ((0, 0), (30, 900), (150, 960))]
    history = keep(MetricHistory([], [OPERATION_CALLS]), *scrapes)
    assert history.values[OPERATION_CALLS] == {("get_user_by_id",): 60 / WINDOW_SECONDS}


def test_a_counter_that_went_down_was_started_anew() -> None:
    """After a restart the rate is not negative, and counts the new process from 0."""
    scrapes = [calls(seconds, count) for seconds, count in ((0, 100), (10, 110), (20, 5))]
    history = keep(MetricHistory([], [OPERATION_CALLS]), *scrapes)
    assert history.values[OPERATION_CALLS] == {("get_user_by_id",): 0.75}


def test_a_restart_does_not_hide_in_a_sum() -> None:
    """When one role restarts and another continues, the growth of each counts, not that of their sum."""
    history = MetricHistory([], [OPERATION_CALLS])
    for seconds, job, dashboard in ((0, 1_000, 50), (10, 4, 60)):
        counts = {"job": job, "dashboard": dashboard}
        samples = ((CALLS, {"op": "a", "role": role}, count) for role, count in counts.items())
        keep(history, take(seconds, *samples))
    assert history.values[OPERATION_CALLS] == {("a",): (4 + 10) / 10}


def test_a_series_that_appears_later_counts_from_nothing() -> None:
    """The first error of an operation counts, and so does one that a failed collector left out."""
    history = keep(
        MetricHistory([], [OPERATION_CALLS]),
        calls(0, 7, op="a"),
        take(10, (CALLS, {"op": "b"}, 4)),
        take(20, (CALLS, {"op": "a", "role": "job"}, 9), (CALLS, {"op": "b"}, 4)),
    )
    assert history.values[OPERATION_CALLS] == {("a",): 0.1, ("b",): 0.2}


def test_counters_that_were_not_there_at_first_have_no_rate() -> None:
    """Their collector failed in the first scrape, so their sums are not the growth of the last seconds."""
    scrapes = [take(0), calls(10, 1_000_000), calls(20, 1_000_010)]
    history = keep(MetricHistory([], [OPERATION_CALLS]), *scrapes)
    assert history.values[OPERATION_CALLS] == {("get_user_by_id",): 0.5}


def test_the_hit_ratio_needs_traffic() -> None:
    """A cache without requests has no ratio."""
    history = MetricHistory([HIT_RATIO])
    user, quests = {"cache": "user", "tier": "near"}, {"cache": "quests", "tier": "near"}
    for seconds, hits, requests in ((0, 0, 0), (10, 30, 40)):
        keep(history, take(seconds, (HITS, user, hits), (REQUESTS, user, requests), (REQUESTS, quests, 5)))
    assert read_lines(history, HIT_RATIO) == {("user", "near"): [(10, 0.75)]}


def test_quantiles_are_of_the_window() -> None:
    """Slow calls from before the window do not count, in total and by operation."""
    history = MetricHistory(LATENCY, OPERATION_LATENCY)
    for seconds, fast, slow in ((0, 0, 50), (10, 100, 50)):
        counts = {"0.1": fast, "1.0": fast + slow, "+Inf": fast + slow}
        keep(history, take(seconds, *((BUCKET, {"op": "a", "le": le}, n) for le, n in counts.items())))
    assert read_lines(history, LATENCY[1]) == {(): [(10, pytest.approx(0.095))]}
    assert history.values[OPERATION_LATENCY[1]] == {("a",): pytest.approx(0.095)}


def test_one_scrape_has_no_rates() -> None:
    """A rate needs two scrapes; a gauge needs one."""
    history = keep(MetricHistory(CHARTED, TABULATED), calls(0, 1))
    assert history.values[OPERATION_CALLS] == {}
    assert [read_lines(history, query) for query in LATENCY] == [{}, {}, {}]


def test_an_hour_is_kept_and_no_more() -> None:
    """There is a point every 15 s; older points are dropped, and sums are kept for the window only."""
    history = MetricHistory([POOL_USED], [OPERATION_CALLS])
    pool = {"role": "job", "state": "used"}
    for seconds in range(0, 2 * HISTORY_SECONDS + 1, 5):
        keep(history, take(seconds, ("echo_db_pool_connections", pool, seconds), (CALLS, {}, seconds)))
    points = read_lines(history, POOL_USED)[("job",)]
    assert len(points) == HISTORY_SECONDS / CHART_STEP_SECONDS + 1
    assert points[-1][0] - points[0][0] == HISTORY_SECONDS
    assert len(history._sums) == WINDOW_SECONDS / 5 + 1, "bounded"


def test_a_line_that_ended_leaves_with_its_points() -> None:
    """A role that has ended is dropped with its last point."""
    job = ("echo_db_pool_connections", {"role": "job", "state": "used"}, 1.0)
    history = keep(MetricHistory([POOL_USED]), take(0, job), take(10), take(HISTORY_SECONDS + 1))
    assert read_lines(history, POOL_USED) == {}


def test_a_gap_has_neither_points_nor_rates() -> None:
    """Growth during a gap counts in no window; after two more scrapes there is a rate again."""
    query = LATENCY[0]
    history = MetricHistory([query, POOL_USED], [OPERATION_CALLS])
    for seconds, count in ((0, 0), (15, 30), (1_000, 9_000), (1_015, 9_015)):
        buckets = ((BUCKET, {"op": "a", "le": le}, count) for le in ("0.1", "+Inf"))
        keep(history, take(seconds, (CALLS, {"op": "a"}, count), *buckets))
        if seconds == 1_000:
            assert history.values[OPERATION_CALLS] == {}
    assert history.values[OPERATION_CALLS] == {("a",): 1.0}
    assert [moment for moment, _ in read_lines(history, query)[()]] == [15, 1_015]


def test_a_clock_that_is_set_back_does_not_stop_the_history() -> None:
    """Rates follow the monotonic clock; points after the new time are dropped."""
    history = MetricHistory([POOL_USED], [OPERATION_CALLS])
    pool = ("echo_db_pool_connections", {"role": "job", "state": "used"}, 1.0)
    for at, seconds, count in ((0, 0, 0), (60, 60, 60), (70, 10, 70), (100, 40, 100)):
        history.add(take(seconds, pool, (CALLS, {"op": "a"}, count)), at=at)
    assert history.values[OPERATION_CALLS] == {("a",): 1.0}
    assert [moment for moment, _ in read_lines(history, POOL_USED)[("job",)]] == [0, 40]


@pytest.mark.parametrize(
    ("query", "promql"),
    [
        (POOL_USED, 'sum by (role) (echo_db_pool_connections{state="used"})'),
        (OPERATION_CALLS, f"sum by (op) (rate({CALLS}[120s]))"),
        (
            HIT_RATIO,
            f"{RATES}({HITS}[120s])) / ({RATES}({REQUESTS}[120s])) > 0)",
        ),
        (LATENCY[2], f"histogram_quantile(0.99, sum by (le) (rate({BUCKET}[120s])))"),
        (OPERATION_LATENCY[0], f"histogram_quantile(0.5, sum by (le, op) (rate({BUCKET}[120s])))"),
    ],
)
def test_the_same_question_in_promql(query: Query, promql: str) -> None:
    """These are the queries that Prometheus gets."""
    assert build_promql(query) == promql


def test_every_metric_is_named_once() -> None:
    """The list of metrics, which other tests compare with a scrape, is complete."""
    names = {item.metric for query in (*CHARTED, *TABULATED) for item in list_operands(query)} | {*PRESENT}
    assert {"echo_db_pool_connections", HITS, REQUESTS, BUCKET, "echo_health_status"} <= names
    assert all(name in build_present_promql() for name in ("echo_service_up", "echo_migrations_pending"))


def test_what_all_exporters_report_is_asked_for_once() -> None:
    """Two hosts report the same database, which is counted once; their processes are counted each."""
    promql = build_present_promql()
    assert 'max by (__name__) ({__name__=~"echo_migrations_applied|' in promql
    assert 'min by (__name__, service) ({__name__=~"echo_service_up"})' in promql
    own, _, _ = promql.partition(" or ")
    assert "echo_db_pool_connections" in own
    assert not [name for each in REPORTED_BY_ALL for name in each.metrics if name in own]
    assert build_promql(REDIS_MEMORY) == "max (echo_redis_memory_used_bytes)"
