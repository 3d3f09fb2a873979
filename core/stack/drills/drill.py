"""One drill: look, break, look, mend, look, and say whether the metrics told exactly that.

Owns the three phases and the table. The traffic is `echo-markets self-test`, which makes every
call of the service and says whether callers notice.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import psutil
from rich.console import Console
from rich.table import Table

from core.http_client import FetchFailed, fetch
from core.scrape import read_scrape
from core.stack.drills.faults import Fault, Place, hang_valkey, occupy_pool, stop_postgres
from core.stack.drills.signals import (
    GROWS,
    SIGNALS,
    Observation,
    Verdict,
    has_changed,
    is_as_usual,
    judge,
)
from core.stack.errors import StackError
from core.stack.processes import stop_process, wait_until
from core.stack.programs import CLI, STOP_SECONDS, address

FAULT_SECONDS = 10.0
CHANGE_SECONDS = 30.0  # a health check is cached for seconds, a collector has an interval
RECOVERY_SECONDS = 60.0
SELF_TEST_SECONDS = 120.0
ANSWER_SECONDS = 10.0
OBSERVE_SECONDS = 1.0
# Processes publish every second, the exporter keeps a check for two.
PUBLISHED_SECONDS = 3.0


class Drill(NamedTuple):
    """A fault and what it must change, by the name of the signal; all others must not change."""

    fault: Fault
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
                # the one call that reports on Redis itself; no other may notice
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


class Runner:
    """Runs one drill on the stack of one checkout."""

    def __init__(self, place: Place, console: Console) -> None:
        self._place = place
        self._console = console
        self._exporter_url = address("exporter", place.environment)

    def run(self, drill: Drill, *, seconds: float = FAULT_SECONDS) -> bool:
        """Break, watch and mend; print the table and say whether all was as expected."""
        self._say("before: looking for a while")
        if not self._wait(lambda seen: is_as_usual(SIGNALS, seen), CHANGE_SECONDS):
            raise StackError("the stack is not as usual, so a drill says nothing; see `make status`")
        before = self._watch(seconds)
        self._say(f"during: {drill.summary}")
        with drill.fault(self._place):
            self._wait(lambda seen: has_changed(SIGNALS, dict(drill.faulty), seen), CHANGE_SECONDS)
            during = [before[-1], *self._watch(seconds)]
        self._say("after: the fault is undone")
        self._wait(lambda seen: is_as_usual(SIGNALS, seen), RECOVERY_SECONDS)
        # what was counted until here is of the fault
        time.sleep(PUBLISHED_SECONDS)
        after = self._watch(seconds)
        verdicts = [
            judge(item, faulty=drill.faulty.get(item.name), before=before, during=during, after=after)
            for item in SIGNALS
        ]
        self._console.print(build_table(verdicts))
        return all(verdict.is_as_expected for verdict in verdicts)

    def _wait(self, condition: Callable[[Observation], bool], seconds: float) -> bool:
        return wait_until(lambda: condition(self._observe()), seconds=seconds)

    def _watch(self, seconds: float) -> list[Observation]:
        """Look once, make some traffic, and look again until the time is over."""
        deadline = time.monotonic() + seconds
        seen = [self._observe()]
        failed_calls = self._run_self_test()
        time.sleep(PUBLISHED_SECONDS)
        seen.append(self._observe(failed_calls))
        while time.monotonic() < deadline:
            time.sleep(OBSERVE_SECONDS)
            seen.append(self._observe(failed_calls))
        return seen

    def _observe(self, failed_calls: tuple[str, ...] = ()) -> Observation:
        try:
            scrape = read_scrape(self._exporter_url, timeout_seconds=ANSWER_SECONDS)
            health = fetch(f"{self._exporter_url}/api/health/database", timeout_seconds=ANSWER_SECONDS)
        except FetchFailed as error:
            raise StackError(f"no answer of the exporter: {error}; see `make logs NAME=exporter`") from error
        return Observation(scrape, health.status, failed_calls)

    def _run_self_test(self) -> tuple[str, ...]:
        """Return the calls that failed; one made-up name when the whole did."""
        with subprocess.Popen(
            [sys.executable, *CLI, "self-test"],
            env=self._place.environment,
            cwd=self._place.folder.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            try:
                output, _ = process.communicate(timeout=SELF_TEST_SECONDS)
            except subprocess.TimeoutExpired:
                # asked to, it removes what it has made
                stop_process(psutil.Process(process.pid), stop_signal=signal.SIGTERM, seconds=STOP_SECONDS)
                return ("no end",)
        if process.returncode == 0:
            return ()
        return find_failed_calls(output) or ("no start",)

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)


def find_failed_calls(output: str) -> tuple[str, ...]:
    """Return the calls that a self-test reports as failed, in order."""
    words = [line.split() for line in output.splitlines()]
    return tuple(line[1] for line in words if line[:1] == ["FAIL"] and len(line) > 1)


def build_table(verdicts: list[Verdict]) -> Table:
    """Return the verdicts as a table; a line that is not as expected says so in words."""
    table = Table("signal", "before", "during", "after", "expected", "as expected", box=None)
    for verdict in verdicts:
        *texts, is_as_expected = verdict
        table.add_row(*texts, "yes" if is_as_expected else "NO")
    return table
