"""Tests of the metrics of all kinds of processes in one exporter, and of the number of series."""

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from frozendict import frozendict
from prometheus_client import Metric

from core import EnhancedDatabaseService, Settings
from core.metrics.fleet import FleetReader
from core.metrics.writer import MetricWriter
from core.records import Tick, User
from core.service.writes import new_id
from core.simulation.replay import plan_seed
from exporter.exposition import Exposition
from tests.conftest import Execute
from tests.market_days import import_days, write_days
from tests.patience import wait_until

USERS = 10_000
SYMBOLS = 500


@pytest.fixture
def environment(settings: Settings, tmp_path: Path) -> dict[str, str]:
    """Return the environment of a process that uses the test's servers."""
    assert settings.redis_password is not None
    return {
        **os.environ,
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "REDIS_URL": settings.redis_url.get_secret_value(),
        "REDIS_PASSWORD": settings.redis_password.get_secret_value(),
        "METRICS_DIR": str(tmp_path / "metrics"),
        "SIMULATOR_INTERVAL": "100",
    }


def collect(environment: dict[str, str]) -> list[Metric]:
    """Return the metric families that an exporter reads from the processes' files."""
    return FleetReader(MetricWriter(), Path(environment["METRICS_DIR"])).collect()


def find_value(families: list[Metric], name: str, **labels: str) -> float:
    """Return the value of a sample, or 0 if it is missing."""
    return next(
        (
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and sample.labels == labels
        ),
        0,
    )


def run_command(environment: dict[str, str], repository: Path, *arguments: str) -> None:
    """Run an `echo-markets` command until it ends."""
    command = [sys.executable, "-m", "core.cli", *arguments]
    subprocess.run(command, cwd=repository, env=environment, check=True, capture_output=True)


def test_ended_jobs_keep_their_counts(
    environment: dict[str, str], repository: Path, tmp_path: Path, execute: Execute
) -> None:
    """After the jobs migrate, import and seed have ended, their counters are still collected."""
    prices = write_days(tmp_path / "days.csv", "2013-02-25")
    run_command(environment, repository, "migrate", "up")
    run_command(environment, repository, "import-prices", str(prices))
    run_command(environment, repository, "seed", "--players", "5", "--sessions", "2")
    families = collect(environment)
    count = "echo_db_operation_duration_seconds_count"
    for operation in ("migrate_up", "load_market_ticks", "load_users"):
        assert find_value(families, count, op=operation, role="job") > 0
    assert find_value(families, "echo_metrics_writers", role="job") == 0


def test_a_killed_simulator_keeps_its_last_success(
    environment: dict[str, str], repository: Path, service: EnhancedDatabaseService, tmp_path: Path
) -> None:
    """After SIGKILL the simulator's last success and interval are kept, so an alert can report it as late."""
    import_days(service, tmp_path, "2013-02-25")
    plan_seed(service, players=5, sessions=2, seed=1).run()
    name = "echo_task_last_success_timestamp_seconds"
    command = [sys.executable, "-m", "core.cli", "simulate"]
    with subprocess.Popen(command, cwd=repository, env=environment) as simulator:
        try:
            wait_until(
                lambda: find_value(collect(environment), name, task="simulator") > 0, "it is published", 30.0
            )
            families = collect(environment)
            assert find_value(families, "echo_metrics_writers", role="simulator") == 1
            assert find_value(families, "echo_task_interval_seconds", task="simulator") == 0.1
        finally:
            simulator.kill()
    families = collect(environment)
    assert find_value(families, name, task="simulator") > 0
    assert find_value(families, "echo_task_interval_seconds", task="simulator") == 0.1
    assert find_value(families, "echo_metrics_writers", role="simulator") == 0


def test_a_simulator_that_is_stopped_is_not_late(
    environment: dict[str, str], repository: Path, service: EnhancedDatabaseService, tmp_path: Path
) -> None:
    """After SIGTERM the simulator's interval is 0, so no alert counts it as late."""
    import_days(service, tmp_path, "2013-02-25")
    command = [sys.executable, "-m", "core.cli", "simulate"]
    with subprocess.Popen(command, cwd=repository, env=environment) as simulator:
        name = "echo_task_interval_seconds"
        wait_until(
            lambda: find_value(collect(environment), name, task="simulator") == 0.1, "it is published", 30.0
        )
        simulator.send_signal(signal.SIGTERM)
    assert find_value(collect(environment), name, task="simulator") == 0


def test_series_do_not_grow_with_users_and_symbols(service: EnhancedDatabaseService) -> None:
    """With 10,000 users and 500 symbols a scrape has fewer than 1,000 series and no username or symbol."""
    now = datetime.now(UTC)
    users = [make_user(f"player_{number}", now) for number in range(USERS)]
    service.load_users(users)
    service.load_market_ticks(make_tick(f"S{number}", now) for number in range(SYMBOLS))
    for user in users[:SYMBOLS]:
        service.get_user_by_id(user.id)
        service.get_current_portfolio(user.id)
        service.get_user_active_quests(user.id)
        service.update_leaderboard_entry(user.id, "daily_returns", Decimal(1))
    for number in range(SYMBOLS):
        service.get_latest_market_data([f"S{number}"])
    service.search_users("player_1", limit=50)
    service.get_leaderboard("daily_returns", now.date(), 50)
    service.get_recent_market_events(20)
    service.warm_cache()
    text = Exposition(service).build().decode()
    series = [line for line in text.splitlines() if not line.startswith("#")]
    assert 100 < len(series) < 1000
    assert "player_" not in text
    assert "S499" not in text
    assert 'echo_task_last_success_timestamp_seconds{task="warm_cache"}' in text


def make_user(username: str, now: datetime) -> User:
    """Return a new player."""
    return User(
        id=new_id(),
        username=username,
        name=None,
        email=None,
        last_active=now,
        preferences=frozendict(),
        created_at=now,
        updated_at=now,
    )


def make_tick(symbol: str, timestamp: datetime) -> Tick:
    """Return a tick with the price 10."""
    return Tick(symbol=symbol, timestamp=timestamp, price=Decimal(10), volume=1)
