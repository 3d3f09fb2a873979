"""The signals that a drill observes, such as "redis up", and their comparison with the expected values.

Contains pure functions only. The values of signals are states, numbers or names. All are compared as text.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from core.metrics.scrape import Scrape

GROWS, STILL = "grows", "still"
NONE = "none"
# With more failed calls than this, the table shows "fails" without the names of the calls.
NAMED_CALLS = 3
# The value of `Observation.failed_calls` if the self-test gave up because no call can succeed.
ALL_CALLS = ("all",)
# The value of the label `role` in the metrics of `echo-markets occupy-pool`.
DRILL_ROLE = "drill"
CONSTRAINT_CLASS = "23"


class Observation(NamedTuple):
    """A scrape of the stack, the HTTP status of its health endpoint, and the failed calls of a self-test."""

    scrape: Scrape
    health_code: int
    failed_calls: tuple[str, ...] = ()


class Signal(NamedTuple):
    """A value that can be read from an observation. For a counter, only its growth is compared."""

    name: str
    read: Callable[[Observation], str | float]
    normal: str
    is_counter: bool = False


class Verdict(NamedTuple):
    """One line of a drill's table: the observed and the expected values of a signal."""

    signal: str
    before: str
    during: str
    after: str
    expected: str
    is_as_expected: bool


def evaluate(
    signal: Signal,
    *,
    faulty: str | None,
    before: Sequence[Observation],
    during: Sequence[Observation],
    after: Sequence[Observation],
) -> Verdict:
    """Compare the values of a signal before, during and after a fault with the expected values.

    `faulty` is the value that the fault must cause; the last value during the fault is compared with it. If
    `faulty` is None, the signal must not change, and all values during the fault are compared. `during`
    begins with the last observation before the fault, so that it shows the whole growth of a counter.
    """
    expected = signal.normal if faulty is None else faulty
    values = [
        describe(signal, before),
        describe(signal, during, is_settled=faulty is not None),
        describe(signal, after),
    ]
    texts = [format_growth(signal, part) for part in (before, during, after)] if signal.is_counter else values
    is_as_expected = values == [signal.normal, expected, signal.normal]
    path = signal.normal if faulty is None else f"{signal.normal} → {expected} → {signal.normal}"
    return Verdict(
        signal=signal.name,
        before=texts[0],
        during=texts[1],
        after=texts[2],
        expected=path,
        is_as_expected=is_as_expected,
    )


def describe(signal: Signal, observations: Sequence[Observation], *, is_settled: bool = True) -> str:
    """Return the last value of a signal as text. If `is_settled` is False, return all its distinct values.

    For a counter, return GROWS if its value has grown, else STILL.
    """
    values = [signal.read(item) for item in observations]
    if signal.is_counter:
        return GROWS if float(values[-1]) > float(values[0]) else STILL
    texts = [_text(value) for value in values]
    return texts[-1] if is_settled else ", ".join(dict.fromkeys(texts))


def format_growth(signal: Signal, observations: Sequence[Observation]) -> str:
    """Return the growth of a counter as text, such as "+12"."""
    return f"+{float(signal.read(observations[-1])) - float(signal.read(observations[0])):,.0f}"


def is_normal(observation: Observation) -> bool:
    """Return whether every signal has its normal value. Counters are not checked."""
    return all(_text(item.read(observation)) == item.normal for item in SIGNALS if not item.is_counter)


def has_changed(faulty: Mapping[str, str], observation: Observation) -> bool:
    """Return whether every signal has the value that `faulty` expects of it. Counters are not checked."""
    return all(
        _text(item.read(observation)) == faulty[item.name]
        for item in SIGNALS
        if item.name in faulty and not item.is_counter
    )


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _read_up(service: str) -> Callable[[Observation], str | float]:
    def read(observation: Observation) -> str | float:
        value = observation.scrape.find("echo_service_up", service=service)
        return "absent" if value is None else value

    return read


def _read_failing(observation: Observation) -> str:
    """Return the names of the servers whose collectors fail.

    The name of a collector begins with its server: if `postgres_tables` fails, the name is "postgres".
    """
    collectors = observation.scrape.sum_by("echo_scrape_collector_success", "collector")
    failing = {name.partition("_")[0] for (name,), works in collectors.items() if not works}
    return ", ".join(sorted(failing)) or NONE


def _read_failed_operations(observation: Observation) -> float:
    """Return the number of failed operations, without pool timeouts and violated constraints.

    Pool timeouts have their own signal. Other programs may violate constraints at any time.
    """
    name = "echo_db_operation_errors_total"
    others = (observation.scrape.total(name, sqlstate_class=state) for state in ("pool", CONSTRAINT_CLASS))
    return observation.scrape.total(name) - sum(others)


def _read_bypasses(observation: Observation) -> float:
    """Return the number of reads that bypassed Redis, except in programs in which Redis is disabled."""
    name = "echo_cache_bypasses_total"
    return observation.scrape.total(name) - observation.scrape.total(name, reason="disabled")


def _read_self_test(observation: Observation) -> str:
    if not observation.failed_calls:
        return "passes"
    if observation.failed_calls == ALL_CALLS or len(observation.failed_calls) > NAMED_CALLS:
        return "fails"
    return f"fails: {', '.join(observation.failed_calls)}"


def _read_waiting(observation: Observation) -> str:
    return "some" if observation.scrape.total("echo_db_pool_pending_requests", role=DRILL_ROLE) else NONE


def _read_occupied(observation: Observation) -> str:
    limit = observation.scrape.total("echo_db_pool_max_connections", role=DRILL_ROLE)
    used = observation.scrape.total("echo_db_pool_connections", role=DRILL_ROLE, state="used")
    return "all" if limit and used >= limit else "not all"


SIGNALS = (
    Signal("health status", lambda observation: observation.scrape.find_status() or "unknown", "healthy"),
    Signal("health answer", lambda observation: f"HTTP {observation.health_code}", "HTTP 200"),
    Signal("database up", _read_up("database"), "1"),
    Signal("redis up", _read_up("redis"), "1"),
    # 1 if any breaker is open: the number of open breakers depends on which programs read during the fault
    Signal(
        "breaker open",
        lambda observation: float(observation.scrape.total("echo_cache_breaker_open") > 0),
        "0",
    ),
    Signal("collectors failing", _read_failing, NONE),
    Signal("self-test", _read_self_test, "passes"),
    Signal("pool of the drill in use", _read_occupied, "not all"),
    Signal("pool of the drill waiting", _read_waiting, NONE),
    Signal("cache bypasses", _read_bypasses, STILL, is_counter=True),
    Signal("failed operations", _read_failed_operations, STILL, is_counter=True),
    Signal(
        "pool timeouts",
        lambda observation: observation.scrape.total("echo_db_pool_timeouts_total"),
        STILL,
        is_counter=True,
    ),
)
