"""A service that is opened before a fork: figures, health and alerts are right in every live process.

As with gunicorn's `--preload`, RQ, Celery's prefork pool and `multiprocessing`.
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
    """Settings whose processes share their metrics."""
    return settings.model_copy(
        update={"metrics_dir": tmp_path / "metrics", "database_connection_limit": LIMIT}
    )


@pytest.fixture
def preloaded(shared: Settings) -> Iterator[EnhancedDatabaseService]:
    """A service that its parent has used before it forks."""
    with open_service(shared) as service:
        service.create_user(username="alice")
        service.search_users("a")
        yield service


@pytest.fixture
def total(shared: Settings) -> Iterator[Callable[..., float]]:
    """Return the sum of a metric over all processes of the host, as the exporter shows it."""
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
    """Return the gauges of this process alone, but for what lasts longer than a process."""
    return {
        f"{sample.name} {sorted(sample.labels.items())}": sample.value
        for family in metrics.collect_own()
        if family.type == "gauge" and not family.name.startswith("echo_task_")
        for sample in family.samples
    }


def test_a_child_begins_with_the_gauges_of_a_process(
    shared: Settings, preloaded: EnhancedDatabaseService
) -> None:
    """Gauges and counters have the values of a process that has just opened the service."""
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


def test_the_exporter_sees_each_process_of_a_family(
    preloaded: EnhancedDatabaseService, total: Callable[..., float]
) -> None:
    """Limits and writers of parent, child and grandchild add up, and each call counts once."""
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
        wait_until(lambda: total("echo_metrics_writers", role="job") == 3, "the writers are counted", 10.0)
        assert total("echo_db_pool_max_connections", role="job") == 3 * LIMIT
        wait_until(
            lambda: total("echo_db_pool_connections", role="job", state="idle") == 3,
            "their connections are counted",
            10.0,
        )
        operations = {"op": "search_users", "role": "job"}
        assert total("echo_db_operation_duration_seconds_count", **operations) == 3
        assert total("echo_db_operation_duration_seconds_count", op="create_user") == 1
    wait_until(lambda: total("echo_metrics_writers", role="job") < 3, "the writers are counted", 10.0)


def test_a_child_does_not_count_what_its_parent_has_still_to_publish(
    preloaded: EnhancedDatabaseService, total: Callable[..., float]
) -> None:
    """The cache counts in memory and publishes once a second; the fork happens in between."""
    alice = preloaded.search_users("alice")[0]
    for _ in range(20):
        preloaded.get_user_by_id(alice.id)
    preloaded.metrics.publish()
    asked = {tier: total("echo_cache_requests_total", cache="user", tier=tier) for tier in ("near", "shared")}
    for _ in range(50):
        preloaded.get_user_by_id(alice.id)
    with ExitStack() as stack:
        for _ in range(3):
            child = stack.enter_context(forked(publish=preloaded.metrics.publish))
            child.ask("publish")
        preloaded.metrics.publish()
        new = {
            tier: total("echo_cache_requests_total", cache="user", tier=tier) - before
            for tier, before in asked.items()
        }
    stats = preloaded.cache_stats().caches["user"]
    assert new["near"] <= 50
    assert new["near"] + new["shared"] >= 50
    assert sum(asked.values()) + sum(new.values()) == stats.near_requests + stats.requests


def test_an_exhausted_worker_of_a_preloaded_program_is_seen(
    shared: Settings, preloaded: EnhancedDatabaseService
) -> None:
    """One of two workers has no connection left, so the host is degraded."""
    held: list[ExitStack] = []

    def hold() -> int:
        """Check every connection out, each in a thread, as requests do."""
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

    def let_go() -> bool:
        held.pop().close()
        return True

    def ask_health() -> str:
        return preloaded.health().status

    # opened after the workers, which would have it as well
    with forked(hold=hold, let_go=let_go, health=ask_health) as first:
        with forked(health=ask_health) as second, open_service(shared, role="exporter") as exporter:
            assert first.ask("hold") == LIMIT
            wait_until(lambda: ask_again(exporter).status == "degraded", "the health has changed", 10.0)
            pool = ask_again(exporter).pool
            # exporter, master and two workers
            assert (pool.pool_max, pool.pool_in_use, pool.is_exhausted) == (4 * LIMIT, LIMIT, True)
            assert (first.ask("health"), second.ask("health")) == ("degraded", "healthy")
            assert preloaded.health().status == "healthy"
            first.ask("let_go")
            wait_until(lambda: ask_again(exporter).status == "healthy", "the health has changed", 10.0)
        # the master replaces a worker that was killed
        with forked(health=ask_health) as third, open_service(shared, role="exporter") as exporter:
            assert third.ask("health") == "healthy"
            wait_until(
                lambda: ask_again(exporter).pool.pool_max == 4 * LIMIT, "their pools are counted", 10.0
            )


def ask_again(service: EnhancedDatabaseService) -> Any:
    """Evaluate without the answer of before."""
    service._health._last = None
    return service.health()


def test_a_child_knows_that_redis_is_bypassed(settings: Settings) -> None:
    """A child forked during an outage reports the bypass until it has connected to Redis itself."""
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


def test_a_child_waits_for_no_check_or_scrape_of_its_parent(
    shared: Settings, preloaded: EnhancedDatabaseService
) -> None:
    """A child forked during a health check and a scrape makes its own without waiting."""
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
        # a check that hangs in a thread of the parent
        release = threading.Event()
        held.callback(release.set)
        health._database_check._check = lambda: (under_way.set(), release.wait(60), original())[2]  # type: ignore[func-returns-value]
        health._database_check.start()
        assert under_way.wait(10)
        status, has_families, others, seconds = ask_child(work)
    assert (status, has_families, others) == ("healthy", True, 1)
    assert seconds < stretch(5)


def test_a_child_rolls_back_what_is_left_open_there(
    preloaded: EnhancedDatabaseService, execute: Execute
) -> None:
    """The child starts its own thread that watches statements and connections."""
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
        # waits for the lock of the row
        execute("UPDATE users SET name = 'other' WHERE id = %s", (alice.id,))
    assert execute("SELECT name FROM users WHERE id = %s", (alice.id,)) == [("other",)]


def test_ids_of_children_are_their_own(preloaded: EnhancedDatabaseService) -> None:
    """Children forked at the same moment make different ids and tokens."""
    assert preloaded.pool_stats().requests_num

    def work() -> list[str]:
        return [str(new_id()) for _ in range(500)]

    with ExitStack() as stack:
        children = [stack.enter_context(forked(work=work)) for _ in range(4)]
        ids = Counter(name for child in children for name in child.ask("work"))
    assert len(ids) == 4 * 500


def test_a_worker_that_is_killed_leaves_its_counts(
    preloaded: EnhancedDatabaseService, total: Callable[..., float]
) -> None:
    """Its gauges end, and its counters are kept."""

    def use() -> bool:
        preloaded.search_users("b")
        preloaded.metrics.publish()
        return True

    with forked(use=use) as child:
        child.ask("use")
        assert total("echo_db_pool_max_connections", role="job") == 2 * LIMIT
        os.kill(child.pid, signal.SIGSTOP)
        assert total("echo_db_pool_max_connections", role="job") == 2 * LIMIT
        os.kill(child.pid, signal.SIGCONT)
    wait_until(
        lambda: total("echo_db_pool_max_connections", role="job") == LIMIT, "their pools are counted", 10.0
    )
    assert total("echo_db_operation_duration_seconds_count", op="search_users") == 2
