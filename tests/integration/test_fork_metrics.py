"""Tests of a service that is opened before a fork: each process has correct metrics and health.

Programs such as gunicorn with `--preload`, RQ, Celery's prefork pool and `multiprocessing` do this.
"""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from core import EnhancedDatabaseService, Settings, open_service
from core.metrics import Metrics, open_metrics
from core.service.writes import new_id
from core.stack.ports import find_free_port
from tests.conftest import Execute
from tests.forking import ask_child, forked
from tests.patience import stretch, wait_until

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork"),
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),
]

LIMIT = 3


@pytest.fixture
def shared(settings: Settings, tmp_path: Path) -> Settings:
    """Return settings with a metrics folder that all processes share, and a pool of three connections."""
    return settings.model_copy(
        update={"metrics_dir": tmp_path / "metrics", "database_connection_limit": LIMIT}
    )


@pytest.fixture
def preloaded(shared: Settings) -> Iterator[EnhancedDatabaseService]:
    """Yield a service that the parent has used before it forks."""
    with open_service(shared) as service:
        service.create_user(username="alice")
        service.search_users("a")
        yield service


@pytest.fixture
def sum_metric(shared: Settings) -> Iterator[Callable[..., float]]:
    """Yield a function that adds up a metric over all processes of the host, as the exporter does."""
    exporter = open_metrics("exporter", shared.metrics_dir)

    def add_up(name: str, **labels: str) -> float:
        return sum(
            sample.value
            for family in exporter.collect()
            for sample in family.samples
            if sample.name == name and sample.labels.items() >= labels.items()
        )

    yield add_up
    exporter.close()


def read_gauges(metrics: Metrics) -> dict[str, float]:
    """Return the gauges of this process, without task gauges, which stay after the process has ended."""
    return {
        f"{sample.name} {sorted(sample.labels.items())}": sample.value
        for family in metrics.collect_own()
        if family.type == "gauge" and not family.name.startswith("echo_task_")
        for sample in family.samples
    }


def test_a_child_starts_with_fresh_metrics(shared: Settings, preloaded: EnhancedDatabaseService) -> None:
    """A child and a grandchild start with the metrics of a process that has just opened the service."""
    with open_service(shared) as fresh:
        expected = read_gauges(fresh.metrics)
        counted = (fresh.pool_stats(), fresh.cache_stats())
    assert any(expected.values())

    def work() -> list[Any]:
        begun = (preloaded.pool_stats(), preloaded.cache_stats())
        return [read_gauges(preloaded.metrics), begun == counted]

    assert ask_child(work) == [expected, True]
    grandchild = ask_child(lambda: ask_child(work))
    assert grandchild == [expected, True]


def test_the_exporter_counts_parent_child_and_grandchild(
    preloaded: EnhancedDatabaseService, sum_metric: Callable[..., float]
) -> None:
    """Pool limits and writers of parent, child and grandchild are added up, and each call counts once."""
    stack = ExitStack()
    children: list[Any] = []

    def use() -> bool:
        preloaded.search_users("b")
        return True

    def fork() -> bool:
        children.append(stack.enter_context(forked(use=use)))
        return True

    with forked(use=use, fork=fork, use_grandchild=lambda: children[0].ask("use")) as child:
        assert child.ask("use")
        assert child.ask("fork")
        assert child.ask("use_grandchild")
        wait_until(
            lambda: sum_metric("echo_metrics_writers", role="job") == 3, "the writers are counted", 10.0
        )
        assert sum_metric("echo_db_pool_max_connections", role="job") == 3 * LIMIT
        wait_until(
            lambda: sum_metric("echo_db_pool_connections", role="job", state="idle") == 3,
            "their connections are counted",
            10.0,
        )
        operations = {"op": "search_users", "role": "job"}
        assert sum_metric("echo_db_operation_duration_seconds_count", **operations) == 3
        assert sum_metric("echo_db_operation_duration_seconds_count", op="create_user") == 1
    wait_until(lambda: sum_metric("echo_metrics_writers", role="job") < 3, "the writers are counted", 10.0)


def test_a_child_does_not_count_unpublished_requests_of_its_parent(
    preloaded: EnhancedDatabaseService, sum_metric: Callable[..., float]
) -> None:
    """Cache requests that the parent had not published at the fork are counted once.

    Requests are counted in memory and published once a second.
    """
    alice = preloaded.search_users("alice")[0]
    for _ in range(20):
        preloaded.get_user_by_id(alice.id)
    preloaded.metrics.publish()
    asked = {
        tier: sum_metric("echo_cache_requests_total", cache="user", tier=tier) for tier in ("near", "shared")
    }
    for _ in range(50):
        preloaded.get_user_by_id(alice.id)
    with ExitStack() as stack:
        for _ in range(3):
            child = stack.enter_context(forked(publish=preloaded.metrics.publish))
            child.ask("publish")
        preloaded.metrics.publish()
        new = {
            tier: sum_metric("echo_cache_requests_total", cache="user", tier=tier) - before
            for tier, before in asked.items()
        }
    stats = preloaded.cache_stats().caches["user"]
    assert new["near"] <= 50
    assert new["near"] + new["shared"] >= 50
    assert sum(asked.values()) + sum(new.values()) == stats.near_requests + stats.requests


def test_an_exhausted_forked_worker_makes_the_host_degraded(
    shared: Settings, preloaded: EnhancedDatabaseService
) -> None:
    """If one of two forked workers has an exhausted pool, the exporter reports the host as degraded."""
    held: list[ExitStack] = []

    def hold() -> int:
        """Check out every connection, each in its own thread, as requests do."""
        ready, release = threading.Barrier(LIMIT + 1), threading.Event()

        def request() -> None:
            with preloaded.transaction():
                preloaded.search_users("a")
                ready.wait(20)
                release.wait(60)

        stack = ExitStack()
        for _ in range(LIMIT):
            thread = threading.Thread(target=request)
            thread.start()
            stack.callback(thread.join)
        stack.callback(release.set)
        ready.wait(20)
        held.append(stack)
        return preloaded.pool_stats().pool_in_use

    def release_all() -> bool:
        held.pop().close()
        return True

    def get_status() -> str:
        return preloaded.health().status

    # open the exporter after the fork of the workers, which would otherwise inherit it
    with forked(hold=hold, release_all=release_all, health=get_status) as first:
        with forked(health=get_status) as second, open_service(shared, role="exporter") as exporter:
            assert first.ask("hold") == LIMIT
            wait_until(lambda: check_health(exporter).status == "degraded", "the health has changed", 10.0)
            pool = check_health(exporter).pool
            # four processes: exporter, master and two workers
            assert (pool.pool_max, pool.pool_in_use, pool.is_exhausted) == (4 * LIMIT, LIMIT, True)
            assert (first.ask("health"), second.ask("health")) == ("degraded", "healthy")
            assert preloaded.health().status == "healthy"
            first.ask("release_all")
            wait_until(lambda: check_health(exporter).status == "healthy", "the health has changed", 10.0)
        # a third worker, as if the master replaced a killed one
        with forked(health=get_status) as third, open_service(shared, role="exporter") as exporter:
            assert third.ask("health") == "healthy"
            wait_until(
                lambda: check_health(exporter).pool.pool_max == 4 * LIMIT, "their pools are counted", 10.0
            )


def check_health(service: EnhancedDatabaseService) -> Any:
    """Return the health without the result that is kept for two seconds."""
    service._health._last = None
    return service.health()


def test_a_child_knows_that_redis_is_bypassed(settings: Settings) -> None:
    """A child forked while Redis is bypassed reports this until it has connected to Redis itself."""
    nowhere = SecretStr(f"redis://127.0.0.1:{find_free_port()}/0")
    with open_service(settings.model_copy(update={"redis_url": nowhere})) as service:
        alice = service.create_user(username="alice")
        deadline = time.monotonic() + stretch(10)
        while service.cache_stats().state != "down":
            service.get_user_by_id(alice.id)
            assert time.monotonic() < deadline

        def work() -> list[Any]:
            gauges = read_gauges(service.metrics)
            return [gauges["echo_cache_breaker_open [('role', 'job')]"], service.cache_stats().state]

        assert ask_child(work) == [1.0, "down"]


def test_a_child_does_not_wait_for_the_parents_check_or_scrape(
    shared: Settings, preloaded: EnhancedDatabaseService
) -> None:
    """A child forked during the parent's health check and scrape does not wait to run its own."""
    health, metrics = preloaded._health, preloaded.metrics
    metrics.collect()
    metrics.list_gauges()

    def work() -> list[Any]:
        began = time.monotonic()
        status = preloaded.health().status
        families = metrics.collect()
        gauges = metrics.list_gauges()
        metrics.collect_own()
        return [status, bool(families), len(gauges), time.monotonic() - began]

    under_way = threading.Event()
    original = health._examine_database
    locks = (health._evaluating, metrics._fleet._lock)
    with ExitStack() as held:
        for lock in locks:
            held.enter_context(lock)
        # start a health check that hangs in a thread of the parent
        release = threading.Event()
        held.callback(release.set)
        health._database_check._check = lambda: (under_way.set(), release.wait(60), original())[2]  # type: ignore[func-returns-value]
        health._database_check.start()
        assert under_way.wait(10)
        status, has_families, others, seconds = ask_child(work)
    assert (status, has_families, others) == ("healthy", True, 1)
    assert seconds < stretch(5)


def test_a_child_rolls_back_its_abandoned_transaction(
    preloaded: EnhancedDatabaseService, execute: Execute
) -> None:
    """A child ends a transaction whose thread has ended, because it starts its own watching thread."""
    alice = preloaded.search_users("alice")[0]
    kept: list[Any] = []

    def leave_open() -> bool:
        def begin() -> None:
            kept.append(preloaded.transaction())
            kept[-1].__enter__()
            preloaded.update_user_profile(alice.id, name="left open")

        thread = threading.Thread(target=begin)
        thread.start()
        thread.join()
        return True

    with forked(leave_open=leave_open) as child:
        assert child.ask("leave_open")
        # this waits for the row lock until the child has rolled the transaction back
        execute("UPDATE users SET name = 'other' WHERE id = %s", (alice.id,))
    assert execute("SELECT name FROM users WHERE id = %s", (alice.id,)) == [("other",)]


def test_children_make_different_ids(preloaded: EnhancedDatabaseService) -> None:
    """Children forked from one parent make different ids."""
    assert preloaded.pool_stats().requests_num

    def work() -> list[str]:
        return [str(new_id()) for _ in range(500)]

    with ExitStack() as stack:
        children = [stack.enter_context(forked(work=work)) for _ in range(4)]
        ids = Counter(name for child in children for name in child.ask("work"))
    assert len(ids) == 4 * 500


def test_the_counters_of_an_ended_worker_are_kept(
    preloaded: EnhancedDatabaseService, sum_metric: Callable[..., float]
) -> None:
    """After a worker has ended, its gauges are not counted, and its counters are kept."""

    def use() -> bool:
        preloaded.search_users("b")
        preloaded.metrics.publish()
        return True

    with forked(use=use) as child:
        child.ask("use")
        assert sum_metric("echo_db_pool_max_connections", role="job") == 2 * LIMIT
        os.kill(child.pid, signal.SIGSTOP)
        assert sum_metric("echo_db_pool_max_connections", role="job") == 2 * LIMIT
        os.kill(child.pid, signal.SIGCONT)
    wait_until(
        lambda: sum_metric("echo_db_pool_max_connections", role="job") == LIMIT,
        "their pools are counted",
        10.0,
    )
    assert sum_metric("echo_db_operation_duration_seconds_count", op="search_users") == 2
