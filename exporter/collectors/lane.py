"""Runs the collectors of one server, isolated from each other and from the scrape.

Owns when they run, what they found last, and whose fault a failure is. A lane has one
connection and never more than one thread: a server that hangs keeps that one waiting, while
scrapes report the failure at their deadline and go on. Knows no server.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from prometheus_client.core import Metric

logger = logging.getLogger(__name__)


class Connected(Protocol):
    """A lane's connection."""

    @property
    def is_usable(self) -> bool:
        """Say whether another collector may use it."""

    def ping(self) -> bool:
        """Say whether the server answers on it."""

    def close(self) -> None:
        """Close it; never raises."""


ConnectionType = TypeVar("ConnectionType", bound=Connected)


class Collector(NamedTuple, Generic[ConnectionType]):
    """A source of metrics; what it found is shown again until it is `interval_seconds` old."""

    name: str
    collect: Callable[[ConnectionType], Iterable[Metric]]
    interval_seconds: float


class Outcome(NamedTuple):
    """What a scrape shows of one collector; without families when it failed or is not done.

    `seconds` is what the latest run took, and `succeeded_at` when one worked last, in seconds
    since the epoch.
    """

    name: str
    families: Sequence[Metric]
    is_success: bool
    seconds: float
    succeeded_at: float | None


class _Record:
    """One collector and its latest run; times are monotonic."""

    def __init__(self, name: str, interval_seconds: float) -> None:
        self.interval_seconds = interval_seconds
        self.outcome = Outcome(name, (), is_success=False, seconds=0.0, succeeded_at=None)
        self.finished = float("-inf")
        self.is_pending = False
        self.has_failed = False

    def is_due(self, now: float) -> bool:
        """Say whether it has to run; after a failure always."""
        return not self.outcome.is_success or now - self.finished >= self.interval_seconds


class Lane(Generic[ConnectionType]):
    """The collectors of one server; thread safe."""

    def __init__(
        self, connect: Callable[[], ConnectionType], collectors: Sequence[Collector[ConnectionType]]
    ) -> None:
        self._connect = connect
        self._collectors = collectors
        self._records = {each.name: _Record(each.name, each.interval_seconds) for each in collectors}
        self._connection: ConnectionType | None = None
        self._changed = threading.Condition()
        self._is_running = False
        self._is_closed = False
        self._started = 0.0

    def start(self) -> None:
        """Run what is due, in the background; nothing when the run before has not ended."""
        with self._changed:
            now = time.monotonic()
            due = [each for each in self._collectors if self._records[each.name].is_due(now)]
            if self._is_running or self._is_closed or not due:
                return
            self._is_running, self._started = True, now
            for each in due:
                self._records[each.name].is_pending = True
        names = ", ".join(each.name for each in due)
        threading.Thread(target=self._run, args=(due,), name=f"collect {names}"[:60], daemon=True).start()

    def wait(self, deadline: float) -> list[Outcome]:
        """Return what every collector found; one that is not done by `deadline` has failed."""
        with self._changed:
            self._changed.wait_for(
                lambda: not any(record.is_pending for record in self._records.values()),
                max(0.0, deadline - time.monotonic()),
            )
            elapsed = time.monotonic() - self._started
            return [
                record.outcome._replace(families=(), is_success=False, seconds=elapsed)
                if record.is_pending
                else record.outcome
                for record in self._records.values()
            ]

    def close(self) -> None:
        """Run nothing any more; a run that is under way closes the connection at its end."""
        with self._changed:
            self._is_closed = True
            if not self._is_running:
                self._disconnect()

    def _run(self, due: Sequence[Collector[ConnectionType]]) -> None:
        try:
            connection = self._open()
            for each in due:
                self._note(each, time.monotonic(), self._collect(each, connection))
        finally:
            with self._changed:
                self._is_running = False
                for each in due:
                    self._records[each.name].is_pending = False
                if self._is_closed:
                    self._disconnect()
                self._changed.notify_all()

    def _open(self) -> ConnectionType | None:
        """Return the connection, a new one when that of before died; None when there is none to be had."""
        try:
            if self._connection is not None and not self._connection.ping():
                self._disconnect()
            if self._connection is None:
                self._connection = self._connect()
        except Exception:
            # the edge of the lane: its collectors all fail
            logger.log(self._level(self._collectors[0].name), "a collector cannot connect", exc_info=True)
            return None
        return self._connection

    def _level(self, name: str) -> int:
        """Return how loud a failure is: once is enough for one that lasts."""
        return logging.DEBUG if self._records[name].has_failed else logging.WARNING

    def _collect(
        self, collector: Collector[ConnectionType], connection: ConnectionType | None
    ) -> list[Metric] | None:
        if connection is None or not connection.is_usable:
            return None
        try:
            # as a whole: half a collector's metrics would look like a fact
            return list(collector.collect(connection))
        except Exception:
            # the edge of a collector: the others must still be seen
            logger.log(self._level(collector.name), "collector %s failed", collector.name, exc_info=True)
            return None

    def _note(
        self, collector: Collector[ConnectionType], started: float, families: list[Metric] | None
    ) -> None:
        finished = time.monotonic()
        record = self._records[collector.name]
        with self._changed:
            is_success = families is not None
            if is_success and record.has_failed:
                logger.info("collector %s works again", collector.name)
            record.has_failed = not is_success
            record.outcome = Outcome(
                name=collector.name,
                families=families or (),
                is_success=is_success,
                seconds=finished - started,
                succeeded_at=time.time() if is_success else record.outcome.succeeded_at,
            )
            record.finished = finished
            record.is_pending = False
            self._changed.notify_all()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
