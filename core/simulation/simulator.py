"""The simulator of the live market: prices continue from the last close, and players trade.

Runs one step per interval, opens a new session at midnight UTC, and retries while the database is
unavailable. When several simulators use one database, one runs the market and the others wait. All persistent
state is in the database: after an error, or in a new process, the simulator reads the session again and
continues it.
"""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from types import FrameType
from typing import Final

from numpy.random import Generator, default_rng

from core.backoff import Backoff
from core.database.process_lock import ProcessLock
from core.database.read_consistency import reads_on_primary
from core.errors import DatabaseError, EchoMarketsError, PoolClosed
from core.service import EnhancedDatabaseService
from core.simulation.catch_up import play_missed_sessions
from core.simulation.history import DailyPrices
from core.simulation.live_market import DAY, LiveMarket, open_market
from core.simulation.live_players import LivePlayers, list_players, open_players
from core.simulation.live_quests import LiveQuests, open_quests
from core.simulation.players import add_newcomers

logger = logging.getLogger(__name__)

FIRST_RETRY_SECONDS: Final = 1.0
MAX_RETRY_SECONDS: Final = 30.0
"""The longest pause between retries: pauses double from FIRST_RETRY_SECONDS to this.

Short pauses are for a restart of the database, long pauses for an outage.
"""

UPKEEP_SECONDS: Final = 60.0
"""The interval at which quests are expired, the audit log is sealed, and the list of players is checked."""

SEAL_SECONDS: Final = 5 * UPKEEP_SECONDS
"""Monitoring expects a new seal of the audit log at this interval. An alert fires after twice this time.

The interval is longer than UPKEEP_SECONDS, because a step may take longer than usual.
"""

LOCK: Final = 0x6D6F7665
"""The key of the advisory lock that only one simulator holds: an arbitrary constant ("move" in ASCII)."""

STOP_CHECK_SECONDS: Final = 0.1
"""The interval between checks for a stop signal."""

STOP_SECONDS: Final = 0.8
"""How long `run_simulator` waits for the current step after a stop signal.

Then it returns, and its caller closes the connections, which ends a call that hangs.
"""


class Stopped(Exception):  # not named ...Error: a stop is a request and not a failure
    """Raised in the middle of a step when the simulator was asked to stop."""


@dataclass
class LiveSession:
    """The live session of one UTC day. Its players and quests are None until its first prices are written."""

    day: date
    market: LiveMarket
    players: LivePlayers | None = None
    quests: LiveQuests | None = None


class Simulator:
    """Runs the live market; not thread safe."""

    def __init__(
        self,
        service: EnhancedDatabaseService,
        *,
        interval_seconds: float,
        stop: threading.Event,
        audit_keep_months: int | None = None,
        lock: ProcessLock | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        generator: Generator | None = None,
    ) -> None:
        """Without `lock`, this process runs the market even if another process runs it too."""
        self._service = service
        self._interval_seconds = interval_seconds
        self._stop = stop
        self._audit_keep_months = audit_keep_months
        self._lock = lock
        self._is_active: bool | None = None
        self._clock = clock
        self._generator = generator or default_rng()
        self._daily = DailyPrices()
        self._session: LiveSession | None = None
        self._upkeep_done = time.monotonic()

    def step(self) -> None:
        """Move prices once, and update players and quests. On a new day, change to a new session.

        Raises the errors of the service. After an error, the next step reads the session again.
        """
        now = self._clock()
        session, self._session = self._session, None
        today = now.astimezone(UTC).date()
        if session is None or session.day != today:
            # read from the primary: a replica may lack rows that another simulator wrote a moment ago
            with reads_on_primary():
                session = self._open(today)
        self._move(session, now)
        if session.players is None or session.quests is None:
            with reads_on_primary():
                session.players, session.quests = self._open_players(session)
        result = session.players.value()
        if session.players.write(self._service, result):
            session.quests.advance(result, self._check_stop)
            self._session = session
        self._do_upkeep(session.players)

    def run(self) -> None:
        """Run steps until asked to stop. After an error, log it once, and retry with growing pauses."""
        with ExitStack() as tasks:
            try:
                self._run(tasks)
            finally:
                if self._lock is not None:
                    self._lock.release()

    def _run(self, tasks: ExitStack) -> None:
        backoff = Backoff(first_seconds=FIRST_RETRY_SECONDS, max_seconds=MAX_RETRY_SECONDS)
        is_failing = False
        while not self._stop.is_set():
            begun = time.monotonic()
            try:
                if self._become_active(tasks):
                    self.step()
                    self._service.metrics.count_task_success("simulator")
            except (Stopped, PoolClosed):
                return
            # catch every error: otherwise the thread would end while the process continues
            except Exception as error:
                if not is_failing:
                    _log_pause(error)
                is_failing = True
                self._stop.wait(backoff.next_seconds())
                continue
            if is_failing:
                logger.info("the live market continues")
                is_failing = False
                backoff.reset()
            self._stop.wait(begun + self._interval_seconds - time.monotonic())

    def _become_active(self, tasks: ExitStack) -> bool:
        """Try to take the lock, and return whether this process runs the market.

        The metrics of the tasks of the simulator are registered only while this process runs the market.
        """
        is_active = self._lock is None or self._lock.hold()
        if is_active and not self._is_active:
            metrics = self._service.metrics
            tasks.enter_context(metrics.regular_task("simulator", interval_seconds=self._interval_seconds))
            tasks.enter_context(metrics.regular_task("seal_audit_log", interval_seconds=SEAL_SECONDS))
            if self._is_active is not None:
                logger.info("the other simulator has ended; this one runs the market now")
        elif not is_active and self._is_active is not False:
            tasks.close()
            # discard the session: the other simulator changes its rows
            self._session = None
            logger.info("another simulator runs the market; this one waits and takes over when it ends")
        self._is_active = is_active
        return is_active

    def _check_stop(self) -> None:
        """Raise `Stopped` if the simulator was asked to stop. Called between two calls of the service."""
        if self._stop.is_set():
            raise Stopped

    def _open(self, day: date) -> LiveSession:
        for before in self._service.list_leaderboard_dates(limit=1, before=day):
            entries = self._service.close_session(before)
            logger.info("session %s is closed with %d leaderboard entries", before, entries)
        missed = play_missed_sessions(self._service, day, check_stop=self._check_stop)
        if missed:
            logger.info("%d missed sessions were played, the last of %s", len(missed), missed[-1])
        add_newcomers(self._service, day)
        self._service.expire_quests()
        self._maintain()
        market = open_market(self._service, day, self._daily)
        logger.info("session %s is open with %d symbols", day, len(market.symbols))
        return LiveSession(day, market)

    def _maintain(self) -> None:
        """Create the partitions of the next months, and drop audit partitions that are too old.

        Without a partition for its month, a new row would go to the default partition.
        """
        try:
            self._service.maintain_partitions()
            self._service.maintain_audit_log(keep_months=self._audit_keep_months)
        except DatabaseError as error:
            logger.warning("the partitions were not maintained: %s", error)

    def _move(self, session: LiveSession, now: datetime) -> None:
        market = session.market
        volumes = market.move(self._interval_seconds, self._generator)
        # read the prices of 24 hours ago in each step: to read a day's ticks at the start would take long
        before = self._service.list_prices_at([(symbol, now - DAY) for symbol in market.symbols])
        self._service.insert_market_ticks(market.build_ticks(now, volumes, before))
        market.announce(self._service)

    def _open_players(self, session: LiveSession) -> tuple[LivePlayers, LiveQuests]:
        players = open_players(
            self._service,
            session.day,
            market=session.market,
            daily=self._daily,
            check_stop=self._check_stop,
        )
        return players, open_quests(self._service, session.day, players.users, self._check_stop)

    def _do_upkeep(self, players: LivePlayers) -> None:
        """Expire quests, seal the audit log, and discard the session if the list of players has changed.

        Does nothing if the last upkeep was less than UPKEEP_SECONDS ago.
        """
        if time.monotonic() - self._upkeep_done < UPKEEP_SECONDS:
            return
        self._upkeep_done = time.monotonic()
        self._service.expire_quests()
        self._service.seal_audit_log()
        if not players.were_chosen_from(list_players(self._service)):
            logger.info("the players have changed; the session is read again")
            self._session = None


def run_simulator(
    service: EnhancedDatabaseService,
    *,
    interval_seconds: float,
    audit_keep_months: int | None = None,
    lock: ProcessLock | None = None,
) -> None:
    """Run the live market until SIGTERM or SIGINT; call it from the main thread.

    Waits while another process holds `lock`. Does not close the service.
    """
    stop = threading.Event()
    simulator = Simulator(
        service,
        interval_seconds=interval_seconds,
        stop=stop,
        audit_keep_months=audit_keep_months,
        lock=lock,
    )

    # in a separate thread: a call that hangs in the driver must not delay the signal handler
    worker = threading.Thread(target=simulator.run, name="simulator", daemon=True)
    with _collect_signals() as received:
        worker.start()
        # a signal that arrives just before `join` does not interrupt it, so each wait is short
        while worker.is_alive() and not received:
            worker.join(STOP_CHECK_SECONDS)
        stop.set()
        worker.join(STOP_SECONDS)
    logger.info("the live market has stopped")


def _log_pause(error: Exception) -> None:
    if isinstance(error, EchoMarketsError):
        logger.warning("the live market pauses: %s", error)
    else:
        logger.error("the live market pauses on an unexpected error", exc_info=error)


@contextmanager
def _collect_signals() -> Iterator[list[int]]:
    """Yield a list to which the number of each SIGTERM or SIGINT is added during the `with` block."""
    received: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        # not a `threading.Event`: the handler interrupts this thread, which may hold the lock of the event
        received.append(number)

    signals = (signal.SIGTERM, signal.SIGINT)
    previous = [signal.signal(number, handle) for number in signals]
    try:
        yield received
    finally:
        for number, handler in zip(signals, previous, strict=True):
            signal.signal(number, handler)
