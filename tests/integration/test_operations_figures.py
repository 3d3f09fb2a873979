"""Every figure of the Operations page equals one calculated from two scrapes or read from the servers."""

import re
from datetime import UTC, datetime
from typing import Any, cast

import pandas as pd
import pytest

from core import EnhancedDatabaseService, Settings
from core.http_client import fetch
from core.records import Health
from dashboard.monitoring.sampler import SampledMetrics, Sampler
from dashboard.pages.operations import charts, tables
from exporter.server import build_app, open_runners
from tests.conftest import Execute
from tests.exporter_server import served
from tests.game import play_game

SECONDS = 60.0
LINE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)", re.MULTILINE)


class TwoScrapes(list[pd.DataFrame]):
    """The samples of two scrapes, a minute apart."""

    def increase(self, name: str, *by: str) -> pd.Series:
        """Return the increase of a counter between the scrapes, by labels."""
        first, last = (self.sum_by(index, name, *by) for index in (0, 1))
        return last.sub(first, fill_value=0)

    def sum_by(self, index: int, name: str, *by: str, **labels: str) -> pd.Series:
        """Return the sum of a metric's samples in one scrape, by labels."""
        samples = self[index]
        chosen = samples[samples["name"] == name]
        for label, value in labels.items():
            chosen = chosen[chosen[label] == value]
        return chosen.groupby(list(by))["value"].sum()


@pytest.fixture
def sampled(
    service: EnhancedDatabaseService, settings: Settings
) -> tuple[SampledMetrics, TwoScrapes, Health]:
    """Return the page's metrics and health after two scrapes with calls between them, and both scrapes."""
    clock = [0.0]
    texts = TwoScrapes()
    with served(build_app(service, runners=open_runners(settings, service.metrics))) as port:
        url = f"http://127.0.0.1:{port}"
        sampler = Sampler(service, exporter_url=url, clock=lambda: clock[0])
        service.create_user(username="before_the_first_scrape")
        for seconds in (0.0, SECONDS):
            clock[0] = seconds
            sampler.sample()
            texts.append(read_samples(url))
            if not seconds:
                play(service)
    assert sampler.latest is not None
    assert sampler.latest.metrics is not None
    return sampler.latest.metrics, texts, sampler.latest.health


def read_samples(url: str) -> pd.DataFrame:
    """Return the samples of an exporter's metrics."""
    text = fetch(f"{url}/metrics", timeout_seconds=10).body.decode()
    rows = [
        {"name": name, **dict(re.findall(r'(\w+)="([^"]*)"', labels)), "value": float(value)}
        for name, labels, value in LINE.findall(text)
    ]
    return pd.DataFrame(rows)


def play(service: EnhancedDatabaseService) -> None:
    """Make calls that cause operations and cache hits and misses."""
    play_game(service)
    alice = service.get_user_by_username("alice")
    for _ in range(5):
        service.get_user_by_id(alice.id)
        service.get_latest_market_data(["AAPL"])
    service.clear_user_cache(alice.id)
    service.get_user_by_id(alice.id)


def find_panel(title: str) -> charts.Panel:
    """Return the chart with this title."""
    return next(panel for panel in charts.PANELS if panel.title == title)


def read_chart(title: str, metrics: SampledMetrics) -> pd.DataFrame:
    """Return the newest points of a chart."""
    frame = charts.build_frame(find_panel(title), metrics, now=datetime.now(UTC)).dropna()
    newest: pd.DataFrame = frame[frame["time"] == frame["time"].max()]
    return newest


def test_operations_table_equals_the_scrapes(
    sampled: tuple[SampledMetrics, TwoScrapes, Health],
) -> None:
    """Calls and errors per second and the latency quantiles equal those calculated from two scrapes."""
    metrics, scrapes, _ = sampled
    shown = tables.OPERATIONS.build(tables.list_operations(metrics.values)).set_index("Operation")
    name = "echo_db_operation_duration_seconds"
    calls = scrapes.increase(f"{name}_count", "op")
    calls = calls[calls > 0]
    assert dict(shown["Calls/s"]) == pytest.approx(dict(calls / SECONDS))
    assert (shown["Errors/s"] == 0).all()
    buckets = scrapes.increase(f"{name}_bucket", "op", "le")
    for op in calls.index:
        for part, label in ((0.5, "p50 (ms)"), (0.95, "p95 (ms)"), (0.99, "p99 (ms)")):
            expected = calculate_quantile(part, {float(le): count for le, count in buckets[op].items()})
            assert shown[label][op] == pytest.approx(expected * 1000)


def calculate_quantile(part: float, counts: dict[float, float]) -> float:
    """Return a quantile of a cumulative histogram by linear interpolation within its bucket."""
    lower = before = 0.0
    for bound in sorted(counts):
        if counts[bound] >= part * counts[float("inf")]:
            if bound == float("inf"):
                return lower
            return lower + (bound - lower) * (part * counts[float("inf")] - before) / (counts[bound] - before)
        lower, before = bound, counts[bound]
    raise AssertionError("no bucket")


def test_hit_ratios_are_hits_divided_by_requests(sampled: tuple[SampledMetrics, TwoScrapes, Health]) -> None:
    """The hit ratio of each cache and tier is its hits divided by its hits and misses between the scrapes."""
    metrics, scrapes, _ = sampled
    by = ("cache", "tier")
    hits, misses, requests = (
        scrapes.increase(f"echo_cache_{kind}_total", *by) for kind in ("hits", "misses", "requests")
    )
    assert dict(hits.add(misses, fill_value=0)) == dict(requests)
    asked = requests[requests > 0]
    ratios = (100 * hits.reindex(asked.index, fill_value=0) / asked).to_dict()
    expected = {" · ".join(cast("tuple[str, str]", key)): value for key, value in ratios.items()}
    shown = read_chart("Cache hit ratio", metrics).set_index("series")["value"]
    assert dict(shown) == pytest.approx(expected)
    assert any(0 < value < 100 for value in expected.values()), "a ratio that is neither 0 nor 100"


def test_bypasses_are_shown_per_second(
    service: EnhancedDatabaseService,
) -> None:
    """The text below the hit ratio shows reads without Redis per second between two scrapes."""
    clock = [0.0]
    with served(build_app(service)) as port:
        sampler = Sampler(service, exporter_url=f"http://127.0.0.1:{port}", clock=lambda: clock[0])
        service.metrics.count_cache_bypasses("user", "down", 3)
        sampler.sample()
        service.metrics.count_cache_bypasses("user", "down", 30)
        clock[0] = SECONDS
        sampler.sample()
    assert sampler.latest is not None
    assert sampler.latest.metrics is not None
    assert tables.describe_bypasses(sampler.latest.metrics.values).startswith("0.50 reads/s")


def test_connections_are_summed_over_all_pools(sampled: tuple[SampledMetrics, TwoScrapes, Health]) -> None:
    """The card shows used connections and limits, summed over all pools, and the chart shows them by role."""
    metrics, scrapes, health = sampled
    cards = {card.label: card for card in tables.build_cards(metrics.scrape, {}, shows_reasons=True)}
    used = scrapes.sum_by(1, "echo_db_pool_connections", "role", state="used")
    limits = scrapes.sum_by(1, "echo_db_pool_max_connections", "role")
    assert cards["Connections in use"].value == f"{used.sum():.0f} of {limits.sum():.0f}"
    assert limits.sum() == health.pool.pool_max
    shown = read_chart("Connections by role", metrics)
    in_use = shown[shown["kind"] == "in use"].set_index("series")["value"]
    assert dict(in_use) == dict(used)


def test_migrations_and_status_equal_those_of_the_servers(
    sampled: tuple[SampledMetrics, TwoScrapes, Health], execute: Execute
) -> None:
    """The cards show the number of rows in `schema_migration` and the status of the health evaluation."""
    metrics, _, health = sampled
    cards = {card.label: card for card in tables.build_cards(metrics.scrape, {}, shows_reasons=True)}
    [(applied,)] = execute("SELECT count(*) FROM schema_migration")
    assert cards["Migrations"].detail == f"{applied} applied"
    assert cards["Stack"].value == health.status.capitalize() == "Healthy"
    assert [cards[name].value for name in ("PostgreSQL", "Redis")] == ["Up", "Up"]


def test_memory_equals_that_of_redis_info(
    sampled: tuple[SampledMetrics, TwoScrapes, Health], redis_client: Any
) -> None:
    """Used memory (within 50 %, because it varies) and evicted keys equal those of the Redis command INFO."""
    metrics, _, _ = sampled
    info = redis_client.info()
    [point] = read_chart("Redis memory", metrics)["value"]
    assert point == pytest.approx(info["used_memory"] / 1024 / 1024, rel=0.5)
    text = tables.describe_memory(metrics.scrape)
    assert text.endswith(f"; {info['evicted_keys']:,.0f} keys evicted since Redis started.")


def measure(execute: Execute, expression: str) -> int:
    """Return the size in bytes that an SQL expression calculates."""
    [(size,)] = execute(f"SELECT {expression}")
    return int(size or 0)


def test_table_sizes_equal_those_on_disk(service: EnhancedDatabaseService, execute: Execute) -> None:
    """Sizes include partitions, TOAST and indexes, but not free space maps."""
    play_game(service)
    shown = tables.SIZES.build(service.list_table_sizes()).set_index("Table")
    for table in ("users", "ticks", "leaderboard_entries"):
        parts = execute(
            "SELECT relid, reltoastrelid FROM (SELECT inhrelid AS relid FROM pg_inherits"
            f" WHERE inhparent = '{table}'::regclass UNION SELECT '{table}'::regclass) p"
            " JOIN pg_class c ON c.oid = relid"
        )
        size = sum(measure(execute, f"pg_relation_size({oid})") for pair in parts for oid in pair if oid)
        indexes = sum(
            measure(execute, f"pg_relation_size({index})")
            for relid, _ in parts
            for (index,) in execute(f"SELECT indexrelid FROM pg_index WHERE indrelid = {relid}")
        )
        assert shown["Table (MiB)"][table] == pytest.approx(size / 1024**2)
        assert shown["Indexes (MiB)"][table] == pytest.approx(indexes / 1024**2)


def test_unused_indexes_have_no_scans(service: EnhancedDatabaseService, execute: Execute) -> None:
    """The table of unused indexes has no unique index and no index with a scan."""
    rows = execute(
        "SELECT indexrelname FROM pg_stat_user_indexes JOIN pg_index USING (indexrelid)"
        " WHERE idx_scan > 0 OR indisunique"
    )
    needed = {name for (name,) in rows}
    shown = set(tables.INDEXES.build(service.list_unused_indexes())["Index"])
    assert shown
    assert not shown & needed
