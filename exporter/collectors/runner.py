"""Runs the collectors of one server in a background thread.

Owns the schedule of the collectors and their latest outcomes. A runner has one connection and at most one
thread. If the server hangs, only this thread waits: at the deadline of a scrape, the collectors count as
failed. A collector that fails does not affect the others. The runner does not depend on the kind of server.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from prometheus_client.core import Metric

logger = logging.getLogger(__name__)

# Interval of a cheap collector. If two Prometheus servers scrape in the same second, they share one run.
BRIEF_SECONDS = 1.0


class ServerAway(Exception):
    """The server cannot be reached. The message says why; the runner logs no traceback."""


class Connection(Protocol):
    """The methods of a connection that a runner uses."""

    @property
    def is_usable(self) -> bool:
        """Whether the next collector can use this connection."""

    def ping(self) -> bool:
        """Return whether the server answers on this connection."""

    def close(self) -> None:
        """Close the connection. Never raises."""


ConnectionType = TypeVar("ConnectionType", bound=Connection)


class Collector(NamedTuple, Generic[ConnectionType]):
    """A source of metrics of a server. Its result is reused until the result is `interval_seconds` old."""

    name: str
    collect: Callable[[ConnectionType], Iterable[Metric]]
    interval_seconds: float


class Outcome(NamedTuple):
    """The result of a collector in a scrape.

    `families` (metrics) is empty if its run failed or has not finished.

    `seconds` is the duration of the latest run, and `succeeded_at` the Unix time of the latest success.
    """

    name: str
    families: Sequence[Metric]
    is_success: bool
    seconds: float
    succeeded_at: float | None


class _Run:
    """The latest run of a collector. Times are from the monotonic clock."""

    def __init__(self, name: str, interval_seconds: float) -> None:
        self.interval_seconds = interval_seconds
        self.outcome = Outcome(name, (), is_success=False, seconds=0.0, succeeded_at=None)
        self.finished = float("-inf")
        self.is_pending = False
        self.has_failed = False

    def is_due(self, now: float) -> bool:
        """Return whether the collector has to run now. Always True after a failure."""
        return not self.outcome.is_success or now - self.finished >= self.interval_seconds


class CollectorRunner(Generic[ConnectionType]):
    """The collectors of one server. Thread safe."""

    def __init__(
        self, connect: Callable[[], ConnectionType], collectors: Sequence[Collector[ConnectionType]]
    ) -> None:
        self._connect = connect
        self._collectors = collectors
        self._runs = {each.name: _Run(each.name, each.interval_seconds) for each in collectors}
        self._connection: ConnectionType | None = None
        self._changed = threading.Condition()
        self._is_running = False
        self._is_closed = False
        self._started = 0.0

    def start(self) -> None:
        """Start a thread that runs the collectors that are due. Does nothing while such a thread runs."""
        with self._changed:
            now = time.monotonic()
            due = [each for each in self._collectors if self._runs[each.name].is_due(now)]
            if self._is_running or self._is_closed or not due:
                return
            self._is_running, self._started = True, now
            for each in due:
                self._runs[each.name].is_pending = True
        names = ", ".join(each.name for each in due)
        threading.Thread(target=self._run, args=(due,), name=f"collect {names}"[:60], daemon=True).start()

    def wait(self, deadline: float) -> list[Outcome]:
        """Return the outcome of every collector.

        A collector that has not finished by `deadline` counts as failed.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: not any(run.is_pending for run in self._runs.values()),
                max(0.0, deadline - time.monotonic()),
            )
            elapsed = time.monotonic() - self._started
            return [
                run.outcome._replace(families=(), is_success=False, seconds=elapsed)
                if run.is_pending
                else run.outcome
                for run in self._runs.values()
            ]

    def close(self) -> None:
        """Prevent further runs and close the connection. An active run closes the connection at its end."""
        with self._changed:
            self._is_closed = True
            if not self._is_running:
                self._disconnect()

    def _run(self, due: Sequence[Collector[ConnectionType]]) -> None:
        try:
            connection = self._open()
            for each in due:
                self._record(each, time.monotonic(), self._collect(each, connection))
        finally:
            with self._changed:
                self._is_running = False
                for each in due:
                    self._runs[each.name].is_pending = False
                if self._is_closed:
                    self._disconnect()
                self._changed.notify_all()

    def _open(self) -> ConnectionType | None:
        """Return the connection, and replace it first if it is broken. Return None if it cannot be opened."""
        try:
            if self._connection is not None and not self._connection.ping():
                self._disconnect()
            if self._connection is None:
                self._connection = self._connect()
        except ServerAway as error:
            names = ", ".join(each.name for each in self._collectors)
            logger.log(self._level(self._collectors[0].name), "%s cannot connect: %s", names, error)
            return None
        except Exception:
            # catch every error: all collectors of this server then report a failure
            logger.log(self._level(self._collectors[0].name), "a collector cannot connect", exc_info=True)
            return None
        return self._connection

    def _level(self, name: str) -> int:
        """Return the log level of a failure: warning for the first failure in a row, then debug."""
        return logging.DEBUG if self._runs[name].has_failed else logging.WARNING

    def _collect(
        self, collector: Collector[ConnectionType], connection: ConnectionType | None
    ) -> list[Metric] | None:
        if connection is None or not connection.is_usable:
            return None
        try:
            # collect all metrics before one is returned: after an error, the first metrics would look like a
            # complete result
            return list(collector.collect(connection))
        except ServerAway as error:
            logger.log(self._level(collector.name), "collector %s failed: %s", collector.name, error)
            return None
        except Exception:
            # catch every error, so that the other collectors still run
            logger.log(self._level(collector.name), "collector %s failed", collector.name, exc_info=True)
            return None

    def _record(
        self, collector: Collector[ConnectionType], started: float, families: list[Metric] | None
    ) -> None:
        finished = time.monotonic()
        run = self._runs[collector.name]
        with self._changed:
            is_success = families is not None
            if is_success and run.has_failed:
                logger.info("collector %s works again", collector.name)
            run.has_failed = not is_success
            run.outcome = Outcome(
                name=collector.name,
                families=families or (),
                is_success=is_success,
                seconds=finished - started,
                succeeded_at=time.time() if is_success else run.outcome.succeeded_at,
            )
            run.finished = finished
            run.is_pending = False
            self._changed.notify_all()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
