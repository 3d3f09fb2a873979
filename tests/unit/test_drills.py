"""How a drill judges the signals that it has observed."""

from datetime import UTC, datetime

import pytest
from prometheus_client.samples import Sample
from pydantic import SecretStr
from rich.console import Console

from core import Settings, open_service
from core.metrics.scrape import Scrape
from core.selftest import run_self_test
from core.stack.drill_signals import (
    ALL_CALLS,
    SIGNALS,
    Observation,
    Verdict,
    evaluate,
    has_changed,
    is_normal,
)
from core.stack.drills import DRILLS, build_table, find_failed_calls
from core.stack.ports import find_free_port

USUAL = {
    "echo_service_up database": 1.0,
    "echo_service_up redis": 1.0,
    "echo_cache_breaker_open job": 0.0,
    "echo_scrape_collector_success redis": 1.0,
    "echo_cache_bypasses_total user": 7.0,
    "echo_db_operation_errors_total 08": 2.0,
    "echo_db_pool_timeouts_total job": 1.0,
}
LABELS = {
    "echo_service_up": "service",
    "echo_cache_breaker_open": "role",
    "echo_scrape_collector_success": "collector",
    "echo_cache_bypasses_total": "cache",
    "echo_db_operation_errors_total": "sqlstate_class",
    "echo_db_pool_timeouts_total": "role",
}


def observe(
    *, status: str = "healthy", code: int = 200, failed: tuple[str, ...] = (), **changes: float
) -> Observation:
    """Return the observation of a normal stack, with these samples changed, for example `redis_up=0`."""
    values = {**USUAL, **{CHANGES[name]: value for name, value in changes.items()}}
    samples = [Sample("echo_health_status", {"status": status}, 1.0)]
    for key, value in values.items():
        name, label = key.split(" ")
        samples.append(Sample(name, {LABELS[name]: label}, value))
    return Observation(Scrape(samples, taken_at=datetime(2013, 3, 1, tzinfo=UTC)), code, failed)


CHANGES = {
    "redis_up": "echo_service_up redis",
    "breaker": "echo_cache_breaker_open job",
    "collector": "echo_scrape_collector_success redis",
    "bypasses": "echo_cache_bypasses_total user",
    "errors": "echo_db_operation_errors_total 08",
}


def judge_redis(*during: Observation, after: Observation | None = None) -> dict[str, Verdict]:
    """Judge the drill on Redis; return its verdicts by the signal's name."""
    usual = observe()
    end = after or observe()
    verdicts = [
        evaluate(
            item,
            faulty=DRILLS["redis"].faulty.get(item.name),
            before=[usual, usual],
            during=[usual, *during],
            after=[end, end],
        )
        for item in SIGNALS
    ]
    return {verdict.signal: verdict for verdict in verdicts}


HUNG = observe(status="degraded", failed=("cache_stats",), redis_up=0, breaker=1, collector=0, bypasses=33)


def list_failing(verdicts: dict[str, Verdict]) -> list[str]:
    """Return the names of the signals that are not as expected."""
    return [name for name, verdict in verdicts.items() if not verdict.is_as_expected]


def test_the_expected_changes_pass_the_drill() -> None:
    """If the fault changes exactly the expected signals, every signal is as expected."""
    verdicts = judge_redis(HUNG)
    assert list_failing(verdicts) == []
    assert verdicts["redis up"][1:5] == ("1", "0", "1", "1 → 0 → 1")
    assert verdicts["cache bypasses"].during == "+26"
    assert verdicts["database up"].expected == "1"


def test_a_signal_that_does_not_change_is_not_as_expected() -> None:
    """If the breaker stays closed and no bypass is counted, these two signals are not as expected."""
    seen = observe(status="degraded", failed=("cache_stats",), redis_up=0, collector=0)
    assert list_failing(judge_redis(seen)) == ["breaker open", "cache bypasses"]


def test_a_signal_that_must_not_change_is_judged_by_all_its_values() -> None:
    """A signal that changed for a moment during the fault is not as expected, and shows both values."""
    flash = observe(status="degraded", code=503, failed=("cache_stats",), redis_up=0, collector=0, bypasses=9)
    verdicts = judge_redis(flash, HUNG)
    assert list_failing(verdicts) == ["health answer"]
    assert verdicts["health answer"].during == "HTTP 200, HTTP 503"


def test_a_counter_is_compared_with_its_value_before_the_fault() -> None:
    """A counter is compared with its value before the fault, so an error during the fault counts."""
    verdicts = judge_redis(HUNG, observe(status="degraded", errors=3))
    assert verdicts["failed operations"].during == "+1"
    assert "failed operations" in list_failing(verdicts)


def test_a_signal_that_does_not_recover_is_not_as_expected() -> None:
    """If the stack is still degraded after the fault, the drill fails."""
    verdicts = judge_redis(HUNG, after=observe(status="degraded", breaker=1))
    assert list_failing(verdicts) == ["health status", "breaker open"]


def test_the_normal_state_and_a_changed_one_are_distinguished() -> None:
    """The normal state and the expected state of a fault are recognised without comparing counters."""
    faulty = dict(DRILLS["redis"].faulty)
    assert is_normal(observe(bypasses=99))
    assert not is_normal(observe(breaker=1))
    assert has_changed({**faulty, "cache bypasses": "grows"}, HUNG)
    assert not has_changed(faulty, observe(redis_up=0))


def build_observation(*samples: Sample) -> Observation:
    """Return an observation of these samples with status 200."""
    return Observation(Scrape(samples, taken_at=datetime(2013, 3, 1, tzinfo=UTC)), 200)


def read_signal(name: str, seen: Observation) -> str | float:
    """Return the value of the signal with this name."""
    return next(item.read(seen) for item in SIGNALS if item.name == name)


@pytest.mark.parametrize("role", ["job", "my-api", "dashboard"])
def test_the_drill_on_the_pool_observes_its_own_pool(role: str) -> None:
    """The drill on the pool ignores the connections of other roles."""

    def pool(role: str, used: float, limit: float, waiting: float) -> list[Sample]:
        return [
            Sample("echo_db_pool_connections", {"role": role, "state": "used"}, used),
            Sample("echo_db_pool_max_connections", {"role": role}, limit),
            Sample("echo_db_pool_pending_requests", {"role": role}, waiting),
        ]

    beside = pool(role, 1, 10, 2)
    before, during = build_observation(*beside), build_observation(*beside, *pool("drill", 2, 2, 3))
    names = ("pool of the drill in use", "pool of the drill waiting")
    assert [read_signal(name, before) for name in names] == ["not all", "none"]
    assert [read_signal(name, during) for name in names] == ["all", "some"]


def test_other_programs_cause_no_fault() -> None:
    """The signals ignore other programs' disabled caches, constraint errors and open breakers."""
    seen = build_observation(
        Sample("echo_cache_bypasses_total", {"role": "my-api", "reason": "disabled"}, 50),
        Sample("echo_cache_bypasses_total", {"role": "job", "reason": "down"}, 2),
        Sample("echo_db_operation_errors_total", {"role": "my-api", "sqlstate_class": "23"}, 9),
        Sample("echo_db_operation_errors_total", {"role": "my-api", "sqlstate_class": "pool"}, 3),
        Sample("echo_db_operation_errors_total", {"role": "job", "sqlstate_class": "08"}, 1),
        Sample("echo_cache_breaker_open", {"role": "my-api"}, 1),
        Sample("echo_cache_breaker_open", {"role": "dashboard"}, 1),
    )
    names = ("cache bypasses", "failed operations", "breaker open")
    assert [read_signal(name, seen) for name in names] == [2, 1, 1]


@pytest.mark.parametrize("name", sorted(DRILLS))
def test_every_signal_of_a_drill_exists(name: str) -> None:
    """Every drill names existing signals, because a misspelt signal would never be judged."""
    faulty = DRILLS[name].faulty
    normal = {item.name: item.normal for item in SIGNALS}
    assert faulty.keys() <= normal.keys()
    assert [key for key, value in faulty.items() if normal[key] == value] == []


def test_failed_calls_are_read_from_the_self_test() -> None:
    """The names of the failed calls are read from the output of a self-test."""
    output = "ok   create_user  1.0 ms\nFAIL cache_stats  0.1 ms  answered 'down'\nfailed: 1\n"
    assert find_failed_calls(output) == ("cache_stats",)
    assert find_failed_calls("") == ()


def test_a_self_test_without_a_database_fails_as_a_whole() -> None:
    """A self-test without a database stops at its first call, so all its calls count as failed."""
    url = SecretStr(f"postgresql://echo:pw@127.0.0.1:{find_free_port()}/echo")
    lines: list[str] = []
    with open_service(Settings(database_url=url, enable_redis_cache=False)) as service:
        assert not run_self_test(service, report=lines.append)
    failed = find_failed_calls("\n".join(lines))
    assert failed == ALL_CALLS
    assert judge_redis(observe(failed=failed))["self-test"].during == "fails"


def test_the_table_marks_unexpected_signals_with_no() -> None:
    """The table has a line per signal, with the word NO for an unexpected value, not only a colour."""
    console = Console(width=140)
    with console.capture() as captured:
        console.print(build_table(list(judge_redis(observe(bypasses=8)).values())))
    lines = captured.get().splitlines()
    assert len(lines) == 1 + len(SIGNALS)
    assert next(line for line in lines if "redis up" in line).split()[-1] == "NO"
    assert next(line for line in lines if "database up" in line).split()[-1] == "yes"
