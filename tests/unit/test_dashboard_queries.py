"""Rates, ratios and quantiles from a few scrapes, and the same questions in PromQL."""

from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client.samples import Sample

from core.metrics.scrape import Scrape
from dashboard.pages.operations.queries import (
    CHARTED,
    GAP_SECONDS,
    HIT_RATIO,
    LATENCY,
    OPERATION_CALLS,
    OPERATION_LATENCY,
    POOL_USED,
    PRESENT,
    TABULATED,
    History,
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


def test_a_gauge_is_summed_over_processes() -> None:
    """Used connections by role; idle ones are no part of it."""
    history = History([POOL_USED])
    labels = [{"role": "job", "state": "used"}, {"role": "job", "state": "idle"}]
    history.add(take(0, *(("echo_db_pool_connections", item, 2) for item in labels)))
    [line] = history.read_series(POOL_USED, window_seconds=60)
    assert (line.labels, [value for _, value in line.points]) == (("job",), [2])


def test_a_rate_is_what_a_counter_grew_by() -> None:
    """Per second over the window, summed over roles."""
    history = History([OPERATION_CALLS])
    for seconds, count in ((0, 100), (10, 120), (20, 130)):
        labels = [{"op": "get_leaderboard", "role": role} for role in ("job", "dashboard")]
        history.add(take(seconds, *((CALLS, item, count) for item in labels)))
    assert history.read_values(OPERATION_CALLS, window_seconds=60) == {("get_leaderboard",): 3.0}
    assert history.read_values(OPERATION_CALLS, window_seconds=10) == {("get_leaderboard",): 2.0}


def test_a_counter_that_went_down_was_started_anew() -> None:
    """No negative rate after a restart; what it counted since then counts."""
    history = History([OPERATION_CALLS])
    for seconds, count in ((0, 100), (10, 110), (20, 5)):
        history.add(calls(seconds, count))
    assert history.read_values(OPERATION_CALLS, window_seconds=60) == {("get_user_by_id",): 0.75}


def test_a_series_that_appears_later_counts_from_nothing() -> None:
    """The first error of an operation is seen, as is one that a failed collector left out meanwhile."""
    history = History([OPERATION_CALLS])
    history.add(calls(0, 7, op="a"))
    history.add(take(10, (CALLS, {"op": "b"}, 4)))
    history.add(take(20, (CALLS, {"op": "a"}, 9), (CALLS, {"op": "b"}, 4)))
    assert history.read_values(OPERATION_CALLS, window_seconds=60) == {("a",): 0.1, ("b",): 0.2}


def test_the_hit_ratio_needs_traffic() -> None:
    """A cache that nobody asked has no ratio, rather than a bad one."""
    history = History([HIT_RATIO])
    user, quests = {"cache": "user", "tier": "near"}, {"cache": "quests", "tier": "near"}
    for seconds, hits, requests in ((0, 0, 0), (10, 30, 40)):
        history.add(take(seconds, (HITS, user, hits), (REQUESTS, user, requests), (REQUESTS, quests, 5)))
    assert history.read_values(HIT_RATIO, window_seconds=60) == {("user", "near"): 0.75}


def test_quantiles_are_of_the_window() -> None:
    """Slow calls of before do not show any more, in all and by operation."""
    history = History([*LATENCY, *OPERATION_LATENCY])
    for seconds, fast, slow in ((0, 0, 50), (10, 100, 50)):
        counts = {"0.1": fast, "1.0": fast + slow, "+Inf": fast + slow}
        history.add(take(seconds, *((BUCKET, {"op": "a", "le": le}, n) for le, n in counts.items())))
    assert history.read_values(LATENCY[1], window_seconds=60) == {(): pytest.approx(0.095)}
    assert history.read_values(OPERATION_LATENCY[1], window_seconds=60) == {("a",): pytest.approx(0.095)}


def test_one_scrape_has_no_rates() -> None:
    """A rate needs two; a gauge does not."""
    history = History((*CHARTED, *TABULATED))
    history.add(calls(0, 1))
    assert history.read_values(OPERATION_CALLS, window_seconds=60) == {}
    assert [history.read_series(query, window_seconds=60) for query in LATENCY] == [(), (), ()]


def test_the_history_is_bounded_and_in_order() -> None:
    """The oldest leave, a scrape that came late is left out, and a long gap begins anew."""
    history = History([OPERATION_CALLS], points=3)
    for seconds in range(5):
        history.add(calls(seconds, seconds))
    history.add(calls(2, 0))
    assert len(history) == 3
    [line] = history.read_series(OPERATION_CALLS, window_seconds=60)
    assert [moment for moment, _ in line.points] == [START + timedelta(seconds=n) for n in (3, 4)]
    history.add(calls(5 + GAP_SECONDS, 1_000))
    assert len(history) == 1


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
    """What Prometheus is asked instead."""
    assert build_promql(query) == promql


def test_every_metric_is_named_once() -> None:
    """The list that others check against a real scrape has all of them."""
    names = {item.metric for query in (*CHARTED, *TABULATED) for item in list_operands(query)} | {*PRESENT}
    assert {"echo_db_pool_connections", HITS, REQUESTS, BUCKET, "echo_health_status"} <= names
    assert all(name in build_present_promql() for name in ("echo_service_up", "echo_migrations_pending"))
