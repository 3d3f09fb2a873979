"""Every figure of the Operations page, recomputed from the text of two scrapes and from the servers."""

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


class Two(list[pd.DataFrame]):
    """The samples of two scrapes, a minute apart."""

    def grown(self, name: str, *by: str) -> pd.Series:
        """Return how much a counter grew, by labels."""
        first, last = (self.sums(index, name, *by) for index in (0, 1))
        return last.sub(first, fill_value=0)

    def sums(self, index: int, name: str, *by: str, **labels: str) -> pd.Series:
        """Return the sums of a metric in one scrape, by labels."""
        samples = self[index]
        chosen = samples[samples["name"] == name]
        for label, value in labels.items():
            chosen = chosen[chosen[label] == value]
        return chosen.groupby(list(by))["value"].sum()


@pytest.fixture
def seen(service: EnhancedDatabaseService, settings: Settings) -> tuple[SampledMetrics, Two, Health]:
    """What the page has after two scrapes with play in between, and the same scrapes as text."""
    clock = [0.0]
    texts = Two()
    with served(build_app(service, runners=open_runners(settings, service.metrics))) as port:
        url = f"http://127.0.0.1:{port}"
        sampler = Sampler(service, exporter_url=url, clock=lambda: clock[0])
        service.create_user(username="before_the_first_scrape")
        for seconds in (0.0, SECONDS):
            clock[0] = seconds
            sampler.sample()
            texts.append(read(url))
            if not seconds:
                play(service)
    assert sampler.latest is not None
    assert sampler.latest.metrics is not None
    return sampler.latest.metrics, texts, sampler.latest.health


def read(url: str) -> pd.DataFrame:
    """Return the samples of an exporter's answer."""
    text = fetch(f"{url}/metrics", timeout_seconds=10).body.decode()
    rows = [
        {"name": name, **dict(re.findall(r'(\w+)="([^"]*)"', labels)), "value": float(value)}
        for name, labels, value in LINE.findall(text)
    ]
    return pd.DataFrame(rows)


def play(service: EnhancedDatabaseService) -> None:
    """Cause hits, misses, calls and an error."""
    play_game(service)
    alice = service.get_user_by_username("alice")
    for _ in range(5):
        service.get_user_by_id(alice.id)
        service.get_latest_market_data(["AAPL"])
    service.clear_user_cache(alice.id)
    service.get_user_by_id(alice.id)


def find_panel(title: str) -> charts.Panel:
    """Return a chart by its title."""
    return next(panel for panel in charts.PANELS if panel.title == title)


def read_chart(title: str, metrics: SampledMetrics) -> pd.DataFrame:
    """Return the newest points of a chart."""
    frame = charts.build_frame(find_panel(title), metrics, now=datetime.now(UTC)).dropna()
    newest: pd.DataFrame = frame[frame["time"] == frame["time"].max()]
    return newest


def test_operations_are_calls_errors_and_quantiles_of_the_window(
    seen: tuple[SampledMetrics, Two, Health],
) -> None:
    """Per second over the minute that was measured; quantiles by linear interpolation in the buckets."""
    metrics, two, _ = seen
    shown = tables.OPERATIONS.build(tables.list_operations(metrics.values)).set_index("Operation")
    name = "echo_db_operation_duration_seconds"
    calls = two.grown(f"{name}_count", "op")
    calls = calls[calls > 0]
    assert dict(shown["Calls/s"]) == pytest.approx(dict(calls / SECONDS))
    assert (shown["Errors/s"] == 0).all()
    buckets = two.grown(f"{name}_bucket", "op", "le")
    for op in calls.index:
        for part, label in ((0.5, "p50 (ms)"), (0.95, "p95 (ms)"), (0.99, "p99 (ms)")):
            expected = interpolate(part, {float(le): count for le, count in buckets[op].items()})
            assert shown[label][op] == pytest.approx(expected * 1000)


def interpolate(part: float, counts: dict[float, float]) -> float:
    """Return a quantile: where a cumulative histogram, drawn with straight lines, reaches its part."""
    lower = before = 0.0
    for bound in sorted(counts):
        if counts[bound] >= part * counts[float("inf")]:
            if bound == float("inf"):
                return lower
            return lower + (bound - lower) * (part * counts[float("inf")] - before) / (counts[bound] - before)
        lower, before = bound, counts[bound]
    raise AssertionError("no bucket")


def test_hit_ratios_are_hits_of_requests(seen: tuple[SampledMetrics, Two, Health]) -> None:
    """By cache and tier, over the minute; a request is a hit or a miss, and a bypass is neither."""
    metrics, two, _ = seen
    by = ("cache", "tier")
    hits, misses, requests = (
        two.grown(f"echo_cache_{kind}_total", *by) for kind in ("hits", "misses", "requests")
    )
    assert dict(hits.add(misses, fill_value=0)) == dict(requests)
    asked = requests[requests > 0]
    ratios = (100 * hits.reindex(asked.index, fill_value=0) / asked).to_dict()
    expected = {" · ".join(cast("tuple[str, str]", key)): value for key, value in ratios.items()}
    shown = read_chart("Cache hit ratio", metrics).set_index("series")["value"]
    assert dict(shown) == pytest.approx(expected)
    assert any(0 < value < 100 for value in expected.values()), "a scenario that could show a mistake"


def test_bypasses_are_reads_without_redis_per_second(
    service: EnhancedDatabaseService,
) -> None:
    """Of all processes, in the sentence below the hit ratio."""
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


def test_connections_are_those_of_all_processes(seen: tuple[SampledMetrics, Two, Health]) -> None:
    """In use of the limit, as the pools publish them; the chart has the same by role."""
    metrics, two, health = seen
    cards = {card.label: card for card in tables.build_cards(metrics.scrape, {}, shows_words=True)}
    used = two.sums(1, "echo_db_pool_connections", "role", state="used")
    limits = two.sums(1, "echo_db_pool_max_connections", "role")
    assert cards["Connections in use"].value == f"{used.sum():.0f} of {limits.sum():.0f}"
    assert limits.sum() == health.pool.pool_max
    shown = read_chart("Connections by role", metrics)
    in_use = shown[shown["kind"] == "in use"].set_index("series")["value"]
    assert dict(in_use) == dict(used)


def test_migrations_and_checks_are_those_of_the_servers(
    seen: tuple[SampledMetrics, Two, Health], execute: Execute
) -> None:
    """Migrations as the database has written them down; the status of the one evaluation."""
    metrics, _, health = seen
    cards = {card.label: card for card in tables.build_cards(metrics.scrape, {}, shows_words=True)}
    [(applied,)] = execute("SELECT count(*) FROM schema_migration")
    assert cards["Migrations"].detail == f"{applied} applied"
    assert cards["Stack"].value == health.status.capitalize() == "Healthy"
    assert [cards[name].value for name in ("PostgreSQL", "Redis")] == ["Up", "Up"]


def test_memory_is_what_redis_says(seen: tuple[SampledMetrics, Two, Health], redis_client: Any) -> None:
    """Used and evicted, from its own INFO; the use moves a little while it is asked."""
    metrics, _, _ = seen
    info = redis_client.info()
    [point] = read_chart("Redis memory", metrics)["value"]
    assert point == pytest.approx(info["used_memory"] / 1024 / 1024, rel=0.5)
    text = tables.describe_memory(metrics.scrape)
    assert text.endswith(f"; {info['evicted_keys']:,.0f} keys evicted since Redis started.")


def measure(execute: Execute, expression: str) -> int:
    """Return a size in bytes."""
    [(size,)] = execute(f"SELECT {expression}")
    return int(size or 0)


def test_sizes_are_those_on_disk(service: EnhancedDatabaseService, execute: Execute) -> None:
    """Of a table with its partitions and long values, and of its indexes; no maps of free space."""
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


def test_unused_indexes_have_no_scan(service: EnhancedDatabaseService, execute: Execute) -> None:
    """Those that PostgreSQL counts no scan of, without those of constraints."""
    rows = execute(
        "SELECT indexrelname FROM pg_stat_user_indexes JOIN pg_index USING (indexrelid)"
        " WHERE idx_scan > 0 OR indisunique"
    )
    needed = {name for (name,) in rows}
    shown = set(tables.INDEXES.build(service.list_unused_indexes())["Index"])
    assert shown
    assert not shown & needed
