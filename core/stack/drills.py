"""Drills: cause a fault in the running stack for a short time, and check that the metrics show it.

Owns the faults, the signals that each fault must change, and the run of a drill: observe, cause the fault,
observe, undo the fault, observe. A drill uses only what an operator has: process ids, supervisord and the
exporter. The load is `echo-markets self-test`, which calls every function of the service and reports the
calls that fail.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from types import MappingProxyType
from typing import NamedTuple

import psutil
from rich.console import Console
from rich.table import Table

from core.errors import StackError
from core.http_client import FetchFailed, fetch
from core.metrics.scrape import read_scrape
from core.stack.drill_signals import (
    ALL_CALLS,
    GROWS,
    SIGNALS,
    Observation,
    Verdict,
    evaluate,
    has_changed,
    is_normal,
)
from core.stack.folder import StackFolder
from core.stack.processes import find_process, stop_process, wait_until
from core.stack.programs import CLI, answers, find_address
from core.stack.start_order import STOP_SECONDS
from core.stack.supervisor import STOPPED_STATES, Supervisor

FAULT_SECONDS = 10.0
# the longest wait until the metrics show a fault: health checks are cached, and collectors run at intervals
CHANGE_SECONDS = 30.0
RECOVERY_SECONDS = 60.0
START_SECONDS = 60.0
SELF_TEST_SECONDS = 120.0
ANSWER_SECONDS = 10.0
OBSERVE_SECONDS = 1.0
# After this time, the exporter reports everything that has happened before: processes publish their metrics
# every second, and the exporter caches a health check for two seconds.
PUBLISHED_SECONDS = 3.0
# A small pool with a timeout of one second, for the process that `occupy_pool` starts.
SMALL_POOL = MappingProxyType({"DATABASE_CONNECTION_LIMIT": "2", "DATABASE_POOL_TIMEOUT": "1000"})

# The start of the last line that `core.selftest` prints if it gives up.
GAVE_UP = "FAIL the rest was not tried"


class RunningStack(NamedTuple):
    """The running stack: its folder, and the environment with which a process connects to it."""

    folder: StackFolder
    environment: Mapping[str, str]


@contextmanager
def hang_valkey(stack: RunningStack) -> Iterator[None]:
    """Pause Valkey during the `with` block: it accepts connections but sends no reply."""
    process = find_process(stack.folder.pid_file("valkey"), root=stack.folder.root)
    if process is None:
        raise StackError("valkey does not run; `make up` starts it")
    try:
        process.send_signal(signal.SIGSTOP)
        yield
    finally:
        # do nothing if the paused process was killed: the supervisor has already started a new one
        with _uninterrupted(), suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGCONT)


@contextmanager
def stop_postgres(stack: RunningStack) -> Iterator[None]:
    """Stop PostgreSQL during the `with` block: connections are closed, and new ones are refused."""
    supervisor = Supervisor(stack.folder)

    def is_stopped() -> bool:
        found = supervisor.states().get("postgres")
        return found is not None and found.state in STOPPED_STATES

    try:
        supervisor.stop_program("postgres")
        if not wait_until(is_stopped, seconds=STOP_SECONDS):
            raise StackError(f"postgres does not stop within {STOP_SECONDS:.0f} s; see `make logs`")
        yield
    finally:
        with _uninterrupted():
            wait_until(is_stopped, seconds=STOP_SECONDS)
            supervisor.start_program("postgres")
            wait_until(lambda: answers("postgres", stack.environment), seconds=START_SECONDS)


@contextmanager
def occupy_pool(stack: RunningStack) -> Iterator[None]:
    """During the `with` block, run a process that uses up its own pool and waits for more connections."""
    command = [sys.executable, *CLI, "occupy-pool"]
    process = subprocess.Popen(command, env={**stack.environment, **SMALL_POOL}, cwd=stack.folder.root)
    try:
        yield
    finally:
        with _uninterrupted():
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ignore Ctrl-C during the block, so that the fault is always undone."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Drill(NamedTuple):
    """A fault, and the signals that it must change.

    `fault` is a context manager that causes the fault and undoes it at the end. `faulty` has the names of the
    signals that must change, each with its expected value during the fault. No other signal may change.
    """

    fault: Callable[[RunningStack], AbstractContextManager[None]]
    summary: str
    faulty: Mapping[str, str]


DRILLS: Mapping[str, Drill] = MappingProxyType(
    {
        "redis": Drill(
            hang_valkey,
            "Valkey hangs (SIGSTOP)",
            {
                "health status": "degraded",
                "redis up": "0",
                "breaker open": "1",
                "collectors failing": "redis",
                # cache_stats fails, because it asks Redis for its state; all other calls work without Redis
                "self-test": "fails: cache_stats",
                "cache bypasses": GROWS,
            },
        ),
        "db": Drill(
            stop_postgres,
            "PostgreSQL is shut down",
            {
                "health status": "unhealthy",
                "health answer": "HTTP 503",
                "database up": "0",
                "collectors failing": "postgres",
                "self-test": "fails",
                "failed operations": GROWS,
            },
        ),
        "pool": Drill(
            occupy_pool,
            "a process of its own holds every connection of its pool",
            {
                "health status": "degraded",
                "pool of the drill in use": "all",
                "pool of the drill waiting": "some",
                "pool timeouts": GROWS,
            },
        ),
    }
)


def run_drill(drill: Drill, stack: RunningStack, console: Console, *, seconds: float) -> bool:
    """Run a drill and print its table. Return whether every signal was as expected.

    Observes the stack for `seconds` each before, during and after the fault. Raises `StackError` if the
    stack is not healthy before the fault, or if the exporter does not answer.
    """

    def print_line(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    def wait(condition: Callable[[Observation], bool], limit_seconds: float) -> bool:
        return wait_until(lambda: condition(_observe(stack)), seconds=limit_seconds)

    print_line("before: observing the healthy stack")
    if not wait(is_normal, CHANGE_SECONDS):
        raise StackError("the stack is not healthy, so a drill would prove nothing; see `make status`")
    before = _watch(stack, seconds)
    print_line(f"during: {drill.summary}")
    with drill.fault(stack):
        wait(lambda observation: has_changed(drill.faulty, observation), CHANGE_SECONDS)
        during = [before[-1], *_watch(stack, seconds)]
    print_line("after: the fault is undone")
    wait(is_normal, RECOVERY_SECONDS)
    # wait until everything that was counted during the fault has been published
    time.sleep(PUBLISHED_SECONDS)
    after = _watch(stack, seconds)
    verdicts = [
        evaluate(item, faulty=drill.faulty.get(item.name), before=before, during=during, after=after)
        for item in SIGNALS
    ]
    console.print(build_table(verdicts))
    return all(verdict.is_as_expected for verdict in verdicts)


def _watch(stack: RunningStack, seconds: float) -> list[Observation]:
    """Observe the stack once, run the self-test, and observe again until `seconds` have passed."""
    deadline = time.monotonic() + seconds
    observations = [_observe(stack)]
    failed_calls = _run_self_test(stack)
    time.sleep(PUBLISHED_SECONDS)
    observations.append(_observe(stack, failed_calls))
    while time.monotonic() < deadline:
        time.sleep(OBSERVE_SECONDS)
        observations.append(_observe(stack, failed_calls))
    return observations


def _observe(stack: RunningStack, failed_calls: tuple[str, ...] = ()) -> Observation:
    url = find_address("exporter", stack.environment)
    try:
        scrape = read_scrape(url, timeout_seconds=ANSWER_SECONDS)
        health = fetch(f"{url}/api/health/database", timeout_seconds=ANSWER_SECONDS)
    except FetchFailed as error:
        raise StackError(f"the exporter does not answer: {error}; see `make logs NAME=exporter`") from error
    return Observation(scrape, health.status, failed_calls)


def _run_self_test(stack: RunningStack) -> tuple[str, ...]:
    """Return the failed calls. "no end" stands for a timeout, "no start" for a failure that names no call."""
    with subprocess.Popen(
        [sys.executable, *CLI, "self-test"],
        env=stack.environment,
        cwd=stack.folder.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=SELF_TEST_SECONDS)
        except subprocess.TimeoutExpired:
            # send SIGTERM first: the self-test then deletes the rows that it has made
            stop_process(psutil.Process(process.pid), stop_signal=signal.SIGTERM, seconds=STOP_SECONDS)
            return ("no end",)
    if process.returncode == 0:
        return ()
    return find_failed_calls(output) or ("no start",)


def find_failed_calls(output: str) -> tuple[str, ...]:
    """Return the calls that the self-test reported as failed, or `ALL_CALLS` if the self-test gave up."""
    if GAVE_UP in output:
        return ALL_CALLS
    words = [line.split() for line in output.splitlines()]
    return tuple(line[1] for line in words if line[:1] == ["FAIL"] and len(line) > 1)


def build_table(verdicts: list[Verdict]) -> Table:
    """Return the verdicts as a table. The last column is NO for each signal that was not as expected."""
    table = Table("signal", "before", "during", "after", "expected", "as expected", box=None)
    for verdict in verdicts:
        *texts, is_as_expected = verdict
        table.add_row(*texts, "yes" if is_as_expected else "NO")
    return table
