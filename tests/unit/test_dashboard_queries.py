"""Rates, ratios and quantiles computed from scrapes, and the same queries in PromQL."""

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


def build_scrape(seconds: float, *samples: tuple[str, dict[str, str], float]) -> Scrape:
    """Return a scrape of this number of seconds after START."""
    return Scrape((Sample(*item) for item in samples), taken_at=START + timedelta(seconds=seconds))


def build_calls(seconds: float, count: float, *, op: str = "get_user_by_id", role: str = "job") -> Scrape:
    """Return a scrape with one sample of the counter of calls."""
    return build_scrape(seconds, (CALLS, {"op": op, "role": role}, count))


def add_scrapes(history: MetricHistory, *scrapes: Scrape) -> MetricHistory:
    """Add scrapes to the history at the times at which they were taken."""
    for scrape in scrapes:
        history.add(scrape, at=(scrape.taken_at - START).total_seconds())
    return history


def read_lines(history: MetricHistory, query: Query) -> dict[tuple[str, ...], list[tuple[float, float]]]:
    """Return the points of a charted query by their labels, with times in seconds after START."""
    return {
        line.labels: [((moment - START).total_seconds(), value) for moment, value in line.points]
        for line in history.list_series()[query]
    }


def test_a_gauge_is_filtered_and_summed_by_role() -> None:
    """The used connections of a role are charted, without its idle connections."""
    labels = [{"role": "job", "state": "used"}, {"role": "job", "state": "idle"}]
    history = add_scrapes(
        MetricHistory([POOL_USED]),
        build_scrape(0, *(("echo_db_pool_connections", item, 2) for item in labels)),
    )
    assert read_lines(history, POOL_USED) == {("job",): [(0, 2)]}


def test_a_rate_is_the_growth_of_a_counter_per_second() -> None:
    """A rate is the growth of a counter per second in the window, summed over the roles."""
    history = MetricHistory([], [OPERATION_CALLS])
    for seconds, count in ((0, 100), (10, 120), (20, 130)):
        labels = [{"op": "get_leaderboard", "role": role} for role in ("job", "dashboard")]
        add_scrapes(history, build_scrape(seconds, *((CALLS, item, count) for item in labels)))
    assert history.values[OPERATION_CALLS] == {("get_leaderboard",): 3.0}


def test_a_rate_ignores_growth_before_its_window() -> None:
    """Growth before the window of WINDOW_SECONDS does not count in a rate."""
    scrapes = [build_calls(seconds, count) for seconds, count in ((0, 0), (30, 900), (150, 960))]
    history = add_scrapes(MetricHistory([], [OPERATION_CALLS]), *scrapes)
    assert history.values[OPERATION_CALLS] == {("get_user_by_id",): 60 / WINDOW_SECONDS}


def test_a_counter_that_went_down_was_restarted() -> None:
    """If a counter goes down, the new process counts from 0, so the rate is not negative."""
    scrapes = [build_calls(seconds, count) for seconds, count in ((0, 100), (10, 110), (20, 5))]
    history = add_scrapes(MetricHistory([], [OPERATION_CALLS]), *scrapes)
    assert history.values[OPERATION_CALLS] == {("get_user_by_id",): 0.75}


def test_a_restart_does_not_hide_in_a_sum() -> None:
    """If one role restarts, the growth is computed for each role before it is summed."""
    history = MetricHistory([], [OPERATION_CALLS])
    for seconds, job, dashboard in ((0, 1_000, 50), (10, 4, 60)):
        counts = {"job": job, "dashboard": dashboard}
        samples = ((CALLS, {"op": "a", "role": role}, count) for role, count in counts.items())
        add_scrapes(history, build_scrape(seconds, *samples))
    assert history.values[OPERATION_CALLS] == {("a",): (4 + 10) / 10}


def test_a_later_series_counts_from_zero() -> None:
    """If earlier scrapes had counters, a new series counts from 0; a missing series keeps its value."""
    history = add_scrapes(
        MetricHistory([], [OPERATION_CALLS]),
        build_calls(0, 7, op="a"),
        build_scrape(10, (CALLS, {"op": "b"}, 4)),
        build_scrape(20, (CALLS, {"op": "a", "role": "job"}, 9), (CALLS, {"op": "b"}, 4)),
    )
    assert history.values[OPERATION_CALLS] == {("a",): 0.1, ("b",): 0.2}


def test_a_counter_missing_in_the_first_scrape_is_not_growth() -> None:
    """If the first scrape has no counters, the first value of a counter is no growth."""
    scrapes = [build_scrape(0), build_calls(10, 1_000_000), build_calls(20, 1_000_010)]
    history = add_scrapes(MetricHistory([], [OPERATION_CALLS]), *scrapes)
    assert history.values[OPERATION_CALLS] == {("get_user_by_id",): 0.5}


def test_the_hit_ratio_needs_traffic() -> None:
    """A cache without requests in the window has no hit ratio."""
    history = MetricHistory([HIT_RATIO])
    user, quests = {"cache": "user", "tier": "near"}, {"cache": "quests", "tier": "near"}
    for seconds, hits, requests in ((0, 0, 0), (10, 30, 40)):
        add_scrapes(
            history,
            build_scrape(seconds, (HITS, user, hits), (REQUESTS, user, requests), (REQUESTS, quests, 5)),
        )
    assert read_lines(history, HIT_RATIO) == {("user", "near"): [(10, 0.75)]}


def test_quantiles_are_of_the_window() -> None:
    """Calls before the window do not count in a quantile, neither of all operations nor of one."""
    history = MetricHistory(LATENCY, OPERATION_LATENCY)
    for seconds, fast, slow in ((0, 0, 50), (10, 100, 50)):
        counts = {"0.1": fast, "1.0": fast + slow, "+Inf": fast + slow}
        add_scrapes(
            history, build_scrape(seconds, *((BUCKET, {"op": "a", "le": le}, n) for le, n in counts.items()))
        )
    assert read_lines(history, LATENCY[1]) == {(): [(10, pytest.approx(0.095))]}
    assert history.values[OPERATION_LATENCY[1]] == {("a",): pytest.approx(0.095)}


def test_one_scrape_has_no_rates() -> None:
    """After one scrape there is neither a rate nor a quantile."""
    history = add_scrapes(MetricHistory(CHARTED, TABULATED), build_calls(0, 1))
    assert history.values[OPERATION_CALLS] == {}
    assert [read_lines(history, query) for query in LATENCY] == [{}, {}, {}]


def test_an_hour_is_kept_and_no_more() -> None:
    """The history has a point per CHART_STEP_SECONDS of the last HISTORY_SECONDS, and drops older points."""
    history = MetricHistory([POOL_USED], [OPERATION_CALLS])
    pool = {"role": "job", "state": "used"}
    for seconds in range(0, 2 * HISTORY_SECONDS + 1, 5):
        add_scrapes(
            history, build_scrape(seconds, ("echo_db_pool_connections", pool, seconds), (CALLS, {}, seconds))
        )
    points = read_lines(history, POOL_USED)[("job",)]
    assert len(points) == HISTORY_SECONDS / CHART_STEP_SECONDS + 1
    assert points[-1][0] - points[0][0] == HISTORY_SECONDS
    assert len(history._sums) == WINDOW_SECONDS / 5 + 1, "bounded"


def test_an_ended_series_is_dropped_with_its_last_point() -> None:
    """The series of an ended role is dropped when its last point is older than HISTORY_SECONDS."""
    job = ("echo_db_pool_connections", {"role": "job", "state": "used"}, 1.0)
    history = add_scrapes(
        MetricHistory([POOL_USED]), build_scrape(0, job), build_scrape(10), build_scrape(HISTORY_SECONDS + 1)
    )
    assert read_lines(history, POOL_USED) == {}


def test_a_gap_has_neither_points_nor_rates() -> None:
    """Growth during a gap between scrapes is in no rate; the second scrape after the gap has a rate again."""
    query = LATENCY[0]
    history = MetricHistory([query, POOL_USED], [OPERATION_CALLS])
    for seconds, count in ((0, 0), (15, 30), (1_000, 9_000), (1_015, 9_015)):
        buckets = ((BUCKET, {"op": "a", "le": le}, count) for le in ("0.1", "+Inf"))
        add_scrapes(history, build_scrape(seconds, (CALLS, {"op": "a"}, count), *buckets))
        if seconds == 1_000:
            assert history.values[OPERATION_CALLS] == {}
    assert history.values[OPERATION_CALLS] == {("a",): 1.0}
    assert [moment for moment, _ in read_lines(history, query)[()]] == [15, 1_015]


def test_a_clock_that_is_set_back_does_not_stop_the_history() -> None:
    """If the wall clock is set back, rates use the monotonic clock, and later points are dropped."""
    history = MetricHistory([POOL_USED], [OPERATION_CALLS])
    pool = ("echo_db_pool_connections", {"role": "job", "state": "used"}, 1.0)
    for at, seconds, count in ((0, 0, 0), (60, 60, 60), (70, 10, 70), (100, 40, 100)):
        history.add(build_scrape(seconds, pool, (CALLS, {"op": "a"}, count)), at=at)
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
def test_queries_are_written_in_promql(query: Query, promql: str) -> None:
    """Each query has the PromQL text that is sent to Prometheus."""
    assert build_promql(query) == promql


def test_queries_name_their_metrics() -> None:
    """The queries of charts, tables and current samples use these metrics."""
    names = {item.metric for query in (*CHARTED, *TABULATED) for item in list_operands(query)} | {*PRESENT}
    assert {"echo_db_pool_connections", HITS, REQUESTS, BUCKET, "echo_health_status"} <= names
    assert all(name in build_present_promql() for name in ("echo_service_up", "echo_migrations_pending"))


def test_metrics_of_shared_servers_are_not_summed() -> None:
    """Several exporters report the same servers, so the servers' metrics are aggregated by max or min."""
    promql = build_present_promql()
    assert 'max by (__name__) ({__name__=~"echo_migrations_applied|' in promql
    assert 'min by (__name__, service) ({__name__=~"echo_service_up"})' in promql
    own, _, _ = promql.partition(" or ")
    assert "echo_db_pool_connections" in own
    assert not [name for each in REPORTED_BY_ALL for name in each.metrics if name in own]
    assert build_promql(REDIS_MEMORY) == "max (echo_redis_memory_used_bytes)"
